"""What is sent to a chip: U3 and CZ with numbers on physical qubits, and OriginIR as its text.

    QINIT 72
    CREG 2
    U3 q[0],(1.57079633,0.0,3.14159265)
    CZ q[0],q[1]
    MEASURE q[0],c[0]
    MEASURE q[1],c[1]

The reader also takes the other gates that Origin's client writes, and turns them into U3 and CZ.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qpeft.chips.originir_gates import GATE_TABLE, Local, Step, controlled, inverse, u3_of
from qpeft.errors import ConfigError, did_you_mean


class U3(NamedTuple):
    """A one-qubit gate; angles in radians, the matrix is that of `native.u3_angles`."""

    qubit: int
    theta: float
    phi: float
    lam: float


class CZ(NamedTuple):
    """A controlled phase flip."""

    first: int
    second: int


@dataclass(frozen=True)
class Program:
    """A program of a chip.

    Args:
        n_qubits: Qubits of the chip.
        gates: In the order in which they act, on physical qubits.
        measured: Physical qubits that are read out at the end; entry j gives classical bit j.
    """

    n_qubits: int
    gates: tuple[U3 | CZ, ...]
    measured: tuple[int, ...]


def to_originir(program: Program) -> str:
    """Write a program as OriginIR, with up to 15 decimals an angle.

    Args:
        program: The program.

    Returns:
        Lines, each with its newline.

    Example:
        >>> print(to_originir(Program(2, (U3(0, 0.5, 0.0, -1.25), CZ(0, 1)), (1,))), end="")
        QINIT 2
        CREG 1
        U3 q[0],(0.5,0.0,-1.25)
        CZ q[0],q[1]
        MEASURE q[1],c[0]
    """
    lines = [f"QINIT {program.n_qubits}", f"CREG {len(program.measured)}"]
    for gate in program.gates:
        if len(gate) == 4:
            qubit, theta, phi, lam = gate
            lines.append(f"U3 q[{qubit}],({_digits(theta)},{_digits(phi)},{_digits(lam)})")
        else:
            lines.append(f"CZ q[{gate[0]}],q[{gate[1]}]")
    lines += [f"MEASURE q[{qubit}],c[{bit}]" for bit, qubit in enumerate(program.measured)]
    return "\n".join(lines) + "\n"


def from_originir(text: str) -> Program:
    """Read a program from OriginIR.

    Gates that are not native become U3 and CZ, equal up to a global phase. Barriers and identities are left out,
    because the order of a program's gates says as much. Blocks DAGGER ... ENDDAGGER and CONTROL q[k] ...
    ENDCONTROL may be nested, but one control qubit of one-qubit gates is the most.

    Args:
        text: QINIT, CREG, gates, and a MEASURE for each classical bit 0, 1, ... without a gap.

    Raises:
        ConfigError: A line cannot be read, or does not make sense on a chip; the message names it.

    Example:
        >>> from_originir("QINIT 2\\nCREG 1\\nCNOT q[0],q[1]\\nMEASURE q[1],c[0]\\n").measured
        (1,)
    """
    reader = _Reader()
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            reader.read(line)
        except _LineError as error:
            shown = line.strip() if len(line) <= 80 else line.strip()[:77] + "..."
            raise ConfigError(
                f"OriginIR line {number} ({shown}): {str(error).removesuffix('.')}."
            ) from None
    try:
        return reader.finish()
    except _LineError as error:
        raise ConfigError(f"OriginIR, at its end (line {len(lines)}): {error}.") from None


def _digits(angle: float) -> str:
    """Return an angle without an exponent, which not every reader takes."""
    text = f"{angle:.15f}".rstrip("0")
    return text + "0" if text.endswith(".") else text


class _LineError(Exception):
    """What is wrong with the present line."""


# The form in which both writers print nearly every line; all else takes the longer way.
_FAST_U3 = re.compile(
    r"U3 q\[(\d{1,6})\],\((-?\d{1,6}\.\d{1,20}),(-?\d{1,6}\.\d{1,20}),(-?\d{1,6}\.\d{1,20})\)"
)
_FAST_CZ = re.compile(r"CZ q\[(\d{1,6})\],q\[(\d{1,6})\]")
# Possessive (*+), so that no line, whatever is sent, takes more than linear time.
_LINE = re.compile(r"([A-Za-z0-9]{1,20})\s*+(.*)")
_GATE = re.compile(r"(q\[\d{1,6}\](?:\s*+,\s*+q\[\d{1,6}\])*+)?\s*+(?:,?\s*+\(([^()]*)\))?")
_QUBIT = re.compile(r"q\[(\d+)\]")
_MEASURE = re.compile(r"q\[(\d{1,6})\]\s*+,\s*+c\[(\d{1,6})\]")
_NUMBER = re.compile(r"\s*+[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?\s*+")


@dataclass
class _Block:
    """An open DAGGER (no control) or CONTROL block."""

    control: int | None
    steps: list[Step] = field(default_factory=list)


class _Reader:
    """Collects what the lines say."""

    def __init__(self) -> None:
        self.n_qubits: int | None = None
        self.n_bits: int | None = None
        self.gates: list[U3 | CZ] = []
        self.blocks: list[_Block] = []
        self.measured: dict[int, int] = {}  # classical bit -> qubit
        self.closed: set[int] = set()  # qubits that are measured

    def read(self, line: str) -> None:
        """Take one line."""
        if not self.blocks and self.n_bits is not None:
            match = _FAST_U3.fullmatch(line)
            if match:
                qubit, theta, phi, lam = match.groups()
                self._check_open(int(qubit))
                self.gates.append(U3(int(qubit), float(theta), float(phi), float(lam)))
                return
            match = _FAST_CZ.fullmatch(line)
            if match:
                first, second = int(match[1]), int(match[2])
                self._check_pair(first, second)
                self.gates.append(CZ(first, second))
                return
        stripped = line.strip()
        match = _LINE.fullmatch(stripped)
        if match:
            self._statement(match[1], match[2])
        elif stripped:
            raise _LineError("this is no statement of OriginIR")

    def finish(self) -> Program:
        """Return the program when all lines are read."""
        if self.n_qubits is None or self.n_bits is None:
            raise _LineError("a program starts with 'QINIT n' and 'CREG m'")
        if self.blocks:
            raise _LineError("a DAGGER or CONTROL block is not closed")
        if not self.measured:
            raise _LineError("the program measures no qubit; end it with 'MEASURE q[..],c[..]'")
        for bit in range(len(self.measured)):
            if bit not in self.measured:
                raise _LineError(f"classical bit c[{bit}] is not measured, though later ones are")
        qubits = tuple(self.measured[bit] for bit in range(len(self.measured)))
        return Program(self.n_qubits, tuple(self.gates), qubits)

    def _statement(self, name: str, rest: str) -> None:
        if name == "QINIT" or name == "CREG":
            self._size(name, rest)
        elif self.n_qubits is None or self.n_bits is None:
            raise _LineError("a program starts with 'QINIT n' and 'CREG m'")
        elif name == "MEASURE":
            self._measure(rest)
        elif name in ("ENDDAGGER", "ENDCONTROL"):
            self._close_block(name)
        else:
            match = _GATE.fullmatch(rest)
            if not match:
                raise _LineError("expected NAME q[i],q[j],... and angles in brackets")
            qubits = [int(digits) for digits in _QUBIT.findall(match[1] or "")]
            angles = [] if match[2] is None else [_number(part) for part in match[2].split(",")]
            for qubit in qubits:
                self._check_open(qubit)
            if len(set(qubits)) != len(qubits):
                raise _LineError("the qubits of a statement must differ")
            self._gate_or_block(name, qubits, angles)

    def _gate_or_block(self, name: str, qubits: list[int], angles: list[float]) -> None:
        if name in GATE_TABLE:
            kind = GATE_TABLE[name]
            if (len(qubits), len(angles)) != (kind.n_qubits, kind.n_angles):
                raise _LineError(
                    f"{name} takes {kind.n_qubits} qubits and {kind.n_angles} angles; got "
                    f"{len(qubits)} and {len(angles)}"
                )
            self._add(kind.steps(qubits, angles))
        elif name == "BARRIER" and not angles:
            pass
        elif name == "DAGGER" and not qubits and not angles:
            self.blocks.append(_Block(None))
        elif name == "CONTROL" and not angles:
            if len(qubits) != 1:
                raise _LineError(
                    f"CONTROL takes one qubit here; got {len(qubits)}. Decompose the gate first"
                )
            self.blocks.append(_Block(qubits[0]))
        else:
            words = ["QINIT", "CREG", "MEASURE", "BARRIER", "DAGGER", "CONTROL", *GATE_TABLE]
            raise _LineError(f"unknown statement '{name}'.{did_you_mean(name, words)}")

    def _size(self, name: str, rest: str) -> None:
        if not re.fullmatch(r"\d{1,6}", rest) or (name == "QINIT" and int(rest) < 1):
            raise _LineError(f"{name} takes one whole number")
        if name == "QINIT" and self.n_qubits is None:
            self.n_qubits = int(rest)
        elif name == "CREG" and self.n_bits is None and self.n_qubits is not None:
            self.n_bits = int(rest)
        else:
            raise _LineError("QINIT comes first and CREG second, once each")

    def _measure(self, rest: str) -> None:
        match = _MEASURE.fullmatch(rest)
        if not match or self.blocks:
            raise _LineError("expected MEASURE q[i],c[j], outside of any block")
        qubit, bit = int(match[1]), int(match[2])
        self._check_open(qubit)
        if self.n_bits is None or bit >= self.n_bits:
            raise _LineError(f"there are {self.n_bits} classical bits, from c[0] on")
        if bit in self.measured:
            raise _LineError(f"c[{bit}] is already written")
        self.measured[bit] = qubit
        self.closed.add(qubit)

    def _close_block(self, name: str) -> None:
        if not self.blocks or (self.blocks[-1].control is None) != (name == "ENDDAGGER"):
            raise _LineError("there is no such block to end")
        block = self.blocks.pop()
        if block.control is None:
            self._add([inverse(step) for step in reversed(block.steps)])
            return
        for step in block.steps:
            if not isinstance(step, Local):
                raise _LineError(
                    "CONTROL goes around one-qubit gates only. Decompose the gate first"
                )
            if step.qubit == block.control:
                raise _LineError(f"q[{step.qubit}] controls itself")
            self._add(controlled(block.control, step))

    def _add(self, steps: Sequence[Step]) -> None:
        if self.blocks:
            self.blocks[-1].steps += steps
            return
        for step in steps:
            if isinstance(step, Local):
                self.gates.append(U3(step.qubit, *u3_of(step.matrix)[1:]))
            else:
                self.gates.append(CZ(*step.qubits))

    def _check_open(self, qubit: int) -> None:
        if self.n_qubits is None or qubit >= self.n_qubits:
            raise _LineError(f"there is no qubit q[{qubit}]; QINIT says {self.n_qubits}")
        if qubit in self.closed:
            raise _LineError(f"q[{qubit}] is already measured; nothing may follow on it")

    def _check_pair(self, first: int, second: int) -> None:
        self._check_open(first)
        self._check_open(second)
        if first == second:
            raise _LineError("the qubits of a statement must differ")


def _number(text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(value):
        raise _LineError(f"'{text.strip()[:40]}' is not a finite number")
    return value
