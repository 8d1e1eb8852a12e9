"""A trained adapter with its circuits replaced by their measured polynomials: classical, same outputs.

    qtha_adapter.core.angles (groups, n_weights)  ->  qtha_adapter.core.coefficients (groups, (2 L + 1)^n, n)

Works on the adapter's folder alone, without the base model. What was measured on a backend, noise and shots
included, IS the layer that was measured, so nothing is lost; only a truncated surrogate is an approximation.
"""

import json
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from qpeft.adapters.config import QthaConfig
from qpeft.adapters.qtha import build_core
from qpeft.errors import ConfigError
from qpeft.layers import FourierCore, QuantumLayer
from qpeft.layers.evaluation import Evaluation
from qpeft.layers.surrogate import Surrogate, measure_surrogates, truncation_error

ANGLES, COEFFICIENTS = ".core.angles", ".core.coefficients"
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class ExportResult:
    """What an export came to.

    Args:
        folder: The new adapter's folder.
        n_layers: Adapted layers whose circuit was replaced.
        n_circuits: Circuits that were evaluated for it.
        is_exact: Whether every polynomial is its whole circuit, not a truncated one.
        disagreement: Largest difference between a measured layer and its replacement over random inputs.
        truncation_error: Root mean square difference between circuits and truncated polynomials over random
            inputs, the worst layer's; 0 where the export is exact.
    """

    folder: Path
    n_layers: int
    n_circuits: int
    is_exact: bool
    disagreement: float
    truncation_error: float


def export_surrogate(
    source: Path, target: Path, evaluation: Evaluation | None = None, *, overwrite: bool = False
) -> ExportResult:
    """Write a purely classical adapter that does what a trained one does on its backend.

    Args:
        source: The folder of a QTHA adapter.
        target: The folder to write; a PEFT adapter that loads like any other.
        evaluation: Where to measure the circuits; by default where the adapter's configuration says.
        overwrite: Replace a folder that is there.

    Raises:
        ConfigError: The source is no QTHA adapter with circuits, a circuit has too many terms, or the target
            exists.
    """
    source, target = source.absolute(), target.absolute()
    config, weights = _read(source)
    _check_target(source, target, overwrite=overwrite)
    layers = _layers_of(config, weights, evaluation)
    converted = {name: tensor for name, tensor in weights.items() if not name.endswith(ANGLES)}
    n_circuits, is_exact, disagreement, lost = 0, True, 0.0, 0.0
    for group in _by_shape(layers).values():
        surrogates = _measure(group)
        for (name, layer), surrogate in zip(group.items(), surrogates, strict=True):
            core = _replacement(config, layer, surrogate)
            converted[name.removesuffix(ANGLES) + COEFFICIENTS] = core.coefficients.detach()
            n_circuits += layer.groups * len(surrogate.design.points)
            is_exact &= surrogate.design.is_exact
            disagreement = max(disagreement, _disagreement(layer, surrogate, core))
            if not surrogate.design.is_exact:
                lost = max(lost, _truncation(layer, surrogate))
    weight = evaluation.surrogate_weight if evaluation else config.surrogate_weight
    _write(config, None if is_exact else weight, converted, target)
    return ExportResult(target, len(layers), n_circuits, is_exact, disagreement, lost)


