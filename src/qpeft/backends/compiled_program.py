"""Turns a circuit into the short program of arrays that compiled code runs (`compiled_kernels.py`).

A state is a vector of 2^(n+1) real numbers, index b its real and 2^n + b its imaginary part. In it every rotation
exp(-i t P / 2) is a rotation of pairs of entries by t / 2:

    x' = cos(t/2) x - sin(t/2) y,    y' = sin(t/2) x + cos(t/2) y

with x and y the two states of the qubit for RY; an imaginary part and a real one for RX, and for phases of data.
So few kinds of step are enough:

    start       RY on fresh qubits: a product state
    TURN_TWO    RY of two qubits at once
    PAIRS       RY of one qubit, RX, or the phases of one gate of data, by a list of pairs (x, y)
    PHASES      diagonal gates that are the same for every row, as one product
    SWAPS       CNOTs, by a list of entries that change places

An angle (a slot) is a constant plus any inputs plus any weights: RY of data behind RY of a weight is one turn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qpeft.backends.fusion import permutation_source
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct
from qpeft.circuits.gates import GATES

TURN_TWO, PAIRS, PHASES, SWAPS = range(4)
TURN = -1  # an operation that becomes TURN_TWO with another one, else PAIRS


class Program(NamedTuple):
    """A circuit with its observables, for any rows, weights and precision.

    Args:
        n_inputs: Number of data columns.
        n_weights: Number of trained angles.
        start: (n_qubits,), the slot of each qubit's first RY, or -1.
        steps: (n_steps, 5): a kind and its numbers. TURN_TWO: how many basis states the two states of a qubit
            are apart, its slot, and the same of a later qubit. PAIRS: first and last + 1 in `pairs`, slot. PHASES:
            layer. SWAPS: first and last + 1 in `pairs`.
        pairs: (n, 2), entries of a state.
        constants: (n_slots,), the part of each angle that neither data nor training changes, in radians.
        input_terms: (n, 2), slot and data column.
        weight_terms: (n, 2), slot and weight.
        fixed: (n_layers, 2^n), phases without weights, in units of -1/2 rad.
        phase_terms: (n, 3), layer, row of `coefficients` and weight.
        coefficients: (n, 2^n), how a weight turns each basis state, in units of -1/2.
        signs: (2^n, n_observables).
    """

    n_inputs: int
    n_weights: int
    start: NDArray[np.int64]
    steps: NDArray[np.int64]
    pairs: NDArray[np.int64]
    constants: NDArray[np.float64]
    input_terms: NDArray[np.int64]
    weight_terms: NDArray[np.int64]
    fixed: NDArray[np.float64]
    phase_terms: NDArray[np.int64]
    coefficients: NDArray[np.float64]
    signs: NDArray[np.float64]


def compile_program(circuit: Circuit, observables: Sequence[ZProduct]) -> Program:
    """Compile a circuit and the observables that are read at its end."""
    drafts = _Drafts(circuit.n_qubits)
    for gate in circuit.gates:
        drafts.add(gate)
    start, operations = _split_start(drafts.operations, circuit.n_qubits)
    while operations and operations[-1].kind == PHASES:
        operations.pop()  # phases do not change what products of Z read
    writer = _Writer(circuit.n_qubits)
    start_slots = [-1 if op is None else writer.slot(op) for op in start]
    while operations:
        operations = operations[writer.write(operations) :]
    return writer.program(circuit, start_slots, observables)


@dataclass
class _Operation:
    """Gates that act as one step: for TURN and PAIRS terms of one angle, else a list of gates."""

    kind: int
    gate: Gate
    is_diagonal: bool
    qubits: set[int]
    gates: list[Gate] = field(default_factory=list)
    constant: float = 0.0


class _Drafts:
    """Collects operations, joining a gate to an earlier operation that it can reach."""

    def __init__(self, n_qubits: int):
        self.n_qubits = n_qubits
        self.operations: list[_Operation] = []

    def add(self, gate: Gate) -> None:
        """Add one gate."""
        is_diagonal = GATES[gate.name].phases is not None or gate.name == "RZ"
        if gate.name == "H":
            self._add_hadamard(gate)
        elif gate.name == "CNOT":
            self._place(SWAPS, gate, is_diagonal=False)
        elif is_diagonal and not isinstance(gate.angle, Input):
            self._place(PHASES, gate, is_diagonal=True)
        else:
            self._place(TURN if gate.name == "RY" else PAIRS, gate, is_diagonal=is_diagonal)

    def _add_hadamard(self, gate: Gate) -> None:
        """Add H = RY(pi/2) Z; on a fresh qubit Z does nothing."""
        (qubit,) = gate.qubits
        if any(qubit in operation.qubits for operation in self.operations):
            self._place(PHASES, gate, is_diagonal=True)
        turn = self._place(TURN, Gate("RY", gate.qubits, Input(0)), is_diagonal=False)
        turn.gates.pop()  # the angle is a constant and no datum
        turn.constant += math.pi / 2

    def _place(self, kind: int, gate: Gate, *, is_diagonal: bool) -> _Operation:
        for operation in reversed(self.operations):
            is_same = operation.kind == kind and (
                kind in (PHASES, SWAPS)
                or (operation.gate.name, operation.gate.qubits) == (gate.name, gate.qubits)
            )
            if is_same:
                operation.gates.append(gate)
                operation.qubits.update(gate.qubits)
                return operation
            is_free = operation.qubits.isdisjoint(gate.qubits)
            if not (is_free or (is_diagonal and operation.is_diagonal)):
                break
        self.operations.append(_Operation(kind, gate, is_diagonal, set(gate.qubits), [gate]))
        return self.operations[-1]


def _split_start(
    operations: Sequence[_Operation], n_qubits: int
) -> tuple[list[_Operation | None], list[_Operation]]:
    """Return for each qubit the turn that is its first operation, and all others."""
    start: list[_Operation | None] = [None] * n_qubits
    others = []
    touched: set[int] = set()
    for operation in operations:
        (first, *_) = operation.gate.qubits
        if operation.kind == TURN and first not in touched:
            start[first] = operation
        else:
            others.append(operation)
        touched |= operation.qubits
    return start, others


class _Writer:
    """Turns operations into the arrays of a program."""

    def __init__(self, n_qubits: int):
        self.n_qubits = n_qubits
        self.states = np.arange(2**n_qubits)
        self.steps: list[list[int]] = []
        self.pairs: list[NDArray[np.int64]] = []
        self.places: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        self.constants: list[float] = []
        self.input_terms: list[tuple[int, int]] = []
        self.weight_terms: list[tuple[int, int]] = []
        self.fixed: list[NDArray[np.float64]] = []
        self.phase_terms: list[tuple[int, int, int]] = []
        self.coefficients: dict[tuple[str, tuple[int, ...]], NDArray[np.int64]] = {}

    def slot(self, operation: _Operation) -> int:
        """Return the number of a new slot with the angle of an operation."""
        slot = len(self.constants)
        self.constants.append(operation.constant)
        for gate in operation.gates:
            if isinstance(gate.angle, Input):
                self.input_terms.append((slot, gate.angle.index))
            elif isinstance(gate.angle, Weight):
                self.weight_terms.append((slot, gate.angle.index))
        return slot

    def write(self, operations: Sequence[_Operation]) -> int:
        """Add a step for the first operations and return how many it does: two for TURN_TWO."""
        first, gate = operations[0], operations[0].gate
        if first.kind == PHASES:
            self.steps.append([PHASES, len(self.fixed), 0, 0, 0])
            self._write_phases(first.gates)
        elif first.kind == SWAPS:
            source = permutation_source(first.gates, self.n_qubits).tolist()
            swaps = np.array(_swaps_of(source), dtype=np.int64).reshape(-1, 2)
            both = np.stack([swaps, swaps + len(self.states)], axis=1).reshape(-1, 2)
            self.steps.append([SWAPS, *self._add_pairs(both), 0, 0])
        elif [each.kind for each in operations[:2]] == [TURN, TURN]:
            pair = sorted(operations[:2], key=lambda each: each.gate.qubits)
            numbers = [(self._apart(each.gate), self.slot(each)) for each in pair]
            self.steps.append([TURN_TWO, *numbers[0], *numbers[1]])
            return 2
        else:
            key = (gate.name, gate.qubits)
            if key not in self.places:
                self.places[key] = self._add_pairs(self._pairs_of(gate))
            self.steps.append([PAIRS, *self.places[key], self.slot(first), 0])
        return 1

    def program(
        self, circuit: Circuit, start: list[int], observables: Sequence[ZProduct]
    ) -> Program:
        """Return what was written, with the signs of the observables."""
        n_states = len(self.states)
        signs = np.ones((n_states, len(observables)))
        for column, observable in enumerate(observables):
            for qubit in observable.qubits:
                signs[:, column] *= 1 - 2 * (self.states >> (self.n_qubits - 1 - qubit) & 1)
        coefficients = np.array([*self.coefficients.values()], dtype=np.float64)
        return Program(
            n_inputs=circuit.n_inputs,
            n_weights=circuit.n_weights,
            start=np.array(start, dtype=np.int64),
            steps=_integers(self.steps, 5),
            pairs=np.concatenate([np.zeros((0, 2), dtype=np.int64), *self.pairs]),
            constants=np.array(self.constants, dtype=np.float64),
            input_terms=_integers(self.input_terms, 2),
            weight_terms=_integers(self.weight_terms, 2),
            fixed=np.array(self.fixed, dtype=np.float64).reshape(-1, n_states),
            phase_terms=_integers(self.phase_terms, 3),
            coefficients=coefficients.reshape(-1, n_states),
            signs=signs,
        )

    def _add_pairs(self, pairs: NDArray[np.int64]) -> list[int]:
        """Return the place of new pairs among all: first and last + 1."""
        first = sum(len(each) for each in self.pairs)
        self.pairs.append(pairs)
        return [first, first + len(pairs)]

    def _write_phases(self, gates: Sequence[Gate]) -> None:
        layer = len(self.fixed)
        self.fixed.append(np.zeros(len(self.states)))
        for gate in gates:
            if isinstance(gate.angle, Weight):
                key = (gate.name, gate.qubits)
                self.coefficients.setdefault(key, self._signs(gate))
                row = list(self.coefficients).index(key)
                self.phase_terms.append((layer, row, gate.angle.index))
            else:
                self.fixed[layer] += math.pi * self._signs(gate)

    def _apart(self, gate: Gate) -> int:
        return 1 << (self.n_qubits - 1 - gate.qubits[0])

    def _pairs_of(self, gate: Gate) -> NDArray[np.int64]:
        """Return (n, 2): the entries that RY, RX or a phase of data turns into each other."""
        real, imaginary = self.states, len(self.states) + self.states
        if gate.name == "RX":
            return np.stack([imaginary, real ^ self._apart(gate)], axis=1)
        if gate.name == "RY":
            first = np.concatenate(
                [part[real & self._apart(gate) == 0] for part in (real, imaginary)]
            )
            return np.stack([first, first + self._apart(gate)], axis=1)
        signs = self._signs(gate)
        first = np.where(signs > 0, imaginary, real)
        second = np.where(signs > 0, real, imaginary)
        return np.stack([first, second], axis=1)[signs != 0]

    def _signs(self, gate: Gate) -> NDArray[np.int64]:
        """Return (2^n,): s of a diagonal gate for each basis state; for H those of its Z."""
        phases = (1, -1) if gate.name in ("RZ", "H") else GATES[gate.name].phases
        if phases is None:
            raise AssertionError(f"{gate.name} is not diagonal")
        local = np.zeros_like(self.states)
        for qubit in gate.qubits:
            local = 2 * local + (self.states >> (self.n_qubits - 1 - qubit) & 1)
        return np.array(phases)[local]


def _swaps_of(source: list[int]) -> list[tuple[int, int]]:
    """Return swaps that do new[i] = old[source[i]], one cycle after another."""
    swaps = []
    seen: set[int] = set()
    for first in range(len(source)):
        here = first
        while here not in seen:
            seen.add(here)
            if source[here] not in seen:
                swaps.append((here, source[here]))
            here = source[here]
    return swaps


def _integers(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)
