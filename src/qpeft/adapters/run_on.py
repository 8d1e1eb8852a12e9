"""Where the circuits of an adapter run: no part of what was trained, so it can be changed at any time."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from qpeft.adapters.config import QthaConfig
from qpeft.adapters.qtha import QthaAdapter, QthaLinear
from qpeft.errors import ConfigError


def run_on(
    model: nn.Module,
    backend: str,
    *,
    options: Mapping[str, Any] | None = None,
    layers: Sequence[int] | None = None,
    shots: int | None = None,
    gradient: str = "auto",
    angle_gradient: str = "parameter_shift",
    surrogate_weight: int | None = None,
    adapter_name: str = "default",
) -> int:
    """Let an adapter's circuits run on another backend; trained weights stay as they are.

    Args:
        model: A PEFT model with a QTHA adapter.
        backend: A key of `qpeft.backends.BACKENDS` or `REMOTES`.
        options: Keyword arguments of the backend.
        layers: Indices of the decoder layers whose circuits run there, the others on the exact simulator.
        shots: Of each circuit; None for exact values.
        gradient: As in `QthaConfig`.
        angle_gradient: As in `QthaConfig`.
        surrogate_weight: As in `QthaConfig`.
        adapter_name: Which adapter.

    Returns:
        The number of adapted layers whose circuits run on `backend` now.

    Raises:
        ConfigError: There is no such adapter, or the options do not fit it; nothing was changed.
    """
    config = _config_of(model, adapter_name)
    chosen = {
        "backend": backend,
        "backend_options": dict(options) if options else None,
        "backend_layers": None if layers is None else list(layers),
        "shots": shots,
        "gradient": gradient,
        "angle_gradient": angle_gradient,
        "surrogate_weight": surrogate_weight,
    }
    wanted = QthaConfig(**{**config.to_dict(), **chosen})
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QthaLinear) and adapter_name in module.adapters
    }
    for name, module in found.items():
        adapter = module.adapters[adapter_name]
        if isinstance(adapter, QthaAdapter):
            adapter.run_on(wanted.evaluation_of(name))
    for field, value in chosen.items():
        setattr(config, field, value)
    return sum(wanted.evaluation_of(name).name == backend for name in found)


def _config_of(model: nn.Module, adapter_name: str) -> QthaConfig:
    configs = getattr(model, "peft_config", {})
    config = configs.get(adapter_name)
    if not isinstance(config, QthaConfig):
        there = ", ".join(n for n, c in configs.items() if isinstance(c, QthaConfig)) or "none"
        raise ConfigError(f"The model has no QTHA adapter '{adapter_name}'. It has: {there}.")
    return config
