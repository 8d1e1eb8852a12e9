"""The chips of a service: their names, how they are now, and their best places."""

import time
from collections.abc import Callable
from functools import lru_cache

from qpeft.chips.calibration import Calibration
from qpeft.chips.placement import grid_neighbours
from qpeft.service.settings import ServiceSettings
from qpeft.service.wire import UNKNOWN, WIRE_IDS, RefusalError

_SECONDS_PER_HOUR = 3600


class Machines:
    """The chips.

    Args:
        settings: With each chip as it was at the beginning.
        began_at: Seconds since 1970 from which they drift.
        seed: Of the drift.
        clock: The time now.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        began_at: float,
        seed: int,
        clock: Callable[[], float] = time.time,
    ):
        self._chips, self._has_drift = dict(settings.chips), settings.has_drift
        self._began_at, self._seed, self._clock = began_at, seed, clock
        self._drifted = lru_cache(maxsize=2 * len(self._chips))(self._drifted_once)

    @property
    def names(self) -> list[str]:
        """The chips that there are."""
        return sorted(self._chips)

    def named(self, wire_id: str) -> str:
        """Return the name of the chip that the wire calls so.

        Raises:
            RefusalError: There is none.
        """
        for name in self._chips:
            if wire_id in (name, WIRE_IDS.get(name)):
                return name
        raise RefusalError(
            UNKNOWN, f"There is no chip '{wire_id}' here. There are: {', '.join(self.names)}."
        )

    def calibration(self, name: str) -> Calibration:
        """Return a chip as it is this hour."""
        hours = int(max(0.0, self._clock() - self._began_at) // _SECONDS_PER_HOUR)
        return self._drifted(name, hours if self._has_drift else 0)

    def _drifted_once(self, name: str, hours: int) -> Calibration:
        return self._chips[name].drifted(hours, self._seed)


def best_blocks(calibration: Calibration, n_qubits: int, n_blocks: int) -> list[list[int]]:
    """Return disjoint connected sets of qubits, the best first; fewer where no more fit.

    A set grows from each qubit by the best coupler that leads out of it; its quality is the product of the CZ and
    read-out fidelities in it. Good, not always the best.

    Args:
        calibration: The chip.
        n_qubits: Of each set.
        n_blocks: Sets that are wanted.
    """
    grown = [_grow(calibration, start, n_qubits) for start in sorted(calibration.qubits)]
    graded = sorted(((q, block) for q, block in grown if len(block) == n_qubits), reverse=True)
    chosen: list[list[int]] = []
    used: set[int] = set()
    for quality, block in graded:
        if len(chosen) < n_blocks and quality > 0 and used.isdisjoint(block):
            chosen.append(sorted(block))
            used.update(block)
    return chosen


def _grow(calibration: Calibration, start: int, n_qubits: int) -> tuple[float, list[int]]:
    block = [start]
    quality = _readout(calibration, start)
    while len(block) < n_qubits:
        steps = [
            (calibration.cz_fidelity(inside, outside) * _readout(calibration, outside), outside)
            for inside in block
            for outside in grid_neighbours(inside, calibration.shape)
            if outside in calibration.qubits and outside not in block
        ]
        best, qubit = max(steps, default=(0.0, -1))
        if best == 0:
            break
        quality *= best
        block.append(qubit)
    return quality, block


def _readout(calibration: Calibration, qubit: int) -> float:
    quality = calibration.qubits[qubit]
    return quality.gate_fidelity * (quality.readout_0 + quality.readout_1) / 2
