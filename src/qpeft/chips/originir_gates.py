"""The gates of Origin's language in terms of one-qubit matrices and CZ, exact up to a global phase.

The table follows what `pyqpanda3` means by each name; the tests compare every entry with that package's matrices.
"""

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Matrix = tuple[complex, complex, complex, complex]
"""A 2 x 2 matrix, row by row."""


class Local(NamedTuple):
    """A one-qubit gate with its phase, which a control makes visible."""

    qubit: int
    matrix: Matrix


class Flip(NamedTuple):
    """A CZ."""

    qubits: tuple[int, int]


Step = Local | Flip


@dataclass(frozen=True)
class GateForm:
    """A gate of the text: its sizes and its steps."""

    n_qubits: int
    n_angles: int
    steps: Callable[[Sequence[int], Sequence[float]], list[Step]]


def u3_of(matrix: Matrix) -> tuple[float, float, float, float]:
    """Return phase, theta, phi, lambda with matrix = exp(i phase) U3(theta, phi, lambda)."""
    a, b, c, d = matrix
    theta = 2 * math.atan2(abs(c), abs(a))
    if abs(a) > 1e-12:
        phase = cmath.phase(a)
        phi = cmath.phase(c) - phase if abs(c) > 1e-12 else 0.0
        return phase, theta, phi, cmath.phase(d) - phase - phi
    phase = cmath.phase(-b)  # lambda is free here, and taken as 0
    return phase, theta, cmath.phase(c) - phase, 0.0


def controlled(control: int, step: Local) -> list[Step]:
    """A one-qubit gate exp(i a) RZ(b) RY(c) RZ(d) under a control, with two CNOT."""
    target = step.qubit
    phase, theta, phi, lam = u3_of(step.matrix)
    before = _rz((lam - phi) / 2)
    middle = _times(_ry(-theta / 2), _rz(-(phi + lam) / 2))
    after = _times(_rz(phi), _ry(theta / 2))
    return [
        Local(target, before),
        *_cnot(control, target),
        Local(target, middle),
        *_cnot(control, target),
        Local(target, after),
        Local(control, _phase(phase + (phi + lam) / 2)),
    ]


def inverse(step: Step) -> Step:
    """Return the step that undoes a step."""
    if isinstance(step, Flip):
        return step
    a, b, c, d = (complex(entry).conjugate() for entry in step.matrix)
    return Local(step.qubit, (a, c, b, d))


def _u4(alpha: float, beta: float, gamma: float, delta: float) -> Matrix:
    """Return exp(i alpha) RZ(beta) RY(gamma) RZ(delta)."""
    cos, sin = math.cos(gamma / 2), math.sin(gamma / 2)
    total, difference = (beta + delta) / 2, (beta - delta) / 2
    return (
        cmath.exp(1j * (alpha - total)) * cos,
        -cmath.exp(1j * (alpha - difference)) * sin,
        cmath.exp(1j * (alpha + difference)) * sin,
        cmath.exp(1j * (alpha + total)) * cos,
    )


def _u3(theta: float, phi: float, lam: float) -> Matrix:
    return _u4((phi + lam) / 2, phi, theta, lam)


def _phase(angle: float) -> Matrix:
    return (1, 0, 0, cmath.exp(1j * angle))


def _rphi(theta: float, phi: float) -> Matrix:
    """Turn by theta about the axis at angle phi in the equator."""
    return _u4(0.0, phi - math.pi / 2, theta, math.pi / 2 - phi)


def _rx(angle: float) -> Matrix:
    return _rphi(angle, 0.0)


def _ry(angle: float) -> Matrix:
    return _u4(0.0, 0.0, angle, 0.0)


def _rz(angle: float) -> Matrix:
    return _u4(0.0, angle, 0.0, 0.0)


_ROOT = 0.5**0.5
_H: Matrix = (_ROOT, _ROOT, _ROOT, -_ROOT)


def _cnot(control: int, target: int) -> list[Step]:
    return [Local(target, _H), Flip((control, target)), Local(target, _H)]


