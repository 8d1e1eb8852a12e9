"""The table of backends: names exist only where text comes in; each is imported on first use."""

import importlib
from functools import cache

from qpeft.backends.base import Backend
from qpeft.errors import ConfigError, did_you_mean

BACKENDS: dict[str, str] = {
    "exact": "qpeft.backends.torch_sim:ExactBackend",
    "reference": "qpeft.backends.reference_sim:ReferenceBackend",
}


def check_backend_name(name: str) -> None:
    """Raise ConfigError with the nearest name if there is no backend of this name."""
    if name not in BACKENDS:
        raise ConfigError(f"Unknown backend '{name}'.{did_you_mean(name, BACKENDS)}")


@cache
def get_backend(name: str) -> Backend:
    """Return the backend of this name.

    Raises:
        ConfigError: There is no such backend.

    Example:
        >>> get_backend("exact").capabilities.is_differentiable
        True
    """
    check_backend_name(name)
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)()
    return backend
