"""What noise and finitely many shots do to a trained adapter: accuracy and loss with its circuits elsewhere.

Error rates: the circuits run on the noisy simulator of a chip, all its error rates multiplied by a factor; 0 is
the exact simulator.

Shots: every circuit that a chip would run is run with so many shots. Where the circuit has a small surrogate these
are the circuits of the surrogate (81 for 4 qubits, drawn once for the whole evaluation, as a chip would measure
them), otherwise one circuit for each token. The mean of the read bits of a qubit is drawn from its binomial
distribution; that bits of different qubits come from the same shots, and so are correlated, is left out, which no
single read-out notices.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.backends import Backend, BoundCircuit, get_backend
from qpeft.backends.base import Capabilities
from qpeft.circuits import Circuit, ZProduct
from qpeft.layers import Evaluation, QuantumLayer
from qpeft.layers.surrogate import n_surrogate_circuits
from qpeft.study.measures.branch import compared
from qpeft.study.measures.subject import Subject, circuits_of, left_out, qtha_adapters

MAX_SURROGATE = 1000
"""Circuits that a surrogate may take; a chip would not measure larger ones, so each token has its own circuit."""


class SampledBackend:
    """Another backend's expectation values of single qubits, as so many shots would show them.

    Args:
        inner: Gives the true expectation values.
        shots: Of each circuit.
        seed: Of the outcomes.
    """

    name = "sampled"

    def __init__(self, inner: Backend, shots: int, seed: int):
        self.inner, self.shots = inner, shots
        self.capabilities = Capabilities(
            is_exact=False, is_differentiable=False, max_qubits=inner.capabilities.max_qubits
        )
        self._generator = torch.Generator().manual_seed(seed)

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> BoundCircuit:
        """Bind a circuit to weights of shape (*blocks, n_weights)."""
        return self._sampled(self.inner.bind(circuit, observables, weights))

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind to each entry of weights (n_entries, *blocks, n_weights)."""
        bound = self.inner.bind_each(circuit, observables, weights)
        return [self._sampled(each) for each in bound]

    def _sampled(self, bound: BoundCircuit) -> BoundCircuit:
        def evaluate(inputs: Tensor) -> Tensor:
            true = bound(inputs)
            chance = ((1 + true.double()) / 2).clamp(0, 1).cpu()
            counts = torch.binomial(
                torch.full_like(chance, self.shots), chance, generator=self._generator
            )
            return (2 * counts / self.shots - 1).to(true)

        return evaluate


def measure_noise(subject: Subject) -> dict[str, Any]:
    """Return accuracy and test loss at each error rate and each number of shots.

    Returns:
        The keys in the table of `qpeft.study.measures`, or why it was left out.
    """
    spec = subject.spec
    if not spec.noise_error_scales and not spec.noise_shots:
        return left_out("no error scales and no shots are given")
    circuits = [core.circuit for core in circuits_of(subject.model).values()]
    if not circuits:
        return left_out("the arm has no circuits")
    largest = max(circuits, key=lambda circuit: circuit.n_qubits)
    limit = get_backend("noisy").capabilities.max_qubits
    is_noisy = bool(spec.noise_error_scales) or (spec.noise_shots_scale > 0)
    if is_noisy and largest.n_qubits > limit:
        return left_out(f"the noisy simulator takes at most {limit} qubits, not {largest.n_qubits}")
    n = spec.n_noise_examples
    whole = subject.score_unchanged(n)
    rows: list[dict[str, Any]] = []
    for scale in spec.noise_error_scales:
        with circuits_on(subject.model, _chip(subject, scale)):
            rows.append({"error_scale": scale, "shots": None, **compared(subject.score(n), whole)})
    for shots in spec.noise_shots:
        scale = spec.noise_shots_scale
        with circuits_on(subject.model, sampled(_chip(subject, scale), largest, shots, spec.seed)):
            rows.append({"error_scale": scale, "shots": shots, **compared(subject.score(n), whole)})
    return {
        "n_examples": whole.n,
        "unchanged": {"accuracy": whole.accuracy, "test_loss": whole.loss},
        "rows": rows,
        "calibration": spec.noise_calibration,
        "shots_of": "surrogate" if _has_small_surrogate(largest) else "token",
    }


@contextmanager
def circuits_on(model: nn.Module, evaluation: Evaluation) -> Iterator[None]:
    """Let an adapter's circuits run elsewhere inside a `with` block."""
    adapters = [a for a in qtha_adapters(model).values() if isinstance(a.core, QuantumLayer)]
    before = [a.core.evaluation for a in adapters if isinstance(a.core, QuantumLayer)]
    try:
        for adapter in adapters:
            adapter.run_on(evaluation)
        yield
    finally:
        for adapter, old in zip(adapters, before, strict=True):
            adapter.run_on(old)


def sampled(chip: Evaluation, circuit: Circuit, shots: int, seed: int) -> Evaluation:
    """Return the same with so many shots of each circuit.

    Args:
        chip: A simulator without shots.
        circuit: The largest circuit that will run there.
        shots: Of each circuit.
        seed: Of the outcomes.
    """
    backend = SampledBackend(chip.open(), shots, seed)
    gradient = "surrogate" if _has_small_surrogate(circuit) else "parameter_shift"
    return Evaluation(backend, gradient=gradient)


def _chip(subject: Subject, scale: float) -> Evaluation:
    if scale == 0:
        return Evaluation("exact")
    options = {"calibration": subject.spec.noise_calibration, "scale": scale}
    return Evaluation("noisy", options)


def _has_small_surrogate(circuit: Circuit) -> bool:
    return n_surrogate_circuits(circuit.n_inputs, circuit.n_uploads()) <= MAX_SURROGATE
