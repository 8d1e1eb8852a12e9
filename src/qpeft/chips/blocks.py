"""Takes programs apart into blocks of qubits that never interact, and checks them against a chip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qpeft.chips.calibration import Calibration
from qpeft.chips.programs import CZ, U3, Program
from qpeft.errors import ConfigError


@dataclass(frozen=True)
class Block:
    """Qubits of a program that CZ gates join.

    Args:
        program: Index of its program.
        qubits: The physical qubit of each of its qubits, in the order in which gates first use them.
        ops: The block's qubits that each gate acts on: one for a U3, two for a CZ.
        angles: theta, phi, lambda of each U3.
        measured: The block's qubits that are read out, in the order of their classical bits.
        bits: The classical bit of each of these.
    """

    program: int
    qubits: tuple[int, ...]
    ops: tuple[tuple[int, ...], ...]
    angles: tuple[tuple[float, float, float], ...]
    measured: tuple[int, ...]
    bits: tuple[int, ...]


def check_program(program: Program, calibration: Calibration, name: str = "The program") -> None:
    """Check that a chip can run a program.

    Raises:
        ConfigError: A qubit or coupler that is missing or dead, an angle that is not finite, or qubits that are
            measured twice or not at all.
    """
    if program.n_qubits != calibration.n_qubits:
        raise ConfigError(
            f"{name} is made for {program.n_qubits} qubits; chip '{calibration.chip}' has "
            f"{calibration.n_qubits}. Compile it for this chip."
        )
    if not program.measured or len(set(program.measured)) != len(program.measured):
        raise ConfigError(
            f"{name} must measure at least one qubit, and each once; got {program.measured}."
        )
    for qubit in program.measured:
        _check_qubit(qubit, calibration, f"{name} measures")
    for number, gate in enumerate(program.gates):
        where = f"{name}, gate {number} ({type(gate).__name__})"
        if isinstance(gate, U3):
            _check_qubit(gate.qubit, calibration, f"{where} uses")
            if not all(math.isfinite(angle) for angle in gate[1:]):
                raise ConfigError(
                    f"{where} on qubit {gate.qubit} has an angle that is not finite: {gate[1:]}. "
                    f"Has the training diverged?"
                )
        else:
            for qubit in gate:
                _check_qubit(qubit, calibration, f"{where} uses")
            if calibration.cz_fidelity(*gate) == 0:
                raise ConfigError(
                    f"{where}: chip '{calibration.chip}' has no working coupler between qubits "
                    f"{gate.first} and {gate.second}. Place the circuit on `alive_couplers`."
                )


def split_program(program: Program, index: int) -> list[Block]:
    """Return the blocks of a program of which something is measured; the others cannot be seen.

    Args:
        program: A checked program.
        index: Its index, which the blocks carry.
    """
    drafts = _join(program)
    for gate in program.gates:
        draft = drafts[gate[0]]
        qubits = (gate.qubit,) if isinstance(gate, U3) else (gate.first, gate.second)
        draft.ops.append(tuple(draft.local(qubit) for qubit in qubits))
        if isinstance(gate, U3):
            draft.angles.append(gate[1:])
    for bit, qubit in enumerate(program.measured):
        draft = drafts[qubit]
        draft.measured.append(draft.local(qubit))
        draft.bits.append(bit)
    unique = {id(draft): draft for draft in drafts.values()}
    return [draft.finish(index) for draft in unique.values() if draft.bits]


def group_alike(blocks: Sequence[Block]) -> list[list[int]]:
    """Return the indices of blocks, those together that differ only in angles and physical qubits."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, block in enumerate(blocks):
        groups.setdefault((len(block.qubits), block.ops, block.measured), []).append(index)
    return list(groups.values())


def key_of(outcome: int, bits: Sequence[int]) -> int:
    """Return what a block's outcome adds to a program's key.

    Args:
        outcome: Its leftmost bit belongs to bits[0].
        bits: The classical bits, each of which is this bit of the key.
    """
    last = len(bits) - 1
    return sum((outcome >> (last - place) & 1) << bit for place, bit in enumerate(bits))


def outcome_of(key: int, bits: Sequence[int]) -> int:
    """Return a block's outcome in a program's key: the inverse of `key_of`."""
    outcome = 0
    for bit in bits:
        outcome = outcome << 1 | key >> bit & 1
    return outcome


class _Draft:
    """A block that is being collected."""

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.ops: list[tuple[int, ...]] = []
        self.angles: list[tuple[float, float, float]] = []
        self.measured: list[int] = []
        self.bits: list[int] = []

    def local(self, qubit: int) -> int:
        """Return the block's number of a physical qubit, a new one on its first use."""
        return self.places.setdefault(qubit, len(self.places))

    def finish(self, program: int) -> Block:
        return Block(
            program,
            tuple(self.places),
            tuple(self.ops),
            tuple(self.angles),
            tuple(self.measured),
            tuple(self.bits),
        )


def _join(program: Program) -> dict[int, _Draft]:
    """Return the empty block of each qubit that is used: one object for all that CZ gates join."""
    parent: dict[int, int] = {}

    def root(qubit: int) -> int:
        parent.setdefault(qubit, qubit)
        while parent[qubit] != qubit:
            qubit = parent[qubit]
        return qubit

    for gate in program.gates:
        if isinstance(gate, CZ):
            parent[root(gate.first)] = root(gate.second)
        else:
            root(gate.qubit)
    for qubit in program.measured:
        root(qubit)
    drafts = {qubit: _Draft() for qubit in parent if root(qubit) == qubit}
    return {qubit: drafts[root(qubit)] for qubit in parent}


def _check_qubit(qubit: int, calibration: Calibration, what: str) -> None:
    if not 0 <= qubit < calibration.n_qubits:
        raise ConfigError(
            f"{what} qubit {qubit}; chip '{calibration.chip}' has qubits 0 to "
            f"{calibration.n_qubits - 1}."
        )
    if qubit not in calibration.qubits:
        raise ConfigError(
            f"{what} qubit {qubit}, which is dead on chip '{calibration.chip}'. "
            f"Place the circuit on living qubits."
        )
