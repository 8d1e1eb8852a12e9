"""Compiles a circuit into a few layers of gates that can act together.

Five kinds of layer are enough, because RX and RY of data are RZ of data between two fixed basis changes:

    start          RY of data on fresh qubits: a real product state, no matrix needed
    Local          one 2 x 2 matrix on each qubit, from weights or fixed: a Kronecker product
    Diagonal       phases that are linear in the weights (CRZ, CZ, RZZ)
    DataPhase      phases that are linear in the inputs
    Permutation    basis states change places (CNOT)

Only `start` and `DataPhase` depend on the row. Between two of them everything can be fused.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qpeft.circuits import Circuit, Gate, Input, Weight
from qpeft.circuits.gates import GATES

_SQRT_HALF = math.sqrt(0.5)


def _constant(entries: list[list[complex | float | int]]) -> Tensor:
    # The device is given because this module may be imported inside someone's `torch.device(...)`.
    return torch.tensor(entries, dtype=torch.complex128, device="cpu")


# Fixed one-qubit matrices. `TO_Y` turns the Z axis into the Y axis: TO_Y Z TO_Y^-1 = Y.
FIXED_MATRICES = {
    "I": _constant([[1, 0], [0, 1]]),
    "H": _constant([[1, 1], [1, -1]]) * _SQRT_HALF,
    "TO_Y": _constant([[1, 1], [1j, -1j]]) * _SQRT_HALF,
    "FROM_Y": _constant([[1, -1j], [1, 1j]]) * _SQRT_HALF,
}
# -i P for each Pauli axis: R_P(t) = cos(t/2) I + sin(t/2) (-i P).
GENERATORS = {
    "X": _constant([[0, -1j], [-1j, 0]]),
    "Y": _constant([[0, -1], [1, 0]]),
    "Z": _constant([[-1j, 0], [0, 1j]]),
}


@dataclass
class Local:
    """A chain of one-qubit gates for each qubit: (axis, weight index) or the name of a fixed matrix."""

    chains: dict[int, list[tuple[str, int] | str]] = field(default_factory=dict)

    @property
    def qubits(self) -> set[int]:
        """The qubits it acts on."""
        return set(self.chains)


@dataclass
class Diagonal:
    """Phases exp(-i/2 (weights @ coefficients + fixed)), collected gate by gate."""

    gates: list[Gate] = field(default_factory=list)

    @property
    def qubits(self) -> set[int]:
        """The qubits it acts on."""
        return {qubit for gate in self.gates for qubit in gate.qubits}


@dataclass
class DataPhase(Diagonal):
    """Phases exp(-i/2 (inputs @ coefficients)): the same data entering again."""


@dataclass
class Permutation:
    """CNOTs in the order in which they act."""

    gates: list[Gate] = field(default_factory=list)

    @property
    def qubits(self) -> set[int]:
        """The qubits it acts on."""
        return {qubit for gate in self.gates for qubit in gate.qubits}


Layer = Local | Diagonal | DataPhase | Permutation


@dataclass(frozen=True)
class LayeredCircuit:
    """A compiled circuit.

    Args:
        n_qubits: Number of qubits.
        n_inputs: Number of data columns.
        n_weights: Number of trained angles.
        start: For each qubit the data column of its first RY, or None where it starts in |0>.
        layers: What acts after the start.
    """

    n_qubits: int
    n_inputs: int
    n_weights: int
    start: tuple[int | None, ...]
    layers: tuple[Layer, ...]


def compile_layers(circuit: Circuit) -> LayeredCircuit:
    """Sort the gates of a circuit into layers, moving a gate forward past what it commutes with."""
    start: list[int | None] = [None] * circuit.n_qubits
    touched: set[int] = set()
    layers: list[Layer] = []
    for gate in circuit.gates:
        (first, *_) = gate.qubits
        if gate.name == "RY" and isinstance(gate.angle, Input) and first not in touched:
            start[first] = gate.angle.index
        else:
            for kind, piece in _split(gate):
                _place(layers, kind, piece, gate.qubits)
        touched.update(gate.qubits)
    return LayeredCircuit(
        circuit.n_qubits, circuit.n_inputs, circuit.n_weights, tuple(start), tuple(layers)
    )


def phase_coefficients(gates: list[Gate], n_qubits: int, n_angles: int, kind: type) -> Tensor:
    """Return (n_angles, 2^n): how each angle of the given kind turns each basis state.

    The phase of a basis state b is exp(-i/2 sum_j angle_j coefficients[j, b]).
    """
    coefficients = torch.zeros(n_angles, 2**n_qubits, dtype=torch.float64)
    for gate in gates:
        if isinstance(gate.angle, kind):
            coefficients[gate.angle.index] += _signs(gate, n_qubits)  # type: ignore[union-attr]
    return coefficients


def fixed_phases(gates: list[Gate], n_qubits: int) -> Tensor:
    """Return (2^n,): the summed phase, in units of -1/2 rad, of the gates that have no angle."""
    total = torch.zeros(2**n_qubits, dtype=torch.float64)
    for gate in gates:
        if gate.angle is None:
            total += math.pi * _signs(gate, n_qubits)
    return total


def permutation_source(gates: list[Gate], n_qubits: int) -> Tensor:
    """Return (2^n,): the index from which each amplitude comes, new[i] = old[source[i]]."""
    source = torch.arange(2**n_qubits)
    for gate in gates:
        control, target = (n_qubits - 1 - qubit for qubit in gate.qubits)
        states = torch.arange(2**n_qubits)
        source = source[states ^ ((states >> control & 1) << target)]
    return source


def _split(gate: Gate) -> list[tuple[type, object]]:
    """Return a gate as pieces (layer kind, piece) that act one after another."""
    axis = GATES[gate.name].axis
    if gate.name == "CNOT":
        return [(Permutation, gate)]
    if gate.name == "H":
        return [(Local, "H")]
    if isinstance(gate.angle, Weight) and axis is not None:
        return [(Local, (axis, gate.angle.index))]
    if not isinstance(gate.angle, Input):
        return [(Diagonal, gate)]
    if axis in ("X", "Y"):
        before, after = ("H", "H") if axis == "X" else ("FROM_Y", "TO_Y")
        diagonal = Gate("RZ", gate.qubits, gate.angle)
        return [(Local, before), (DataPhase, diagonal), (Local, after)]
    return [(DataPhase, gate)]


def _place(layers: list[Layer], kind: type, piece: object, qubits: tuple[int, ...]) -> None:
    """Add a piece to the last layer of its kind that it can reach, or to a new layer."""
    for layer in reversed(layers):
        if type(layer) is kind:
            _add(layer, piece, qubits)
            return
        is_free = layer.qubits.isdisjoint(qubits)
        commutes = isinstance(layer, Diagonal) and issubclass(kind, Diagonal)
        if not (is_free or commutes):
            break
    layer = kind()
    _add(layer, piece, qubits)
    layers.append(layer)


def _add(layer: Layer, piece: object, qubits: tuple[int, ...]) -> None:
    if isinstance(layer, Local):
        layer.chains.setdefault(qubits[0], []).append(piece)  # type: ignore[arg-type]
    else:
        layer.gates.append(piece)  # type: ignore[arg-type]


def _signs(gate: Gate, n_qubits: int) -> Tensor:
    """Return (2^n,): s of the gate for each basis state, its phase being exp(-i t s / 2)."""
    phases = (1, -1) if gate.name == "RZ" else GATES[gate.name].phases
    if phases is None:
        raise AssertionError(f"{gate.name} is not diagonal")
    states = torch.arange(2**n_qubits)
    local = torch.zeros_like(states)
    for qubit in gate.qubits:
        local = 2 * local + (states >> (n_qubits - 1 - qubit) & 1)
    return torch.tensor(phases, dtype=torch.float64)[local]
