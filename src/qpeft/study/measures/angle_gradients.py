"""How much gradient reaches the angles of the circuits (barren plateaus: McClean et al., arXiv 1803.11173).

Two points: the trained adapter, and a fresh one. A fresh adapter is neutral, its last core zero, so that nothing
but that core gets a gradient in the very first step; the fresh point here therefore has the last core drawn at
random too (`init_weights=False`).
"""

import math
import random
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor

from qpeft.circuits import Weight
from qpeft.layers import QuantumLayer
from qpeft.study.measures.subject import (
    Subject,
    circuits_of,
    layer_index,
    left_out,
    qtha_config,
)
from qpeft.training.adapting import add_adapter, quiet_libraries, remove_adapter
from qpeft.training.encoding import encode_split, pad_token_id
from qpeft.training.losses import IGNORED, completion_loss_sum
from qpeft.training.methods import build_adapter_config


def measure_angle_gradients(subject: Subject) -> dict[str, Any]:
    """Return the gradients of the angles on one batch of training data, trained and fresh.

    The adapter of the subject is taken off and put on again, with the weights that were saved.

    Returns:
        The keys in the table of `qpeft.study.measures`, or why it was left out.
    """
    if not subject.spec.has_gradients:
        return left_out("has_gradients is false")
    circuits = circuits_of(subject.model).values()
    if not circuits:
        return left_out("the arm has no circuits")
    if not any(isinstance(core.angles, torch.nn.Parameter) for core in circuits):
        return left_out("the arm does not train its angles")
    ids, mask, labels = training_batch(subject)
    _put_fresh_adapter(subject)
    fresh = _gradients(subject.model, ids, mask, labels)
    with quiet_libraries():
        weights = load_peft_weights(str(subject.folder), device=str(subject.model.device))
        set_peft_model_state_dict(subject.model, weights)
    trained = _gradients(subject.model, ids, mask, labels)
    return {"n_examples": len(ids), "trained": trained, "fresh": fresh}


def training_batch(subject: Subject) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids, attention mask and labels (examples, tokens) of one training batch, chosen by the seed."""
    training = subject.recipe.training
    rows = encode_split(subject.tokenizer, subject.splits.train, training).rows
    n = min(training.batch_size, len(rows))
    chosen = random.Random(subject.spec.seed).sample(rows, n)
    width = max(len(prompt) + len(completion) for prompt, completion in chosen)
    pad, is_masked = pad_token_id(subject.tokenizer), training.loss_on == "completion"
    ids, mask, labels = [], [], []
    for prompt, completion in chosen:
        n_pad = width - len(prompt) - len(completion)
        ids.append(prompt + completion + [pad] * n_pad)
        mask.append([1] * (width - n_pad) + [0] * n_pad)
        scored = [IGNORED] * len(prompt) if is_masked else prompt
        labels.append(scored + completion + [IGNORED] * n_pad)
    device = subject.model.device
    made = [torch.tensor(values, device=device) for values in (ids, mask, labels)]
    return made[0], made[1], made[2]


def _put_fresh_adapter(subject: Subject) -> None:
    known = qtha_config(subject.model)
    config: Any = build_adapter_config(subject.adapter)
    config.init_weights = False
    if known is not None:
        # Where the circuits run was decided when the subject was loaded.
        names = ("backend", "backend_options", "backend_layers", "shots", "gradient")
        for name in (*names, "angle_gradient", "surrogate_weight"):
            setattr(config, name, getattr(known, name))
    base = remove_adapter(subject.model)
    with torch.random.fork_rng():
        torch.manual_seed(subject.spec.seed)
        subject.model = add_adapter(base, config).eval()


def _gradients(model: PeftModel, ids: Tensor, mask: Tensor, labels: Tensor) -> dict[str, Any]:
    model.zero_grad(set_to_none=True)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    loss, n_tokens = completion_loss_sum(model, inputs, labels)
    (loss / n_tokens).backward()
    circuits = circuits_of(model)
    angles = {id(core.angles) for core in circuits.values()}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in angles]
    modules = [
        {
            "module": name,
            "layer": layer_index(name),
            "n_qubits": core.circuit.n_qubits,
            "n_angles": core.angles.numel(),
            "rms": _rms([_gradient_of(core.angles)]),
        }
        for name, core in circuits.items()
    ]
    by_layer = {
        str(index): _rms(
            [_gradient_of(c.angles) for n, c in circuits.items() if layer_index(n) == index]
        )
        for index in sorted({layer_index(name) for name in circuits})
    }
    of_angles = [_gradient_of(core.angles) for core in circuits.values()]
    of_others = [_gradient_of(parameter) for parameter in others]
    result = {
        "loss": float(loss.detach() / n_tokens),
        "norm_angles": _norm(of_angles),
        "norm_others": _norm(of_others),
        "rms_angles": _rms(of_angles),
        "rms_others": _rms(of_others),
        "ratio": _rms(of_angles) / _rms(of_others) if _rms(of_others) else None,
        "by_layer": by_layer,
        "by_angle": _by_angle(list(circuits.values())),
        "modules": modules,
    }
    model.zero_grad(set_to_none=True)
    return result


def _by_angle(cores: list[QuantumLayer]) -> list[dict[str, Any]]:
    """Return the root mean square over groups and modules for each angle, where all circuits are alike."""
    circuit = cores[0].circuit
    if any(core.circuit != circuit for core in cores):
        return []
    gradients = torch.cat([_gradient_of(core.angles) for core in cores])  # (circuits, n_weights)
    rms = gradients.square().mean(0).sqrt().tolist()
    weighted = [gate for gate in circuit.gates if isinstance(gate.angle, Weight)]
    return [
        {"gate": gate.name, "qubits": list(gate.qubits), "rms": value}
        for gate, value in zip(weighted, rms, strict=True)
    ]


def _gradient_of(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    zero = torch.zeros_like(parameter, dtype=torch.float64)
    return zero if gradient is None else gradient.double()


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))


def _rms(tensors: list[Tensor]) -> float:
    n = sum(t.numel() for t in tensors)
    return _norm(tensors) / math.sqrt(n) if n else 0.0
