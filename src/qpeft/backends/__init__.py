"""Who evaluates a circuit: simulators of this process, and machines behind a job interface."""

from qpeft.backends.base import Backend, BoundCircuit, Capabilities
from qpeft.backends.registry import (
    BACKENDS,
    REMOTES,
    check_backend_name,
    get_backend,
    get_remote,
)
from qpeft.backends.remote import CircuitBatch, Remote

__all__ = [
    "BACKENDS",
    "REMOTES",
    "Backend",
    "BoundCircuit",
    "Capabilities",
    "CircuitBatch",
    "Remote",
    "check_backend_name",
    "get_backend",
    "get_remote",
]
