"""Small batches, and what they should give, worked out without the package's simulators."""

import cmath
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qpeft.backends.fake_remote import FakeRemote
from qpeft.backends.remote import CircuitBatch
from qpeft.circuits import Circuit, Gate, Input, Weight, build_ansatz
from qpeft.jobs import Journal, Runner

SMALL = build_ansatz("reupload", 2, 1)

# Every kind of gate, and no two qubits alike.
MIXED = Circuit(
    3,
    (
        Gate("RY", (0,), Input(0)),
        Gate("H", (1,)),
        Gate("RX", (2,), Weight(0)),
        Gate("CRZ", (0, 1), Weight(1)),
        Gate("CNOT", (1, 2)),
        Gate("RZ", (2,), Input(1)),
        Gate("RZZ", (0, 2), Weight(2)),
        Gate("CZ", (1, 0)),
        Gate("RY", (1,), Weight(0)),
        Gate("H", (0,)),
    ),
    "mixed",
)


def make_batch(
    n_circuits: int = 5, shots: int | None = None, seed: int = 0, circuit: Circuit = SMALL
) -> CircuitBatch:
    shape = (n_circuits, circuit.n_inputs + circuit.n_weights)
    return CircuitBatch(circuit, np.random.default_rng(seed).uniform(-3, 3, shape), shots)


def no_sleep(seconds: float) -> None:
    """Wait for nothing: what a fake machine does depends on calls, not on time."""


def make_runner(folder: Path, remote: FakeRemote, **options: Any) -> Runner:
    journal = Journal(folder / "jobs.sqlite")
    return Runner(remote, journal, sleep=no_sleep, first_poll_seconds=0, **options)


def by_hand(batch: CircuitBatch) -> np.ndarray:
    """Return probabilities by summing amplitudes over basis states, one gate after the other."""
    return np.array([_one_by_hand(batch.circuit, row.tolist()) for row in batch.angles])


def _one_by_hand(circuit: Circuit, angles: list[float]) -> list[float]:
    n = circuit.n_qubits
    state = {"0" * n: 1 + 0j}
    for gate in circuit.gates:
        angle = 0.0
        if gate.angle is not None:
            offset = 0 if isinstance(gate.angle, Input) else circuit.n_inputs
            angle = angles[offset + gate.angle.index]
        state = _RULES[gate.name](state, gate.qubits, angle)
    return [abs(state.get(f"{b:0{n}b}", 0)) ** 2 for b in range(2**n)]


State = dict[str, complex]


def _turn(matrix: list[list[complex]], state: State, qubit: int) -> State:
    found: State = {}
    for bits, amplitude in state.items():
        for new in (0, 1):
            key = bits[:qubit] + str(new) + bits[qubit + 1 :]
            found[key] = found.get(key, 0) + matrix[new][int(bits[qubit])] * amplitude
    return found


def _phases(signs: tuple[int, ...], state: State, qubits: tuple[int, ...], angle: float) -> State:
    def sign(bits: str) -> int:
        return signs[int("".join(bits[q] for q in qubits), 2)]

    return {bits: a * cmath.exp(-0.5j * angle * sign(bits)) for bits, a in state.items()}


def _flip(state: State, qubits: tuple[int, ...]) -> State:
    control, target = qubits
    other = {"0": "1", "1": "0"}
    return {
        bits[:target] + other[bits[target]] + bits[target + 1 :]
        if bits[control] == "1"
        else bits: a
        for bits, a in state.items()
    }


def _rx(t: float) -> list[list[complex]]:
    c, s = math.cos(t / 2), -1j * math.sin(t / 2)
    return [[c, s], [s, c]]


def _ry(t: float) -> list[list[complex]]:
    c, s = math.cos(t / 2), math.sin(t / 2)
    return [[c, -s], [s, c]]


_ROOT = math.sqrt(0.5)
_RULES: dict[str, Callable[[State, tuple[int, ...], float], State]] = {
    "H": lambda s, q, t: _turn([[_ROOT, _ROOT], [_ROOT, -_ROOT]], s, q[0]),
    "RX": lambda s, q, t: _turn(_rx(t), s, q[0]),
    "RY": lambda s, q, t: _turn(_ry(t), s, q[0]),
    "RZ": lambda s, q, t: _phases((1, -1), s, q, t),
    "CNOT": lambda s, q, t: _flip(s, q),
    "CZ": lambda s, q, t: _phases((0, 0, 0, 2), s, q, math.pi),
    "CRZ": lambda s, q, t: _phases((0, 0, 1, -1), s, q, t),
    "RZZ": lambda s, q, t: _phases((1, -1, -1, 1), s, q, t),
}
