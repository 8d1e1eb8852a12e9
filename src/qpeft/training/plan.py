"""What a run will train and cost, counted before the first step.

Parameters are counted on a copy of the model without memory (torch's meta device), so the numbers
are those of the very modules that will be trained, not of a formula.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from qpeft.errors import ConfigError, did_you_mean
from qpeft.layers import QuantumLayer
from qpeft.recipe import Recipe, TrainingSpec
from qpeft.training.adapting import add_adapter
from qpeft.training.encoding import EncodedSplit


@dataclass(frozen=True)
class AdapterCount:
    """How large an adapter is.

    Args:
        n_trainable: Trainable parameters.
        n_circuit_angles: Those of them that are angles of circuits.
        n_modules: Layers that are adapted.
        n_lora: Parameters of LoRA at the same rank on the same layers; None without a rank.
        n_qubits: Qubits of the largest circuit; 0 without circuits.
        n_circuits: Circuits evaluated for one token in one pass through the model.
    """

    n_trainable: int
    n_circuit_angles: int
    n_modules: int
    n_lora: int | None
    n_qubits: int
    n_circuits: int

    @property
    def saving(self) -> float | None:
        """The share of LoRA's parameters that this adapter does without."""
        return None if not self.n_lora else 1 - self.n_trainable / self.n_lora