def _pauli_pair(first: str, second: str, angle: float, qubits: Sequence[int]) -> list[Step]:
    """exp(-i angle P Q / 2): turn both axes to Z, and turn about ZZ between two CNOT."""
    to_z = {"Z": None, "X": _H, "Y": _rx(math.pi / 2)}
    turns = [
        Local(qubit, matrix)
        for qubit, axis in zip(qubits, (first, second), strict=True)
        if (matrix := to_z[axis]) is not None
    ]
    middle = [*_cnot(*qubits), Local(qubits[1], _rz(angle)), *_cnot(*qubits)]
    return [*turns, *middle, *(inverse(turn) for turn in turns)]


def _exchange(angle: float, qubits: Sequence[int]) -> list[Step]:
    """exp(i angle (XX + YY) / 2), whose factors commute."""
    return _pauli_pair("X", "X", -angle, qubits) + _pauli_pair("Y", "Y", -angle, qubits)


def _swap(qubits: Sequence[int]) -> list[Step]:
    first, second = qubits
    return [*_cnot(first, second), *_cnot(second, first), *_cnot(first, second)]


def _times(left: Matrix, right: Matrix) -> Matrix:
    (a, b, c, d), (e, f, g, h) = left, right
    return (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)


def _one(n_angles: int, matrix: Callable[..., Matrix], *fixed: float) -> GateForm:
    return GateForm(1, n_angles, lambda qubits, angles: [Local(qubits[0], matrix(*fixed, *angles))])


def _two(n_angles: int, steps: Callable[..., list[Step]]) -> GateForm:
    return GateForm(2, n_angles, lambda qubits, angles: steps(qubits, *angles))


def _under_control(n_angles: int, matrix: Callable[..., Matrix]) -> GateForm:
    return _two(
        n_angles, lambda qubits, *angles: controlled(qubits[0], Local(qubits[1], matrix(*angles)))
    )


def _pauli_rotation(first: str, second: str) -> GateForm:
    return _two(1, lambda qubits, angle: _pauli_pair(first, second, angle, qubits))


GATE_TABLE: dict[str, GateForm] = {
    "U3": _one(3, _u3),
    "U4": _one(4, _u4),
    "U2": _one(2, lambda phi, lam: _u3(math.pi / 2, phi, lam)),
    "U1": _one(1, _phase),
    "P": _one(1, _phase),
    "RPhi": _one(2, _rphi),
    "RX": _one(1, _rx),
    "RY": _one(1, _ry),
    "RZ": _one(1, _rz),
    "X1": _one(0, _rx, math.pi / 2),
    "Y1": _one(0, _ry, math.pi / 2),
    "Z1": _one(0, _rz, math.pi / 2),
    "H": _one(0, lambda: _H),
    "X": _one(0, lambda: (0, 1, 1, 0)),
    "Y": _one(0, lambda: (0, -1j, 1j, 0)),
    "Z": _one(0, lambda: (1, 0, 0, -1)),
    "S": _one(0, lambda: (1, 0, 0, 1j)),
    "T": _one(0, _phase, math.pi / 4),
    "I": GateForm(1, 0, lambda qubits, angles: []),
    "CZ": _two(0, lambda qubits: [Flip((qubits[0], qubits[1]))]),
    "CNOT": _two(0, lambda qubits: _cnot(*qubits)),
    "SWAP": _two(0, _swap),
    "ISWAP": _two(0, lambda qubits: _exchange(math.pi / 2, qubits)),
    "SQISWAP": _two(0, lambda qubits: _exchange(math.pi / 4, qubits)),
    "CR": _under_control(1, _phase),
    "CU": _under_control(4, _u4),
    "RXX": _pauli_rotation("X", "X"),
    "RYY": _pauli_rotation("Y", "Y"),
    "RZZ": _pauli_rotation("Z", "Z"),
    "RZX": _pauli_rotation("Z", "X"),
}
