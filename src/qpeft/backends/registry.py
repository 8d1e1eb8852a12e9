"""The tables of backends: names exist only where text comes in; each is imported on first use.

A backend of this process evaluates at once; a remote stands behind a job interface and is wrapped by
`qpeft.jobs.open_backend`, which makes it a backend too.
"""

import importlib
import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from qpeft.backends.base import Backend
from qpeft.backends.remote import Remote
from qpeft.errors import ConfigError, did_you_mean

BACKENDS: dict[str, str] = {
    "exact": "qpeft.backends.torch_sim:ExactBackend",
    "reference": "qpeft.backends.reference_sim:ReferenceBackend",
    "noisy": "qpeft.backends.noisy_sim:NoisyBackend",
}

REMOTES: dict[str, str] = {
    "emulator": "qpeft.backends.emulator:EmulatorRemote",
    "origin": "qpeft.backends.origin:OriginRemote",
    "qiskit": "qpeft.backends.qiskit_remote:QiskitRemote",
    "pennylane": "qpeft.backends.pennylane_remote:PennylaneRemote",
    "fake_remote": "qpeft.backends.fake_remote:FakeRemote",
}


def check_backend_name(name: str) -> None:
    """Raise ConfigError with the nearest name if there is no backend or remote of this name."""
    known = {**BACKENDS, **REMOTES}
    if name not in known:
        raise ConfigError(f"Unknown backend '{name}'.{did_you_mean(name, known)}")


def get_backend(name: str, options: Mapping[str, Any] | None = None) -> Backend:
    """Return the backend of this process with this name; the same object for the same options.

    Args:
        name: A key of `BACKENDS`.
        options: Keyword arguments of its class, JSON data.

    Raises:
        ConfigError: There is no such backend or option.

    Example:
        >>> get_backend("exact").capabilities.is_differentiable
        True
    """
    return _make_backend(name, json.dumps(dict(options or {}), sort_keys=True))


def get_remote(name: str, options: Mapping[str, Any] | None = None) -> Remote:
    """Return a new remote.

    Args:
        name: A key of `REMOTES`.
        options: Keyword arguments of its class, JSON data.

    Raises:
        ConfigError: There is no such remote or option.
    """
    check_backend_name(name)
    if name not in REMOTES:
        raise ConfigError(
            f"Backend '{name}' runs in this process, not behind a job interface. "
            f"Those that do: {', '.join(REMOTES)}."
        )
    remote: Remote = _make(name, REMOTES[name], dict(options or {}))
    return remote


@lru_cache(maxsize=64)
def _make_backend(name: str, options: str) -> Backend:
    check_backend_name(name)
    if name not in BACKENDS:
        raise ConfigError(
            f"Backend '{name}' stands behind a job interface; open it with qpeft.jobs.open_backend."
        )
    backend: Backend = _make(name, BACKENDS[name], json.loads(options))
    return backend


def _make(name: str, where: str, options: dict[str, Any]) -> Any:
    module, _, attribute = where.partition(":")
    made: Any = getattr(importlib.import_module(module), attribute)
    known = _option_names(made)
    for option in options:
        if "key" in option.split("_") or "token" in option.split("_"):
            raise ConfigError(
                f"backend_options: '{option}' would be saved with the adapter. Keys come from the "
                f"environment only; see the documentation of backend '{name}'."
            )
        if option not in known:
            hint = did_you_mean(option, known) if known else " It takes none."
            raise ConfigError(f"Backend '{name}' has no option '{option}'.{hint}")
    return made(**options)


def _option_names(made: Any) -> list[str]:
    """Return the keyword arguments of a class that text can give; a clock, for one, it cannot."""
    parameters = inspect.signature(made).parameters.values()
    return [p.name for p in parameters if "Callable" not in str(p.annotation)]
