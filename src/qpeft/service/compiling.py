"""From the OriginIR of a task to programs that the chip runs, as the task's options say."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch

from qpeft.chips.blocks import check_program
from qpeft.chips.calibration import Calibration
from qpeft.chips.native import Turn, u3_angles
from qpeft.chips.originir_gates import GATE_TABLE, Local, u3_of
from qpeft.chips.programs import CZ, U3, Program, from_originir
from qpeft.chips.routing import fit_to_chip
from qpeft.circuits import Circuit, Gate, Weight
from qpeft.errors import ConfigError

MAX_MAPPED_QUBITS = 8
"""Largest program for which the service looks for places; larger ones name their physical qubits."""


@dataclass(frozen=True)
class TaskOptions:
    """What a user asks for beside the programs.

    Args:
        is_amended: Read-out errors are corrected in the probabilities.
        has_mapping: A program that does not fit where it stands may be moved and get SWAPs.
        has_optimization: One-qubit gates that follow each other on a qubit become one.
        has_counts: The answer has counts beside probabilities.
        block: The only physical qubits that may be used; empty for all.
    """

    is_amended: bool = True
    has_mapping: bool = True
    has_optimization: bool = True
    has_counts: bool = True
    block: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Return the options of `to_json`."""
        return cls(**{**data, "block": tuple(data["block"])})


def compile_programs(
    texts: Sequence[str], options: TaskOptions, calibration: Calibration
) -> list[Program]:
    """Make programs that the chip can run.

    Args:
        texts: OriginIR, one text a program.
        options: Of the task.
        calibration: The chip.

    Raises:
        ConfigError: A program cannot be read, or does not fit; the message says which.
        MissingExtraError: A program needs SWAPs and qiskit is not installed.
    """
    chip = _restricted(calibration, options.block)
    return [_compile(text, f"Program {number}", options, chip) for number, text in enumerate(texts)]


def _compile(text: str, name: str, options: TaskOptions, chip: Calibration) -> Program:
    try:
        program = from_originir(text)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if program.n_qubits > chip.n_qubits:
        raise ConfigError(
            f"{name} uses qubit q[{program.n_qubits - 1}]; chip '{chip.chip}' has q[0] to "
            f"q[{chip.n_qubits - 1}]."
        )
    # Origin's client writes QINIT with the largest qubit in use, not with the chip's size.
    program = replace(program, n_qubits=chip.n_qubits)
    if options.has_optimization:
        program = merge_turns(program)
    try:
        check_program(program, chip, name)
    except ConfigError:
        if not options.has_mapping:
            raise
        return _mapped(program, name, chip)
    return program


def merge_turns(program: Program) -> Program:
    """Make one U3 of one-qubit gates that follow each other on a qubit, equal up to a global phase."""
    gates: list[U3 | CZ] = []
    pending: dict[int, U3] = {}
    for gate in program.gates:
        if isinstance(gate, U3):
            before = pending.get(gate.qubit)
            pending[gate.qubit] = gate if before is None else _product(gate, before)
        else:
            gates += [pending.pop(qubit) for qubit in gate if qubit in pending]
            gates.append(gate)
    return replace(program, gates=(*gates, *pending.values()))


def _product(later: U3, earlier: U3) -> U3:
    a, b, c, d = _matrix(later)
    e, f, g, h = _matrix(earlier)
    product = (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)
    return U3(later.qubit, *u3_of(product)[1:])


def _matrix(gate: U3) -> tuple[complex, complex, complex, complex]:
    step = GATE_TABLE["U3"].steps([gate.qubit], gate[1:])[0]
    assert isinstance(step, Local)
    return step.matrix


def _restricted(calibration: Calibration, block: Sequence[int]) -> Calibration:
    """Return the chip with all qubits outside a block dead."""
    if not block:
        return calibration
    unknown = sorted(set(block) - set(calibration.qubits))
    if unknown:
        raise ConfigError(
            f"specified_block names qubits that chip '{calibration.chip}' has not or that are dead: {unknown}."
        )
    kept = set(block)
    return replace(
        calibration,
        qubits={number: calibration.qubits[number] for number in sorted(kept)},
        couplers={pair: f for pair, f in calibration.couplers.items() if kept.issuperset(pair)},
    )


def _mapped(program: Program, name: str, chip: Calibration) -> Program:
    """Move a program to a place where it fits, with SWAPs if there is none."""
    used = sorted(
        {qubit for gate in program.gates for qubit in _qubits_of(gate)} | set(program.measured)
    )
    if len(used) > MAX_MAPPED_QUBITS:
        raise ConfigError(
            f"{name} does not fit where it stands and has {len(used)} qubits; programs of up to "
            f"{MAX_MAPPED_QUBITS} qubits are moved. Name physical qubits joined by live couplers."
        )
    circuit, angles = _as_circuit(program, used)
    try:
        fitted = fit_to_chip(circuit, chip)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    place = fitted.places[0].qubits
    turns = iter(u3_angles(fitted.native, torch.tensor([angles], dtype=torch.float64))[0].tolist())
    gates = tuple(
        U3(place[op.qubit], *next(turns))
        if isinstance(op, Turn)
        else CZ(place[op.qubits[0]], place[op.qubits[1]])
        for op in fitted.native.ops
    )
    measured = tuple(place[fitted.readout[used.index(qubit)]] for qubit in program.measured)
    return Program(program.n_qubits, gates, measured)


def _as_circuit(program: Program, used: Sequence[int]) -> tuple[Circuit, list[float]]:
    """Return a program as a circuit template on qubits 0, 1, ... and its angles."""
    local = {qubit: index for index, qubit in enumerate(used)}
    gates: list[Gate] = []
    angles: list[float] = []
    for gate in program.gates:
        if isinstance(gate, U3):
            # U3(theta, phi, lambda) is RZ(phi) RY(theta) RZ(lambda) up to a global phase.
            turns = (("RZ", gate.lam), ("RY", gate.theta), ("RZ", gate.phi))
            for axis, angle in turns:
                gates.append(Gate(axis, (local[gate.qubit],), Weight(len(angles))))
                angles.append(angle)
        else:
            gates.append(Gate("CZ", (local[gate.first], local[gate.second])))
    return Circuit(len(used), tuple(gates), "program"), angles


def _qubits_of(gate: U3 | CZ) -> tuple[int, ...]:
    return (gate.qubit,) if isinstance(gate, U3) else (gate.first, gate.second)
