"""From what Origin's cloud says of a chip to a calibration.

The provider gives edges, not positions, one read-out fidelity a qubit, and no time; what is added here is written
into the calibration's source.
"""

from collections.abc import Iterable
from statistics import median
from typing import Any

from qpeft.chips.calibration import Calibration, QubitQuality, are_neighbours
from qpeft.errors import ConfigError, RemoteError

_USUAL_T1_US, _USUAL_T2_US = 15.0, 1.4
_USUAL_GATE_NS, _USUAL_CZ_NS = 30.0, 40.0


def calibration_of(info: Any, chip: str, taken_at: str) -> Calibration:
    """Return a chip's calibration.

    A qubit that is not available, or of which no gate fidelity is known, is dead. Both states are taken to be read
    equally well. A T1 or T2 that is missing is the median of the others; gate times are taken to be nanoseconds.

    Args:
        info: A `pyqpanda3.qcloud.ChipInfo`.
        chip: Its name.
        taken_at: ISO 8601, when it was asked for.

    Raises:
        RemoteError: The couplers form no grid that is numbered row by row, or a number is impossible.
    """
    available = set(info.available_qubits())
    qualities = [q for q in info.single_qubit_info() if _is_live(q, available)]
    usual_t1 = median([q.get_t1() for q in qualities if q.get_t1() > 0] or [_USUAL_T1_US])
    usual_t2 = median([q.get_t2() for q in qualities if q.get_t2() > 0] or [_USUAL_T2_US])
    qubits = {}
    for quality in qualities:
        t1 = quality.get_t1() if quality.get_t1() > 0 else usual_t1
        t2 = quality.get_t2() if quality.get_t2() > 0 else usual_t2
        readout = quality.get_readout_fidelity()
        qubits[int(quality.get_qubit_id())] = QubitQuality(
            t1, min(t2, 2 * t1), quality.get_single_gate_fidelity(), readout, readout
        )
    couplers: dict[tuple[int, int], float] = {}
    for pair in info.double_qubits_info():
        first, second = sorted(pair.get_qubits())
        couplers[first, second] = max(couplers.get((first, second), 0.0), pair.get_fidelity())
    try:
        return Calibration(
            chip,
            taken_at,
            grid_shape(info.qubits_num(), couplers),
            dict(sorted(qubits.items())),
            dict(sorted(couplers.items())),
            float(info.get_single_gate_timing() or _USUAL_GATE_NS),
            float(info.get_double_gate_timing() or _USUAL_CZ_NS),
            f"Chip information of Origin's cloud for {chip}, asked for at {taken_at}. Both states are taken to "
            f"be read equally well, gate times to be nanoseconds.",
        )
    except ConfigError as error:
        raise RemoteError(
            f"What the cloud says of chip '{chip}' cannot be used: {error} Give `calibration=` a file."
        ) from error


def grid_shape(n_qubits: int, pairs: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the rows and columns of a grid, numbered row by row, in which all pairs are neighbours.

    Of several the one with the fewest couplers missing.

    Raises:
        ConfigError: There is none.

    Example:
        >>> grid_shape(6, [(0, 1), (1, 2), (0, 3), (4, 5)])
        (2, 3)
    """
    pairs = list(pairs)
    best: tuple[int, tuple[int, int]] | None = None
    for columns in range(1, n_qubits + 1):
        shape = (-(-n_qubits // columns), columns)
        if all(are_neighbours(shape, first, second) for first, second in pairs):
            n_couplers = 2 * shape[0] * columns - shape[0] - columns
            if best is None or n_couplers < best[0]:
                best = (n_couplers, shape)
    if best is None:
        raise ConfigError(
            f"the {len(pairs)} couplers of its {n_qubits} qubits form no grid that is numbered row by row."
        )
    return best[1]


def _is_live(quality: Any, available: set[int]) -> bool:
    name = quality.get_qubit_id()
    return name.isdigit() and int(name) in available and quality.get_single_gate_fidelity() > 0
