"""Chips of any size with chosen dead parts, small circuits, and a slow simulator of small programs."""

import math
import random
from collections.abc import Iterable

import numpy as np

from qpeft.chips.calibration import Calibration, QubitQuality
from qpeft.chips.programs import U3, Program
from qpeft.circuits import Circuit, Gate, Weight

Pair = tuple[int, int]


def grid_pairs(rows: int, columns: int) -> list[Pair]:
    across = [
        (r * columns + c, r * columns + c + 1) for r in range(rows) for c in range(columns - 1)
    ]
    down = [
        (r * columns + c, (r + 1) * columns + c) for r in range(rows - 1) for c in range(columns)
    ]
    return sorted(across + down)


def make_chip(
    rows: int = 6,
    columns: int = 12,
    *,
    dead_couplers: Iterable[Pair] = (),
    dead_qubits: Iterable[int] = (),
    seed: int | None = None,
) -> Calibration:
    """A chip of equal qualities, or of random ones where there is a seed."""
    draw = random.Random(seed)

    def pick(low: float, high: float) -> float:
        return (low + high) / 2 if seed is None else draw.uniform(low, high)

    qubits = {
        number: QubitQuality(15.0, 1.5, pick(0.995, 0.997), pick(0.93, 0.95), pick(0.91, 0.93))
        for number in range(rows * columns)
    }
    couplers = {pair: pick(0.952, 0.983) for pair in grid_pairs(rows, columns)}
    for qubit in dead_qubits:
        del qubits[qubit]
    couplers |= {pair: 0.0 for pair in couplers if not set(pair) <= set(qubits)}
    couplers |= dict.fromkeys(dead_couplers, 0.0)
    return Calibration(
        "toy", "2025-01-01T00:00:00+00:00", (rows, columns), qubits, couplers, 30.0, 40.0, "made up"
    )


def linked(n_qubits: int, pairs: Iterable[Pair]) -> Circuit:
    """A circuit with one CRZ on each pair, with superpositions before and after."""
    local = tuple(Gate("H", (qubit,)) for qubit in range(n_qubits))
    links = tuple(Gate("CRZ", pair, Weight(index)) for index, pair in enumerate(pairs))
    return Circuit(n_qubits, (*local, *links, *local), "linked")


def ring(n_qubits: int) -> Circuit:
    return linked(n_qubits, [(i, (i + 1) % n_qubits) for i in range(n_qubits)])


def chain(n_qubits: int) -> Circuit:
    return linked(n_qubits, [(i, i + 1) for i in range(n_qubits - 1)])


def star(n_qubits: int) -> Circuit:
    return linked(n_qubits, [(0, i) for i in range(1, n_qubits)])


def unitary_of(program: Program) -> np.ndarray:
    """The matrix of a small program; qubit 0 is the least significant bit of an index."""
    size = 2**program.n_qubits
    total = np.eye(size, dtype=complex)
    for gate in program.gates:
        if isinstance(gate, U3):
            cos, sin = math.cos(gate.theta / 2), math.sin(gate.theta / 2)
            up, low = np.exp(1j * gate.phi), np.exp(1j * gate.lam)
            small = np.array([[cos, -low * sin], [up * sin, up * low * cos]])
            above, below = np.eye(2 ** (program.n_qubits - 1 - gate.qubit)), np.eye(2**gate.qubit)
            total = np.kron(np.kron(above, small), below) @ total
        else:
            both = [(i >> gate.first) & (i >> gate.second) & 1 for i in range(size)]
            total = np.where(both, -1.0, 1.0)[:, None] * total
    return total


def probabilities_of(program: Program, qubits: Iterable[int]) -> np.ndarray:
    """Outcome probabilities of some qubits, the first one the most significant bit."""
    state = np.abs(unitary_of(program)[:, 0]) ** 2
    n_qubits = program.n_qubits
    cube = state.reshape((2,) * n_qubits)  # axis i belongs to qubit n_qubits - 1 - i
    axes = [n_qubits - 1 - qubit for qubit in qubits]
    rest = tuple(axis for axis in range(n_qubits) if axis not in axes)
    order = np.argsort(np.argsort(axes))
    return cube.sum(axis=rest).transpose(order).reshape(-1)
