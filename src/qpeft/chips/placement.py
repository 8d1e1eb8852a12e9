"""Where on a chip's grid a circuit fits as it is, without SWAPs, and how good each place is.

    couplings of a circuit  --search in small rectangles-->  templates (a cell for each circuit qubit)
    templates  --moved over the grid-->  places whose qubits and used couplers are alive, best first

A ring of four is a 2 x 2 plaquette; a longer even ring is the boundary of a rectangle of two rows; a chain is
folded into the smallest rectangle. Mirrored and transposed templates are found by the same search.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from qpeft.chips.calibration import Calibration
from qpeft.chips.native import ControlledZ, NativeCircuit, Turn

Cells = tuple[tuple[int, int], ...]
"""The (row, column) of each circuit qubit, relative to a corner of a rectangle of the grid."""

Couplings = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Place:
    """Where a circuit can run.

    Args:
        qubits: The physical qubit of each circuit qubit.
        quality: Expected fidelity of the circuit there, read-out included, in (0, 1].
    """

    qubits: tuple[int, ...]
    quality: float


def find_places(
    native: NativeCircuit,
    calibration: Calibration,
    *,
    min_cz_fidelity: float = 0.0,
    readout: Sequence[int] | None = None,
    template: Cells | None = None,
) -> list[Place]:
    """Return every set of physical qubits on which a circuit fits, the best first.

    Args:
        native: The circuit.
        calibration: The chip; a place uses no dead qubit and no dead coupler (others may be dead).
        min_cz_fidelity: A coupler below this counts as dead.
        readout: The circuit qubits that are read out; None for all of them.
        template: Cells on which the circuit is known to fit; None searches for them.

    Returns:
        One place for each set of physical qubits, in its best orientation; empty where nothing fits.

    Example:
        >>> from qpeft.circuits import build_ansatz
        >>> from qpeft.chips.calibration import QubitQuality
        >>> from qpeft.chips.native import compile_native
        >>> qubits = dict.fromkeys(range(4), QubitQuality(20.0, 2.0, 0.997, 0.93, 0.93))
        >>> couplers = dict.fromkeys([(0, 1), (0, 2), (1, 3), (2, 3)], 0.97)
        >>> chip = Calibration("toy", "2025-01-01", (2, 2), qubits, couplers, 30.0, 40.0, "made up")
        >>> [sorted(p.qubits) for p in find_places(compile_native(build_ansatz("reupload", 4, 1)), chip)]
        [[0, 1, 2, 3]]
    """
    grade = _Grader(native, calibration, min_cz_fidelity, readout)
    best: dict[frozenset[int], Place] = {}
    if template is not None:
        _move_over_grid(_orientations(template), calibration.shape, grade, best)
    else:
        enough = native.n_qubits + native.n_qubits % 2  # a tighter fit may pack worse than this
        for area, templates in _templates_by_area(native, calibration.shape):
            if best and area > enough:
                break
            _move_over_grid(templates, calibration.shape, grade, best)
    return sorted(best.values(), key=lambda place: (-place.quality, place.qubits))


def no_place_message(n_qubits: int, calibration: Calibration, min_cz_fidelity: float) -> str:
    """Say why a circuit has no place on a chip and what to do."""
    n_live = sum(quality.gate_fidelity > 0 for quality in calibration.qubits.values())
    if n_qubits > n_live:
        return (
            f"The circuit has {n_qubits} qubits, but chip '{calibration.chip}' has {n_live} live ones. "
            f"Use a smaller rank, or groups so that each block fits."
        )
    n_couplers = sum(value > max(0.0, min_cz_fidelity) for value in calibration.couplers.values())
    return (
        f"The circuit of {n_qubits} qubits has no place on chip '{calibration.chip}': its couplings meet dead "
        f"qubits or couplers everywhere ({n_live} qubits and {n_couplers} couplers are alive at "
        f"min_cz_fidelity={min_cz_fidelity:g}). Lower min_cz_fidelity, or use a smaller circuit or another chip."
    )


def grid_neighbours(qubit: int, shape: tuple[int, int]) -> list[int]:
    """Return the qubits beside, above and below a qubit of a grid, in ascending order."""
    rows, columns = shape
    row, column = divmod(qubit, columns)
    around = ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column))
    return [r * columns + c for r, c in around if 0 <= r < rows and 0 <= c < columns]


class _Grader:
    """Says how good a circuit is on given physical qubits; 0 where something that it uses is dead."""

    def __init__(
        self,
        native: NativeCircuit,
        calibration: Calibration,
        min_cz_fidelity: float,
        readout: Sequence[int] | None,
    ):
        measured = range(native.n_qubits) if readout is None else readout
        n_turns = Counter(op.qubit for op in native.ops if isinstance(op, Turn))
        n_czs = Counter(_pair(*op.qubits) for op in native.ops if isinstance(op, ControlledZ))
        self.columns = calibration.shape[1]
        self.uses = [(n_turns[qubit], qubit in measured) for qubit in range(native.n_qubits)]
        self.n_czs = sorted(n_czs.items())
        self.gate: dict[int, float] = {}
        self.readout: dict[int, float] = {}
        for number, quality in calibration.qubits.items():
            right = (quality.readout_0 + quality.readout_1) / 2
            if quality.gate_fidelity > 0 and right > 0:
                self.gate[number] = math.log(quality.gate_fidelity)
                self.readout[number] = math.log(right)
        self.cz = {
            pair: math.log(fidelity)
            for pair, fidelity in calibration.couplers.items()
            if fidelity > 0 and fidelity >= min_cz_fidelity
        }

    def __call__(self, qubits: tuple[int, ...]) -> float:
        """Return the expected fidelity, in [0, 1]."""
        total = 0.0
        for qubit, (n_turns, is_measured) in zip(qubits, self.uses, strict=True):
            if qubit not in self.gate:
                return 0.0
            total += n_turns * self.gate[qubit] + is_measured * self.readout[qubit]
        for (first, second), n_czs in self.n_czs:
            pair = _pair(qubits[first], qubits[second])
            if pair not in self.cz:
                return 0.0
            total += n_czs * self.cz[pair]
        return math.exp(total)


def _move_over_grid(
    templates: Sequence[Cells],
    shape: tuple[int, int],
    grade: _Grader,
    best: dict[frozenset[int], Place],
) -> None:
    """Put each template everywhere; keep the best orientation of each set of qubits."""
    rows, columns = shape
    for cells in templates:
        height = 1 + max(row for row, _ in cells)
        width = 1 + max(column for _, column in cells)
        for top in range(rows - height + 1):
            for left in range(columns - width + 1):
                qubits = tuple((top + row) * columns + left + column for row, column in cells)
                quality = grade(qubits)
                known = best.get(frozenset(qubits))
                if quality > 0 and (known is None or quality > known.quality):
                    best[frozenset(qubits)] = Place(qubits, quality)


def _orientations(cells: Cells) -> list[Cells]:
    """Return the eight mirrored and transposed forms of a template, each once."""
    found: dict[Cells, None] = {}
    for turned in (cells, tuple((column, row) for row, column in cells)):
        height = max(row for row, _ in turned)
        width = max(column for _, column in turned)
        for flip_rows in (False, True):
            for flip_columns in (False, True):
                form = tuple(
                    (height - row if flip_rows else row, width - column if flip_columns else column)
                    for row, column in turned
                )
                found.setdefault(form)
    return list(found)


def _templates_by_area(
    native: NativeCircuit, shape: tuple[int, int]
) -> Iterator[tuple[int, list[Cells]]]:
    """Yield the templates of a circuit in rectangles of growing area."""
    n_qubits, couplings = native.n_qubits, native.couplings
    if not _may_fit_grid(n_qubits, couplings):
        return
    rows, columns = shape
    for area in range(n_qubits, min(rows * columns, 2 * n_qubits + 4) + 1):
        templates: list[Cells] = []
        for height in range(1, rows + 1):
            width, rest = divmod(area, height)
            if rest == 0 and 1 <= width <= columns:
                templates += _embeddings(n_qubits, couplings, height, width)
        yield area, templates


def _may_fit_grid(n_qubits: int, couplings: Couplings) -> bool:
    """A grid has no odd ring, and no cell of it has more than four neighbours."""
    neighbours = _neighbours(n_qubits, couplings)
    colour: dict[int, int] = {}
    for qubit in _search_order(neighbours):
        around = {colour[other] for other in neighbours[qubit] if other in colour}
        if len(around) > 1 or len(neighbours[qubit]) > 4:
            return False
        colour[qubit] = 1 - around.pop() if around else 0
    return True


_MAX_STEPS = 20_000  # of one search; every ring, chain and ladder in its best rectangle needs fewer
_MAX_EMBEDDINGS = 64  # of one rectangle; more are relabellings that hardly differ in quality


@lru_cache(maxsize=1024)
def _embeddings(n_qubits: int, couplings: Couplings, height: int, width: int) -> tuple[Cells, ...]:
    """Return ways to put a coupling graph on a rectangle, depth first, up to the two limits."""
    neighbours = _neighbours(n_qubits, couplings)
    order = _search_order(neighbours)
    cells: dict[int, int] = {}
    taken: set[int] = set()
    found: list[Cells] = []
    n_steps = 0

    def candidates(depth: int) -> list[int]:
        qubit = order[depth]
        placed = [cells[other] for other in neighbours[qubit] if other in cells]
        if placed:
            around = [grid_neighbours(cell, (height, width)) for cell in placed]
            return [cell for cell in around[0] if all(cell in other for other in around[1:])]
        # Qubits without couplings are alike: only one of their orders is worth a look.
        is_like_last = depth > 0 and not neighbours[qubit] and not neighbours[order[depth - 1]]
        return list(range(cells[order[depth - 1]] + 1 if is_like_last else 0, height * width))

    def place(depth: int) -> None:
        nonlocal n_steps
        if depth == n_qubits:
            found.append(tuple(divmod(cells[qubit], width) for qubit in range(n_qubits)))
            return
        for cell in candidates(depth):
            if n_steps >= _MAX_STEPS or len(found) >= _MAX_EMBEDDINGS:
                return
            if cell not in taken:
                n_steps += 1
                cells[order[depth]] = cell
                taken.add(cell)
                place(depth + 1)
                taken.remove(cell)
                del cells[order[depth]]

    place(0)
    return tuple(found)


def _search_order(neighbours: Sequence[Sequence[int]]) -> list[int]:
    """Return all qubits so that each follows one that it is coupled to, where there is one."""
    order: dict[int, None] = {}

    def visit(qubit: int) -> None:
        order[qubit] = None
        for other in neighbours[qubit]:
            if other not in order:
                visit(other)

    coupled_first = sorted(range(len(neighbours)), key=lambda qubit: not neighbours[qubit])
    for qubit in coupled_first:
        if qubit not in order:
            visit(qubit)
    return list(order)


def _neighbours(n_qubits: int, couplings: Couplings) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(n_qubits)]
    for first, second in sorted(couplings):
        found[first].append(second)
        found[second].append(first)
    return found


def _pair(first: int, second: int) -> tuple[int, int]:
    return (first, second) if first < second else (second, first)
