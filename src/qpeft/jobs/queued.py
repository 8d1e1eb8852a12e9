"""A remote as a backend: layers need not know that their circuits become jobs."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from qpeft.backends.base import BoundCircuit, Capabilities, check_fit, check_inputs
from qpeft.backends.remote import CircuitBatch
from qpeft.circuits import Circuit, ZProduct
from qpeft.errors import ConfigError
from qpeft.jobs.runner import Runner
from qpeft.types import Expectations, Inputs, Weights


class QueuedBackend:
    """Sends every batch of circuits through the journal to a remote and waits for the result.

    Args:
        runner: Sends the jobs, once each.
        shots: Of each circuit; None for exact probabilities, where the remote has them.

    Raises:
        ConfigError: The remote does not take this number of shots.
    """

    def __init__(self, runner: Runner, shots: int | None):
        limits = runner.remote.limits
        self.name = runner.remote.name
        if shots is None and not limits.has_exact_results:
            raise ConfigError(
                f"Backend '{self.name}' needs a number of shots, for example shots=1000."
            )
        if shots is not None and limits.max_shots is not None and shots > limits.max_shots:
            raise ConfigError(
                f"Backend '{self.name}' takes at most {limits.max_shots} shots; got shots={shots}."
            )
        self.runner, self.shots = runner, shots
        self.capabilities = Capabilities(
            is_exact=False, is_differentiable=False, max_qubits=limits.max_qubits
        )

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Weights
    ) -> BoundCircuit:
        """Bind a circuit to weights (*blocks, n_weights); every call sends one batch.

        Raises:
            ConfigError: The circuit is too large for the remote, or the weights do not fit it.
        """
        check_fit(self, circuit, weights)

        def evaluate(inputs: Inputs) -> Expectations:
            check_inputs(circuit, inputs)
            rows = inputs.detach().to("cpu", torch.float64)
            fixed = weights.detach().to("cpu", torch.float64)[..., None, :]
            fixed = fixed.expand(*rows.shape[:-1], circuit.n_weights)
            angles = torch.cat([rows, fixed], dim=-1)
            values = self._run(circuit, observables, angles.flatten(0, -2))
            dtype = torch.promote_types(inputs.dtype, weights.dtype)
            values = values.to(inputs.device, torch.promote_types(dtype, torch.float32))
            return values.unflatten(0, inputs.shape[:-1])

        return evaluate

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind to each entry of weights (n_entries, *blocks, n_weights)."""
        return [self.bind(circuit, observables, entry) for entry in weights]

    def _run(self, circuit: Circuit, observables: Sequence[ZProduct], angles: Tensor) -> Tensor:
        """Return (n_circuits, n_observables) for angles (n_circuits, n_angles)."""
        if len(angles) == 0:
            return angles.new_empty(0, len(observables))
        found = self.runner.run(CircuitBatch(circuit, angles.numpy(), self.shots))
        outcomes = torch.from_numpy(found)
        signs = [
            [float(o.sign(state, circuit.n_qubits)) for o in observables]
            for state in range(2**circuit.n_qubits)
        ]
        totals = outcomes.sum(dim=1, keepdim=True)
        return (outcomes @ torch.tensor(signs, dtype=torch.float64)) / totals

    # A model is copied with its layers; the way to a machine is not.
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
