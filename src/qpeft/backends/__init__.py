"""Who evaluates a circuit: simulators now, machines behind the same interface."""

from qpeft.backends.base import Backend, BoundCircuit, Capabilities
from qpeft.backends.registry import BACKENDS, check_backend_name, get_backend

__all__ = [
    "BACKENDS",
    "Backend",
    "BoundCircuit",
    "Capabilities",
    "check_backend_name",
    "get_backend",
]