@dataclass(frozen=True)
class ArmPlan:
    """One adapter of a run.

    Args:
        name: Its label in tables and folders.
        method: The PEFT method.
        count: Its size.
        memory: Expected peak memory of its training, in bytes; see `expected_memory`.
    """

    name: str
    method: str
    count: AdapterCount
    memory: int


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Args:
        base_name: The base model.
        n_base: Its parameters.
        arms: The adapter and its baselines, in order of training.
        n_examples: Examples of each split, dropped ones left out.
        n_dropped: Training examples left out because they are too long.
        n_truncated: Training examples that were cut.
        n_steps: Optimiser steps of each arm.
        n_tokens: Mean number of tokens of an optimiser step, without padding.
        memory_note: How `ArmPlan.memory` is estimated.
    """

    base_name: str
    n_base: int
    arms: tuple[ArmPlan, ...]
    n_examples: Mapping[str, int]
    n_dropped: int
    n_truncated: int
    n_steps: int
    n_tokens: int
    memory_note: str = (
        "weights, 16 bytes a trainable parameter, and a rough estimate of the activations; "
        "Python and its libraries take about 1 GiB more"
    )


def make_plan(
    recipe: Recipe,
    model: PreTrainedModel,
    splits: Mapping[str, EncodedSplit],
    configs: Mapping[str, PeftConfig],
) -> Plan:
    """Return what training the recipe's adapters on the encoded data will do.

    Args:
        recipe: The resolved recipe.
        model: The base model.
        splits: The encoded parts by name; `train` at least.
        configs: PEFT configuration of each arm by its label, in order.

    Raises:
        ConfigError: An adapter's target modules match no layer of the model.
    """
    train, spec = splits["train"], recipe.training
    methods = {arm.label: arm.method for arm in (recipe.adapter, *recipe.baselines)}
    arms = []
    for name, config in configs.items():
        count = count_adapter(model, config)
        memory = expected_memory(model, count.n_trainable, spec, train.longest)
        arms.append(ArmPlan(name, methods[name], count, memory))
    rows = spec.batch_size * spec.gradient_accumulation * PartialState().num_processes
    return Plan(
        base_name=recipe.model.name,
        n_base=model.num_parameters(),
        arms=tuple(arms),
        n_examples={name: len(split.rows) for name, split in splits.items()},
        n_dropped=train.n_dropped,
        n_truncated=train.n_truncated,
        n_steps=count_steps(spec, len(train.rows), PartialState().num_processes),
        n_tokens=round(rows * train.mean_length),
    )


def count_steps(spec: TrainingSpec, n_rows: int, n_processes: int = 1) -> int:
    """Return the number of optimiser steps of a training run over `n_rows` examples."""
    if spec.steps is not None:
        return spec.steps
    batches = math.ceil(n_rows / (spec.batch_size * n_processes))
    per_epoch = max(math.ceil(batches / spec.gradient_accumulation), 1)
    return math.ceil(per_epoch * (spec.epochs or 0))


def count_adapter(model: PreTrainedModel, config: PeftConfig) -> AdapterCount:
    """Return the size of an adapter on a model, without touching the model.

    Raises:
        ConfigError: The target modules match no layer of the model.
    """
    return count_adapted(adapted_copy(model, config))


def adapted_copy(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """Return a copy of the model with an adapter, without memory where the method allows it.

    Raises:
        ConfigError: The target modules match no layer of the model.
    """
    check_targets(model, config)
    config = copy.deepcopy(config)  # PEFT fills target modules in
    try:
        return add_adapter(_without_memory(model), config, low_cpu_mem_usage=True)
    except NotImplementedError:
        # A few methods read the base weights when they are made, so they need real ones.
        return add_adapter(copy.deepcopy(model), config)


def count_adapted(model: PeftModel) -> AdapterCount:
    """Return the size of the adapter that a model carries."""
    config = model.peft_config[model.active_adapter]
    layers = {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    circuits = [m for m in model.modules() if isinstance(m, QuantumLayer)]
    angles = [m.angles for m in circuits if m.angles.requires_grad]
    return AdapterCount(
        n_trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        n_circuit_angles=sum(a.numel() for a in angles),
        n_modules=len(layers),
        n_lora=_lora_parameters(layers, config),
        n_qubits=max((m.circuit.n_qubits for m in circuits), default=0),
        n_circuits=sum(m.groups for m in circuits),
    )


def check_targets(model: nn.Module, config: PeftConfig) -> None:
    """Raise if an adapter's list of target modules names something the model does not have.

    Raises:
        ConfigError: A name ends no module's name; says the nearest one.
    """
    for option in ("target_modules", "modules_to_save"):
        targets = getattr(config, option, None)
        if not targets or isinstance(targets, str):
            continue
        names = [name for name, _ in model.named_modules() if name]
        known = {name.split(".")[-1] for name in names if not name.split(".")[-1].isdigit()}
        for target in sorted(targets):
            if not any(name == target or name.endswith(f".{target}") for name in names):
                hint = did_you_mean(target, known)
                raise ConfigError(f"{option}: no module of the model is called '{target}'.{hint}")


def expected_memory(
    model: PreTrainedModel, n_trainable: int, spec: TrainingSpec, longest: int
) -> int:
    """Return a rough peak of the memory of training, in bytes.

    The weights as they are; 16 bytes for each trainable parameter (itself, its gradient and
    Adam's two moments, in float32); and for each token of a batch what the backward pass needs:
    about 16 hidden and 4 feed-forward vectors a layer and the attention scores, or one hidden
    vector a layer with gradient checkpointing. Logits come on top, for every token in the worst
    case. Measured growths were within a factor of two.
    """
    config: Any = model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", 0))
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    n_layers = int(getattr(config, "num_hidden_layers", 0))
    heads = int(getattr(config, "num_attention_heads", 0))
    width = hidden if spec.gradient_checkpointing else 16 * hidden + 4 * inner + 2 * heads * longest
    tokens = spec.batch_size * (spec.max_length if spec.packing else longest)
    itemsize = next(model.parameters()).dtype.itemsize
    activations = tokens * n_layers * width * itemsize
    logits = tokens * int(getattr(config, "vocab_size", 0)) * 4
    return model.get_memory_footprint() + 16 * n_trainable + activations + logits


def _without_memory(model: PreTrainedModel) -> PreTrainedModel:
    # deepcopy takes what the memo holds for an object instead of copying it.
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _lora_parameters(layers: Mapping[str, Any], config: PeftConfig) -> int | None:
    rank = getattr(config, "r", None)
    if not isinstance(rank, int) or rank < 1:
        return None
    total = 0
    for name, layer in layers.items():
        widths = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
        if widths[0] is None or widths[1] is None:
            return None
        total += _rank_of(name, config, rank) * (widths[0] + widths[1])
    return total


def _rank_of(name: str, config: PeftConfig, rank: int) -> int:
    from peft.utils.other import get_pattern_key

    patterns = getattr(config, "rank_pattern", None) or {}
    return int(patterns.get(get_pattern_key(list(patterns), name), rank))
