"""How any circuit gets onto a chip: as it is where its couplings fit the grid, else with SWAPs.

Qiskit's transpiler decides where the qubits start and where SWAPs go, and nothing else: it sees a placeholder for
each gate. Our own gates then stand in its order on its wires, so angles are still bound row by row, and a read-out
order says on which wire each qubit ends.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from qpeft.chips.calibration import Calibration
from qpeft.chips.native import NativeCircuit, compile_native
from qpeft.chips.placement import Cells, Place, find_places, no_place_message
from qpeft.circuits import Circuit, Gate
from qpeft.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from qiskit import QuantumCircuit


@dataclass(frozen=True)
class FittedCircuit:
    """A circuit in a form that a chip runs, with all places where it does.

    Args:
        native: Native gates on wires; a routed circuit may have more wires than the circuit has qubits.
        readout: The wire on which each qubit of the circuit is read out.
        places: The best first; the physical qubit of each wire.
    """

    native: NativeCircuit
    readout: tuple[int, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True)
class RoutedCircuit:
    """A circuit with SWAPs that fits a rectangle of a grid.

    Args:
        circuit: The gates, with each SWAP as three CNOT; its angles are those of the original.
        readout: The wire on which each qubit of the original ends.
        cells: The row and column of each wire in the rectangle.
    """

    circuit: Circuit
    readout: tuple[int, ...]
    cells: Cells


def fit_to_chip(
    circuit: Circuit, calibration: Calibration, *, min_cz_fidelity: float = 0.0
) -> FittedCircuit:
    """Compile a circuit and find its places on a chip, with SWAPs only if there is no other way.

    Args:
        circuit: The template.
        calibration: The chip.
        min_cz_fidelity: A coupler below this counts as dead.

    Raises:
        ConfigError: The circuit is too large for the chip, or too much of the chip is dead.
        MissingExtraError: SWAPs are needed and qiskit is not installed.
    """
    native = compile_native(circuit)
    places = find_places(native, calibration, min_cz_fidelity=min_cz_fidelity)
    if places:
        return FittedCircuit(native, tuple(range(circuit.n_qubits)), tuple(places))
    if circuit.n_qubits <= len(calibration.qubits):
        ways = [
            _fit_with_swaps(circuit, size, calibration, min_cz_fidelity)
            for size in _rectangles(circuit.n_qubits, calibration.shape)
        ]
        possible = [way for way in ways if way.places]
        if possible:
            return max(possible, key=lambda way: way.places[0].quality)
    raise ConfigError(no_place_message(circuit.n_qubits, calibration, min_cz_fidelity))


@lru_cache(maxsize=256)
def route_circuit(circuit: Circuit, height: int, width: int) -> RoutedCircuit:
    """Insert SWAPs so that every two-qubit gate acts on neighbours in a rectangle.

    Args:
        circuit: A circuit of at most height * width qubits.
        height: Rows of the rectangle.
        width: Columns of the rectangle.

    Raises:
        MissingExtraError: Qiskit is not installed.
    """
    on_rectangle, ends = _transpile_placeholders(circuit, height, width)
    placed: list[tuple[Gate | None, tuple[int, ...]]] = []
    for item in on_rectangle.data:
        cells = tuple(on_rectangle.find_bit(qubit).index for qubit in item.qubits)
        label = item.operation.label
        placed.append((None if label is None else circuit.gates[int(label)], cells))
    used = sorted({cell for _, cells in placed for cell in cells} | set(ends))
    wire = {cell: index for index, cell in enumerate(used)}
    gates: list[Gate] = []
    for gate, cells in placed:
        wires = tuple(wire[cell] for cell in cells)
        if gate is None:
            gates += [Gate("CNOT", pair) for pair in (wires, wires[::-1], wires)]
        else:
            gates.append(Gate(gate.name, wires, gate.angle))
    return RoutedCircuit(
        Circuit(len(used), tuple(gates), circuit.name),
        tuple(wire[cell] for cell in ends),
        tuple(divmod(cell, width) for cell in used),
    )


def _fit_with_swaps(
    circuit: Circuit, size: tuple[int, int], calibration: Calibration, min_cz_fidelity: float
) -> FittedCircuit:
    """Route a circuit on one size of rectangle and look for live places of it."""
    routed = route_circuit(circuit, *size)
    native = compile_native(routed.circuit)
    places = find_places(
        native,
        calibration,
        min_cz_fidelity=min_cz_fidelity,
        readout=routed.readout,
        template=routed.cells,
    )
    return FittedCircuit(native, routed.readout, tuple(places))


def _transpile_placeholders(
    circuit: Circuit, height: int, width: int
) -> "tuple[QuantumCircuit, list[int]]":
    """Return placeholders and SWAPs on cells of a rectangle, and the cell where each qubit ends.

    A placeholder's label is the number of its gate; a SWAP has no label.
    """
    try:
        from qiskit import QuantumCircuit
        from qiskit.circuit.library import CZGate, XGate
        from qiskit.transpiler import CouplingMap, StagedPassManager, generate_preset_pass_manager
    except ImportError:
        raise MissingExtraError(
            "qiskit", "qiskit", f"Circuit '{circuit.name}' does not fit the chip's grid; routing it"
        ) from None
    template = QuantumCircuit(circuit.n_qubits)
    for number, gate in enumerate(circuit.gates):
        kind = XGate if len(gate.qubits) == 1 else CZGate
        template.append(kind(label=str(number)), gate.qubits)
    preset = generate_preset_pass_manager(
        optimization_level=3,
        coupling_map=CouplingMap.from_grid(height, width),
        basis_gates=["x", "cz", "swap"],
        seed_transpiler=0,
    )
    # No stage after these: a placeholder must be neither translated nor merged.
    stages = StagedPassManager(["layout", "routing"], layout=preset.layout, routing=preset.routing)
    routed = stages.run(template)
    return routed, routed.layout.final_index_layout(filter_ancillas=True)


_MAX_RECTANGLES = 8


def _rectangles(n_qubits: int, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the smallest rectangles that hold so many qubits, the squarest first among equals."""
    short, long = min(shape), max(shape)
    sizes = [
        (height, width)
        for height in range(1, short + 1)
        for width in range(height, long + 1)
        if height * width >= n_qubits
    ]
    return sorted(sizes, key=lambda size: (size[0] * size[1], size[1] - size[0]))[:_MAX_RECTANGLES]
