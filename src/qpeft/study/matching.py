"""LoRA with as many parameters as another arm: a rank for each layer, chosen on the model's real shapes."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from qpeft.errors import StudyError
from qpeft.recipe import AdapterSpec
from qpeft.training.methods import build_adapter_config
from qpeft.training.plan import adapted_copy

TOLERANCE = 0.01
"""How far the matched number of parameters may lie above the target, as a share of it."""


def match_lora(
    model: PreTrainedModel, adapter: AdapterSpec, n_target: int, where: str = "adapter"
) -> AdapterSpec:
    """Return LoRA whose number of trainable parameters is as near as can be to a target.

    One rank for all layers as far as it goes; what is left over raises the rank of single layers by one, spread
    evenly over the model. The update has the same strength in every layer, alpha / r = 1, as PEFT's default has.

    Args:
        model: The base model.
        adapter: LoRA and its options, without ranks.
        n_target: The number of parameters to match; passed by at most 1 %.
        where: The adapter's key in the study file, for messages.

    Raises:
        StudyError: Even rank 1 in every layer is too much.
    """
    costs = _costs(model, adapter, where)
    most = n_target * (1 + TOLERANCE)
    step = sum(costs.values())
    rank = int(most // step)
    if rank < 1:
        raise StudyError(
            f"{where}: LoRA of rank 1 has {step:,} parameters on these layers, but the arm to match has "
            f"{n_target:,}. Name fewer target_modules, or match a larger arm."
        )
    raised = _raised(costs, rank * step, n_target, most)
    options = {**adapter.options, "r": rank, "lora_alpha": rank}
    if raised:
        options["rank_pattern"] = dict.fromkeys(raised, rank + 1)
        options["alpha_pattern"] = dict.fromkeys(raised, rank + 1)
    return AdapterSpec(method=adapter.method, name=adapter.name, options=options)


def _costs(model: PreTrainedModel, adapter: AdapterSpec, where: str) -> dict[str, int]:
    """Return by layer's name the parameters that one more rank costs there."""
    config = build_adapter_config(adapter, where)
    adapted = adapted_copy(model, config)
    layers: dict[str, Any] = {
        name.removeprefix("base_model.model."): module
        for name, module in adapted.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    return {name: layer.in_features + layer.out_features for name, layer in layers.items()}


def _raised(costs: dict[str, int], n_now: int, n_target: int, most: float) -> list[str]:
    """Return the layers whose rank is one higher, so that the sum comes as near as can be to the target."""
    raised = []
    for name in _spread(list(costs)):
        if n_now + costs[name] <= n_target:
            n_now += costs[name]
            raised.append(name)
    # One layer more may be nearer, from above.
    over = [name for name in costs if name not in raised and n_now + costs[name] <= most]
    nearest = min(over, key=lambda name: abs(n_now + costs[name] - n_target), default=None)
    if nearest is not None and abs(n_now + costs[nearest] - n_target) < n_target - n_now:
        raised.append(nearest)
    return raised


def _spread(names: list[str]) -> list[str]:
    # Steps of the golden ratio visit the layers evenly, wherever one stops.
    golden = (5**0.5 - 1) / 2
    order = sorted(range(len(names)), key=lambda i: (i * golden) % 1)
    return [names[i] for i in order]
