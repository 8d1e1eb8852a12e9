"""Which places run side by side: many small circuits on as few programs of a chip as possible.

The choice is made by dynamic programming. Places are taken in the order of their first qubit along the grid's
longer side; what later places must know is only which qubits ahead are taken, a few bits. So the best set of
disjoint places is found for every number of blocks: exactly for small circuits such as plaquettes, and among the
`_MAX_STATES` most promising situations where there would be too many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qpeft.chips.placement import Place, grid_neighbours
from qpeft.errors import ConfigError


@dataclass(frozen=True)
class PackingOptions:
    """How circuits share a program.

    Args:
        is_packed: False runs one circuit a program, at the best place.
        has_idle_ring: No coupler of the grid joins two blocks: there is an idle qubit between them.
        min_cz_fidelity: A coupler below this counts as dead.
        max_blocks: Most circuits in one program; None for as many as fit.

    Raises:
        ConfigError: A value is out of range.
    """

    is_packed: bool = True
    has_idle_ring: bool = False
    min_cz_fidelity: float = 0.0
    max_blocks: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_cz_fidelity <= 1:
            raise ConfigError(f"min_cz_fidelity lies in [0, 1]; got {self.min_cz_fidelity}.")
        if self.max_blocks is not None and self.max_blocks < 1:
            raise ConfigError(f"max_blocks is at least 1 or None; got {self.max_blocks}.")


@dataclass(frozen=True)
class Packing:
    """The blocks of each program; circuits fill them in order.

    Args:
        programs: The places of each program, disjoint within it.
    """

    programs: tuple[tuple[Place, ...], ...]

    @property
    def n_circuits(self) -> int:
        """Circuits in all programs."""
        return sum(len(places) for places in self.programs)

    @property
    def ratio(self) -> float:
        """Circuits a program."""
        return self.n_circuits / len(self.programs) if self.programs else 0.0


def pack_circuits(
    n_circuits: int, places: Sequence[Place], shape: tuple[int, int], options: PackingOptions
) -> Packing:
    """Spread circuits of one shape evenly over as few programs as possible, on the best places.

    Args:
        n_circuits: How many circuits.
        places: From `find_places`, at least one.
        shape: Rows and columns of the chip's grid.
        options: How circuits share a program.

    Returns:
        Programs whose numbers of blocks differ by at most one, the fuller ones first.
    """
    best_sets = choose_disjoint(places, shape, has_idle_ring=options.has_idle_ring)
    room = len(best_sets) if options.max_blocks is None else min(len(best_sets), options.max_blocks)
    if not options.is_packed:
        room = 1
    n_programs = math.ceil(n_circuits / room)
    if n_programs == 0:
        return Packing(())
    size, n_larger = divmod(n_circuits, n_programs)
    sizes = [size + 1] * n_larger + [size] * (n_programs - n_larger)
    return Packing(tuple(best_sets[size - 1] for size in sizes))


def choose_disjoint(
    places: Sequence[Place], shape: tuple[int, int], *, has_idle_ring: bool = False
) -> list[tuple[Place, ...]]:
    """Return the best set of disjoint places for each size that is possible.

    Args:
        places: Where one circuit fits.
        shape: Rows and columns of the grid.
        has_idle_ring: Places that a coupler would join exclude each other too.

    Returns:
        Entry m - 1 is the set of m places with the highest product of qualities, in grid order. The last entry is
        the largest set; sizes are exact while the search keeps all situations, which it does for small circuits.
    """
    rank = {qubit: place for place, qubit in enumerate(_scan_order(shape))}
    queue = sorted(
        (_Candidate.of(place, shape, rank, has_idle_ring) for place in places),
        key=lambda candidate: (candidate.first, candidate.place.qubits),
    )
    # levels[m]: for each mask of qubits taken ahead, the best choice of m places that leaves it.
    levels: list[dict[int, _Choice]] = [{0: _Choice(0.0, None, None)}]
    for index, candidate in enumerate(queue):
        if index and candidate.first > queue[index - 1].first:
            levels = [_forget(level, candidate.first) for level in levels]
        _take(candidate, levels)
    return [max(level.values(), key=lambda choice: choice.score).places() for level in levels[1:]]


_MAX_STATES = 128


@dataclass(frozen=True)
class _Candidate:
    """A place as bits: bit i stands for the i-th qubit of the scan."""

    place: Place
    first: int
    qubits: int
    blocked: int
    score: float

    @classmethod
    def of(
        cls, place: Place, shape: tuple[int, int], rank: dict[int, int], has_idle_ring: bool
    ) -> "_Candidate":
        taken = set(place.qubits)
        ring = {near for qubit in taken for near in grid_neighbours(qubit, shape)}
        qubits = sum(1 << rank[qubit] for qubit in taken)
        blocked = sum(1 << rank[qubit] for qubit in (taken | ring if has_idle_ring else taken))
        first = min(rank[qubit] for qubit in taken)
        return cls(place, first, qubits, blocked, math.log(place.quality))


@dataclass(frozen=True, slots=True)
class _Choice:
    """Places chosen so far, as a chain from the last one back."""

    score: float
    last: Place | None
    before: "_Choice | None"

    def places(self) -> tuple[Place, ...]:
        found: list[Place] = []
        choice: _Choice | None = self
        while choice is not None and choice.last is not None:
            found.append(choice.last)
            choice = choice.before
        return tuple(reversed(found))


def _take(candidate: _Candidate, levels: list[dict[int, _Choice]]) -> None:
    """Add the choices that include a candidate, the largest first so that it is taken once."""
    if len(levels[-1]) > 0:
        levels.append({})
    for size in range(len(levels) - 1, 0, -1):
        level = levels[size]
        for mask, choice in levels[size - 1].items():
            if mask & candidate.qubits == 0:
                score = choice.score + candidate.score
                known = level.get(mask | candidate.blocked)
                if known is None or score > known.score:
                    level[mask | candidate.blocked] = _Choice(score, candidate.place, choice)
    if not levels[-1]:
        levels.pop()


def _forget(level: dict[int, _Choice], first: int) -> dict[int, _Choice]:
    """Drop the bits that no later place can meet, and keep the best of what is then the same."""
    kept: dict[int, _Choice] = {}
    for mask, choice in level.items():
        ahead = mask >> first << first
        known = kept.get(ahead)
        if known is None or choice.score > known.score:
            kept[ahead] = choice
    if len(kept) <= _MAX_STATES:
        return kept
    # Half of what is kept is good, and half leaves much room for later places.
    by_score = sorted(kept, key=lambda mask: (-kept[mask].score, mask))
    by_room = sorted(kept, key=lambda mask: (mask.bit_count(), -kept[mask].score, mask))
    half = _MAX_STATES // 2
    return {mask: kept[mask] for mask in [*by_score[:half], *by_room[:half]]}


def _scan_order(shape: tuple[int, int]) -> list[int]:
    """Return the qubits line by line along the longer side, which keeps few qubits in sight."""
    rows, columns = shape
    if rows > columns:
        return list(range(rows * columns))
    return [row * columns + column for column in range(columns) for row in range(rows)]
