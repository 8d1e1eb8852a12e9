"""Who evaluates a circuit: the one interface behind which every simulator and machine stands.

A backend binds a circuit to one set of weights and gives back a function of the inputs, because the
weights are the same for all rows: what depends on them alone is done once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from qpeft.circuits import Circuit, ZProduct
from qpeft.errors import ConfigError
from qpeft.types import Expectations, Inputs, Weights

BoundCircuit = Callable[[Inputs], Expectations]
"""A circuit with its weights: (*blocks, rows, n_inputs) -> (*blocks, rows, n_observables)."""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do; asked, never guessed.

    Args:
        is_exact: Expectation values carry neither noise nor shot error.
        is_differentiable: Autograd reaches inputs and weights through it.
        max_qubits: Largest circuit it takes.
    """

    is_exact: bool
    is_differentiable: bool
    max_qubits: int


@runtime_checkable
class Backend(Protocol):
    """Evaluates circuits."""

    name: str
    capabilities: Capabilities

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Weights
    ) -> BoundCircuit:
        """Bind a circuit to weights of shape (*blocks, n_weights).

        Raises:
            ConfigError: The circuit is too large for this backend or the weights do not fit it.
        """
        ...

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind to each entry of weights (n_entries, *blocks, n_weights), together where it helps."""
        ...


def check_size(backend: Backend, circuit: Circuit) -> None:
    """Raise ConfigError if a circuit is too large for a backend."""
    limit = backend.capabilities.max_qubits
    if circuit.n_qubits > limit:
        raise ConfigError(
            f"Backend '{backend.name}' takes at most {limit} qubits; circuit '{circuit.name}' has "
            f"{circuit.n_qubits}. Use a smaller rank, or groups so that each block fits."
        )


def check_fit(backend: Backend, circuit: Circuit, weights: Tensor) -> None:
    """Raise ConfigError if a circuit is too large for a backend or the weights do not fit it."""
    check_size(backend, circuit)
    if weights.shape[-1] != circuit.n_weights:
        raise ConfigError(
            f"Circuit '{circuit.name}' has {circuit.n_weights} weights; got a tensor of shape "
            f"{tuple(weights.shape)}, whose last dimension must be that number."
        )


def check_inputs(circuit: Circuit, inputs: Tensor) -> None:
    """Raise ConfigError if the last dimension of inputs is not the circuit's number of inputs."""
    if inputs.shape[-1] != circuit.n_inputs:
        raise ConfigError(
            f"Circuit '{circuit.name}' reads {circuit.n_inputs} inputs a row; got a tensor of "
            f"shape {tuple(inputs.shape)}."
        )
