"""A circuit in a chip's native gates: U3 on one qubit and CZ on two.

    CRZ(t) c,k = RZ(t/2) k, H k, CZ, RX(-t/2) k, CZ, H k

One-qubit gates that follow each other on a qubit are one `Turn`, which is one U3 pulse on the chip; its angles are
numbers only when a row of angles is bound, its place in the circuit never changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from qpeft.circuits import Circuit, Gate, Input
from qpeft.circuits.circuit import Angle


@dataclass(frozen=True)
class Factor:
    """One gate of a turn: exp(-i factor * angle * P / 2) about a Pauli axis, or "H".

    Args:
        axis: "X", "Y", "Z" or "H".
        column: Column of the angles (inputs first, then weights); None for H.
        scale: What the angle is multiplied by.
    """

    axis: str
    column: int | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Turn:
    """All that happens to one qubit between two CZ, the first factor first."""

    qubit: int
    factors: tuple[Factor, ...]


@dataclass(frozen=True)
class ControlledZ:
    """A CZ between two qubits."""

    qubits: tuple[int, int]


NativeOp = Turn | ControlledZ


@dataclass(frozen=True)
class NativeCircuit:
    """A circuit in native gates; every qubit is measured at its end.

    Args:
        n_qubits: Number of qubits.
        ops: In the order in which they act.
        n_angles: Columns of angles that it reads.
    """

    n_qubits: int
    ops: tuple[NativeOp, ...]
    n_angles: int

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The one-qubit gates in order."""
        return tuple(op for op in self.ops if isinstance(op, Turn))

    @property
    def couplings(self) -> frozenset[tuple[int, int]]:
        """The pairs of qubits that a CZ acts on, the smaller number first."""
        pairs = (op.qubits for op in self.ops if isinstance(op, ControlledZ))
        return frozenset((min(pair), max(pair)) for pair in pairs)


@lru_cache(maxsize=256)
def compile_native(circuit: Circuit) -> NativeCircuit:
    """Compile a circuit to U3 and CZ, with as few U3 as the structure allows.

    Args:
        circuit: Any circuit of the gate table; its angles are columns 0 to n_inputs - 1 for the inputs and
            from n_inputs on for the weights.

    Example:
        >>> from qpeft.circuits import build_ansatz
        >>> native = compile_native(build_ansatz("reupload", 4, 1))
        >>> len(native.turns), len(native.ops) - len(native.turns), len(native.couplings)
        (28, 16, 4)
    """
    pending: dict[int, list[Factor]] = {qubit: [] for qubit in range(circuit.n_qubits)}
    ops: list[NativeOp] = []

    def flush(qubit: int) -> None:
        if pending[qubit]:
            ops.append(Turn(qubit, tuple(pending[qubit])))
            pending[qubit] = []

    for gate in circuit.gates:
        for step in _decompose(gate, circuit.n_inputs):
            if isinstance(step, ControlledZ):
                for qubit in step.qubits:
                    flush(qubit)
                ops.append(step)
            else:
                pending[step[0]].append(step[1])
    for qubit in range(circuit.n_qubits):
        flush(qubit)
    return NativeCircuit(circuit.n_qubits, tuple(ops), circuit.n_inputs + circuit.n_weights)


def turn_unitaries(turn: Turn, angles: Tensor) -> Tensor:
    """Return (rows, 2, 2) complex unitaries of a turn for angles (rows, n_angles); differentiable."""
    unitary = _factor_unitary(turn.factors[0], angles)
    for factor in turn.factors[1:]:
        unitary = _factor_unitary(factor, angles) @ unitary
    return unitary


def u3_angles(native: NativeCircuit, angles: Tensor) -> Tensor:
    """Return (rows, n_turns, 3): theta, phi, lambda in radians of each turn's U3.

    U3(theta, phi, lambda) = [[cos, -e^(i lambda) sin], [e^(i phi) sin, e^(i (phi + lambda)) cos]] of theta / 2,
    equal to the turn up to a global phase.

    Args:
        native: The circuit.
        angles: (rows, n_angles), radians; computed in float64.
    """
    angles = angles.detach().to("cpu", torch.float64)
    rows = [_angles_of(turn_unitaries(turn, angles)) for turn in native.turns]
    return torch.stack(rows, dim=1) if rows else angles.new_empty(len(angles), 0, 3)


def _angles_of(unitary: Tensor) -> Tensor:
    top, low = unitary[:, 0, 0], unitary[:, 1, 0]
    theta = 2 * torch.atan2(low.abs(), top.abs())
    # Where cos or sin vanishes its phase is free; the other column then fixes what can be seen.
    tiny = 1e-12
    has_cos, has_sin = top.abs() > tiny, low.abs() > tiny
    first = torch.where(has_cos, top.angle(), torch.zeros_like(theta))
    phi = torch.where(has_sin, low.angle() - first, torch.zeros_like(theta))
    by_cos = unitary[:, 1, 1].angle() - first - phi
    by_sin = (-unitary[:, 0, 1]).angle() - first
    return torch.stack([theta, phi, torch.where(has_cos, by_cos, by_sin)], dim=-1)


def _factor_unitary(factor: Factor, angles: Tensor) -> Tensor:
    rows = len(angles)
    if factor.column is None:
        half = 0.5**0.5
        matrix = torch.tensor([[half, half], [half, -half]], dtype=torch.float64)
        dtype = torch.promote_types(angles.dtype, torch.complex64)
        return matrix.to(angles.device, dtype).expand(rows, 2, 2)
    half_angle = angles[:, factor.column] * (factor.scale / 2)
    cos, sin = torch.cos(half_angle), torch.sin(half_angle)
    zero = torch.zeros_like(cos)
    if factor.axis == "X":
        real, imag = [cos, zero, zero, cos], [zero, -sin, -sin, zero]
    elif factor.axis == "Y":
        real, imag = [cos, -sin, sin, cos], [zero, zero, zero, zero]
    else:
        real, imag = [cos, zero, zero, cos], [-sin, zero, zero, sin]
    entries = torch.complex(torch.stack(real, dim=-1), torch.stack(imag, dim=-1))
    return entries.reshape(rows, 2, 2)


def _decompose(gate: Gate, n_inputs: int) -> Iterator[tuple[int, Factor] | ControlledZ]:
    """Yield a gate's one-qubit factors, each with its qubit, and its CZ."""
    first, last = gate.qubits[0], gate.qubits[-1]
    column = None if gate.angle is None else _column(gate.angle, n_inputs)
    if gate.name in ("RX", "RY", "RZ"):
        yield first, Factor(gate.name[1], column)
    elif gate.name == "H":
        yield first, Factor("H")
    elif gate.name == "CZ":
        yield ControlledZ((first, last))
    elif gate.name == "CNOT":
        yield last, Factor("H")
        yield ControlledZ((first, last))
        yield last, Factor("H")
    elif gate.name == "CRZ":
        yield last, Factor("Z", column, 0.5)
        yield last, Factor("H")
        yield ControlledZ((first, last))
        yield last, Factor("X", column, -0.5)
        yield ControlledZ((first, last))
        yield last, Factor("H")
    else:  # RZZ(t) = CNOT RZ(t) CNOT, and H RZ H = RX
        yield last, Factor("H")
        yield ControlledZ((first, last))
        yield last, Factor("X", column)
        yield ControlledZ((first, last))
        yield last, Factor("H")


def _column(angle: Angle, n_inputs: int) -> int:
    return angle.index if isinstance(angle, Input) else n_inputs + angle.index
