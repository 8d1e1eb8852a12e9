"""Writes a circuit as text that other quantum software and machines read.

OpenQASM 2 and OriginIR carry numbers, so they take one row of inputs and the weights; OpenQASM 3
keeps them as named parameters. Only gates that every reader of a format knows are used: RZZ is
written as CNOT RZ CNOT, and CRZ in OriginIR as RZ CNOT RZ CNOT. Qubit 0 is `q[0]` and `c[0]`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qpeft.circuits.circuit import Angle, Circuit, Gate, Input
from qpeft.errors import ConfigError


def to_openqasm2(circuit: Circuit, inputs: Sequence[float], weights: Sequence[float]) -> str:
    """Write a circuit with its angles as an OpenQASM 2 program that measures every qubit.

    Args:
        circuit: The circuit.
        inputs: One row of data angles, in radians.
        weights: The trained angles, in radians.

    Raises:
        ConfigError: The number of angles does not fit the circuit, or one is not finite.

    Example:
        >>> from qpeft.circuits import Circuit, Gate, Weight
        >>> print(to_openqasm2(Circuit(1, (Gate("RY", (0,), Weight(0)),)), [], [0.5]))
        OPENQASM 2.0;
        include "qelib1.inc";
        qreg q[1];
        creg c[1];
        ry(0.5) q[0];
        measure q -> c;
        <BLANKLINE>
    """
    numbers = _Numbers(circuit, inputs, weights)
    lines = ["OPENQASM 2.0;", 'include "qelib1.inc";']
    lines += [f"qreg q[{circuit.n_qubits}];", f"creg c[{circuit.n_qubits}];"]
    for step in _steps(circuit, has_crz=True):
        angle = "" if step.angle is None else f"({numbers.text(step)})"
        lines.append(f"{_QASM_NAMES[step.name]}{angle} {_places(step)};")
    lines.append("measure q -> c;")
    return "\n".join(lines) + "\n"


def to_openqasm3(circuit: Circuit) -> str:
    """Write a circuit as an OpenQASM 3 program with its angles as parameters.

    The inputs are `input float z0, z1, ...` and the weights `input float theta0, theta1, ...`.

    Args:
        circuit: The circuit.
    """
    lines = ["OPENQASM 3.0;", 'include "stdgates.inc";']
    lines += [f"input float z{index};" for index in range(circuit.n_inputs)]
    lines += [f"input float theta{index};" for index in range(circuit.n_weights)]
    lines += [f"qubit[{circuit.n_qubits}] q;", f"bit[{circuit.n_qubits}] c;"]
    for step in _steps(circuit, has_crz=True):
        angle = ""
        if step.angle is not None:
            letter = "z" if isinstance(step.angle, Input) else "theta"
            angle = f"({letter}{step.angle.index})"
        lines.append(f"{_QASM_NAMES[step.name]}{angle} {_places(step)};")
    lines.append("c = measure q;")
    return "\n".join(lines) + "\n"


def to_originir(circuit: Circuit, inputs: Sequence[float], weights: Sequence[float]) -> str:
    """Write a circuit with its angles as an OriginIR program that measures every qubit.

    Args:
        circuit: The circuit.
        inputs: One row of data angles, in radians.
        weights: The trained angles, in radians.

    Raises:
        ConfigError: The number of angles does not fit the circuit, or one is not finite.
    """
    numbers = _Numbers(circuit, inputs, weights)
    lines = [f"QINIT {circuit.n_qubits}", f"CREG {circuit.n_qubits}"]
    for step in _steps(circuit, has_crz=False):
        angle = "" if step.angle is None else f",({numbers.text(step)})"
        lines.append(f"{step.name} {_places(step)}{angle}")
    lines += [f"MEASURE q[{qubit}],c[{qubit}]" for qubit in range(circuit.n_qubits)]
    return "\n".join(lines) + "\n"


_QASM_NAMES = {
    "H": "h",
    "RX": "rx",
    "RY": "ry",
    "RZ": "rz",
    "CNOT": "cx",
    "CZ": "cz",
    "CRZ": "crz",
}


@dataclass(frozen=True)
class _Step:
    """A gate of the text: `factor` times `angle`."""

    name: str
    qubits: tuple[int, ...]
    angle: Angle | None = None
    factor: float = 1.0


def _steps(circuit: Circuit, *, has_crz: bool) -> Iterator[_Step]:
    for gate in circuit.gates:
        if gate.name == "RZZ":
            yield from _rzz(gate)
        elif gate.name == "CRZ" and not has_crz:
            yield from _crz(gate)
        else:
            yield _Step(gate.name, gate.qubits, gate.angle)


def _rzz(gate: Gate) -> Iterator[_Step]:
    yield _Step("CNOT", gate.qubits)
    yield _Step("RZ", gate.qubits[1:], gate.angle)
    yield _Step("CNOT", gate.qubits)


def _crz(gate: Gate) -> Iterator[_Step]:
    """Half a turn of the target, and half a turn back unless the control is 1."""
    target = gate.qubits[1:]
    yield _Step("RZ", target, gate.angle, 0.5)
    yield _Step("CNOT", gate.qubits)
    yield _Step("RZ", target, gate.angle, -0.5)
    yield _Step("CNOT", gate.qubits)


class _Numbers:
    """The angles of one row as text."""

    def __init__(self, circuit: Circuit, inputs: Sequence[float], weights: Sequence[float]):
        self.inputs = _checked("inputs", circuit.n_inputs, inputs, circuit.name)
        self.weights = _checked("weights", circuit.n_weights, weights, circuit.name)

    def text(self, step: _Step) -> str:
        """Return an angle without an exponent, which not every reader takes."""
        if step.angle is None:
            raise AssertionError(f"step {step.name} has no angle")
        values = self.inputs if isinstance(step.angle, Input) else self.weights
        digits = f"{step.factor * values[step.angle.index]:.15f}".rstrip("0")
        return digits + "0" if digits.endswith(".") else digits


def _checked(what: str, expected: int, values: Sequence[float], name: str) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != expected:
        raise ConfigError(
            f"Circuit '{name}' has {expected} {what}; got {len(numbers)}. Give one row of {what}."
        )
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ConfigError(f"{what}[{index}] is {number}; an angle must be a finite number.")
    return numbers


def _places(step: _Step) -> str:
    return ",".join(f"q[{qubit}]" for qubit in step.qubits)