def _read(source: Path) -> tuple[QthaConfig, dict[str, Tensor]]:
    path = source / CONFIG_FILE
    if not path.exists():
        raise ConfigError(
            f"{source} is no adapter: it has no {CONFIG_FILE}. Give an adapter's folder."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}. Copy the adapter again.") from error
    if raw.get("peft_type") != "QTHA":
        raise ConfigError(
            f"{source} holds a {raw.get('peft_type')} adapter; only QTHA has circuits."
        )
    config = QthaConfig.from_pretrained(str(source))
    try:
        weights = load_file(source / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source / WEIGHTS_FILE} cannot be read: {reason}") from error
    if config.core not in ("quantum", "product", "frozen"):
        raise ConfigError(
            f"The adapter in {source} has core='{config.core}', which is classical already: there is "
            f"nothing to export."
        )
    return config, weights


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse to write into anything but a new folder, or, when told, over another adapter."""
    if target == source or target in source.parents:
        raise ConfigError(f"{target} holds the adapter that is exported. Choose another folder.")
    if not target.exists():
        return
    if not overwrite:
        raise ConfigError(
            f"{target} exists. Choose another folder, or replace it with --overwrite."
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / CONFIG_FILE).exists()):
        raise ConfigError(f"{target} is not an adapter's folder and stays. Choose another one.")


def _layers_of(
    config: QthaConfig, weights: dict[str, Tensor], evaluation: Evaluation | None
) -> dict[str, QuantumLayer]:
    """Return the quantum layer behind each tensor of angles, by the tensor's name."""
    found: dict[str, QuantumLayer] = {}
    weight = evaluation.surrogate_weight if evaluation else config.surrogate_weight
    for name in sorted(key for key in weights if key.endswith(ANGLES)):
        module = name.split(".qtha_adapter")[0].removeprefix("base_model.model.")
        where = _as_surrogate(evaluation or config.evaluation_of(module), weight)
        core = build_core(config, config.rank_of(module), where)
        if not isinstance(core, QuantumLayer):
            raise AssertionError(f"{name} belongs to a {type(core).__name__}")
        core.angles.data.copy_(weights[name])
        found[name] = core.requires_grad_(False)
    return found


def _as_surrogate(evaluation: Evaluation, weight: int | None) -> Evaluation:
    return replace(evaluation, gradient="surrogate", surrogate_weight=weight)


def _by_shape(layers: dict[str, QuantumLayer]) -> dict[str, dict[str, QuantumLayer]]:
    groups: dict[str, dict[str, QuantumLayer]] = defaultdict(dict)
    for name, layer in layers.items():
        groups[repr(layer)][name] = layer
    return groups


def _measure(group: dict[str, QuantumLayer]) -> list[Surrogate]:
    """Return the surrogates of layers of one shape, measured as one batch."""
    first = next(iter(group.values()))
    evaluation = first.evaluation
    angles = torch.stack([layer.angles for layer in group.values()])
    return measure_surrogates(
        evaluation.open(),
        first.circuit,
        first.observables,
        angles,
        evaluation.angle_gradient,
        evaluation.surrogate_weight,
    )


def _replacement(config: QthaConfig, layer: QuantumLayer, surrogate: Surrogate) -> FourierCore:
    width = layer.groups * layer.circuit.n_qubits
    weight = None if surrogate.design.is_exact else layer.evaluation.surrogate_weight
    n_uploads = surrogate.design.n_uploads
    core = FourierCore(width, n_uploads, layer.groups, config.angle_map, weight)
    core.coefficients.data.copy_(surrogate.coefficients)
    return core


def _disagreement(layer: QuantumLayer, surrogate: Surrogate, core: FourierCore) -> float:
    generator = torch.Generator().manual_seed(0)
    width = layer.groups * layer.circuit.n_qubits
    inputs = 3 * torch.randn(64, width, generator=generator)
    with torch.no_grad():
        return float((layer.evaluate(surrogate, inputs) - core(inputs)).abs().max())


def _truncation(layer: QuantumLayer, surrogate: Surrogate) -> float:
    backend = layer.evaluation.open()
    return truncation_error(layer.circuit, layer.observables, surrogate, backend, layer.angles)


def _write(
    config: QthaConfig, weight: int | None, weights: dict[str, Tensor], target: Path
) -> None:
    """Write the new folder beside its place and rename it, so that it is there whole or not at all."""
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    save_file(weights, partial / WEIGHTS_FILE, metadata={"format": "pt"})
    exported = QthaConfig(
        **{
            **config.to_dict(),
            "core": "fourier",
            "backend": "exact",
            "backend_options": None,
            "backend_layers": None,
            "shots": None,
            "gradient": "auto",
            "surrogate_weight": weight,
        }
    )
    exported.save_pretrained(str(partial))
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    shutil.rmtree(old, ignore_errors=True)
