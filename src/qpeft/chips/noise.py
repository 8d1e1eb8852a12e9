"""What a calibration does to a circuit: the one noise model of all our simulators.

    after a U3      thermal relaxation of its qubit, then depolarising; as good as its `gate_fidelity`
    after a CZ      thermal relaxation of both qubits, then depolarising of the pair; as good as its coupler
    while waiting   thermal relaxation, for the gaps of an as-soon-as-possible schedule
    read-out        a confusion matrix for each qubit

The two parts of a gate's noise. Relaxation for the gate's duration has a process fidelity F_r; depolarising with
probability p behind it gives F = (1 - p) F_r + p / d^2, so that p = (F_r - F) / (F_r - 1 / d^2) reaches the F of
the calibration, whose average gate fidelity is (d F + 1) / (d + 1) (M. A. Nielsen, quant-ph/0205035).

Where relaxation alone would be worse than the calibration, it lasts shorter, until it is just as bad, and nothing
depolarises: the fidelity was measured on gates, while a published T2 is that of an idle qubit, with the slow noise
that a short gate does not notice. (On Wukong's numbers 30 ns of T2 = 1.5 us would leave 0.993 of a gate of 0.996.)
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qpeft.chips.calibration import Calibration, QubitQuality
from qpeft.chips.channels import (
    depolarising_channel,
    kronecker_channel,
    relaxation_channel,
)
from qpeft.errors import ConfigError


class NoiseModel:
    """The channels of a chip, as Pauli transfer matrices in float64 (see `qpeft.chips.channels`).

    Args:
        calibration: The chip.
        scale: Factor on all error rates: on the times for which relaxation acts, on depolarising probabilities
            and on read-out errors. 0 is a perfect chip, 1 the calibrated one.
        has_idle_noise: Whether waiting qubits relax.

    Raises:
        ConfigError: The scale is negative.

    Example:
        >>> from qpeft.chips.calibration import load_calibration
        >>> from qpeft.chips.channels import average_fidelity
        >>> chip = load_calibration("wukong")
        >>> round(average_fidelity(NoiseModel(chip).after_cz(0, 1)), 6) == chip.couplers[0, 1]
        True
    """

    def __init__(
        self, calibration: Calibration, scale: float = 1.0, *, has_idle_noise: bool = True
    ):
        if not 0 <= scale < float("inf"):
            raise ConfigError(f"A noise scale is a factor, at least 0; got {scale}.")
        self.calibration = calibration
        self.scale = scale
        self.has_idle_noise = has_idle_noise
        self.durations = (calibration.gate_ns, calibration.cz_ns)
        self._turns: dict[int, Tensor] = {}
        self._cz: dict[tuple[int, int], Tensor] = {}

    def after_turn(self, qubit: int) -> Tensor:
        """Return the (4, 4) channel behind a U3 on a physical qubit."""
        if qubit not in self._turns:
            fidelity = self.calibration.qubits[qubit].gate_fidelity
            self._turns[qubit] = self._behind_gate((qubit,), fidelity, self.durations[0])
        return self._turns[qubit]

    def after_cz(self, first: int, second: int) -> Tensor:
        """Return the (16, 16) channel behind a CZ, the first physical qubit on the leftmost digit."""
        pair = (first, second)
        if pair not in self._cz:
            fidelity = self.calibration.cz_fidelity(first, second)
            self._cz[pair] = self._behind_gate(pair, fidelity, self.durations[1])
        return self._cz[pair]

    def waiting(self, qubits: Sequence[int], nanoseconds: float) -> Tensor:
        """Return (len(qubits), 4, 4): how each physical qubit relaxes while it waits for so long."""
        duration = self.scale * nanoseconds if self.has_idle_noise else 0.0
        return self._relaxation(qubits, duration)

    def readout(self, qubits: Sequence[int]) -> Tensor:
        """Return (len(qubits), 2, 2): entry [q, read, true] is the probability to read a bit."""
        known = [self.calibration.qubits[qubit] for qubit in qubits]
        errors = torch.tensor([[1 - q.readout_0, 1 - q.readout_1] for q in known]).double()
        errors = _scaled_flips(errors.reshape(-1, 2), self.scale)
        reads_1_in_0, reads_0_in_1 = errors.unbind(-1)
        rows = [1 - reads_1_in_0, reads_0_in_1, reads_1_in_0, 1 - reads_0_in_1]
        return torch.stack(rows, dim=-1).reshape(-1, 2, 2)

    def _behind_gate(self, qubits: tuple[int, ...], fidelity: float, duration: float) -> Tensor:
        dimension = 2 ** len(qubits)
        wanted = ((dimension + 1) * fidelity - 1) / dimension
        known = [self.calibration.qubits[qubit] for qubit in qubits]
        duration = _time_until(lambda t: _relaxed_fidelity(known, t), wanted, duration)
        relaxed = _relaxed_fidelity(known, duration)
        probability = max(0.0, (relaxed - wanted) / (relaxed - 1 / dimension**2))
        depolarise = depolarising_channel(min(1.0, self.scale * probability), len(qubits))
        channels = self._relaxation(qubits, self.scale * duration)
        return depolarise @ (channels[0] if len(qubits) == 1 else kronecker_channel(*channels))

    def _relaxation(self, qubits: Sequence[int], nanoseconds: float) -> Tensor:
        known = [self.calibration.qubits[qubit] for qubit in qubits]
        t1, t2 = (
            torch.tensor([getattr(q, name) for q in known], dtype=torch.float64)
            for name in ("t1_us", "t2_us")
        )
        return relaxation_channel(t1, t2, torch.tensor(nanoseconds, dtype=torch.float64))


def idle_times(
    ops: Sequence[tuple[int, ...]], durations: tuple[float, float], n_qubits: int
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Return how long qubits wait when every gate starts as soon as its qubits are free.

    All qubits are read when the last gate has ended. A qubit that has had no gate does not count as waiting: it
    is in |0>, which relaxation leaves alone.

    Args:
        ops: The qubits of each gate, one or two, in order.
        durations: Of a one-qubit gate and of a two-qubit gate.
        n_qubits: How many qubits there are.

    Returns:
        For each gate the time that each of its qubits waits before it, and for each qubit the time before the
        read-out; in the unit of the durations.

    Example:
        >>> idle_times([(0,), (0,), (1,), (0, 1)], (30.0, 40.0), 3)
        ([(0.0,), (0.0,), (0.0,), (0.0, 30.0)], [0.0, 0.0, 0.0])
    """
    free_at: dict[int, float] = {}
    before = []
    for qubits in ops:
        start = max(free_at.get(qubit, 0.0) for qubit in qubits)
        before.append(tuple(start - free_at.get(qubit, start) for qubit in qubits))
        free_at.update(dict.fromkeys(qubits, start + durations[len(qubits) - 1]))
    end = max(free_at.values(), default=0.0)
    return before, [end - free_at.get(qubit, end) for qubit in range(n_qubits)]


def _relaxed_fidelity(qubits: Sequence[QubitQuality], nanoseconds: float) -> float:
    """Return the process fidelity of qubits that relax: Tr(M) / 4 of each `relaxation_channel`."""
    rates = [(1 / (1000 * q.t1_us), 1 / (1000 * q.t2_us)) for q in qubits]
    return math.prod(
        (1 + math.exp(-nanoseconds * by_t1) + 2 * math.exp(-nanoseconds * by_t2)) / 4
        for by_t1, by_t2 in rates
    )


def _time_until(fidelity_after: Callable[[float], float], wanted: float, longest: float) -> float:
    """Return the longest time, up to `longest`, after which a falling fidelity is at least `wanted`."""
    if fidelity_after(longest) >= wanted:
        return longest
    low, high = 0.0, longest
    for _ in itertools.repeat(None, 60):
        middle = (low + high) / 2
        if fidelity_after(middle) >= wanted:
            low = middle
        else:
            high = middle
    return low


def _scaled_flips(errors: Tensor, scale: float) -> Tensor:
    """Return read-out errors times a scale, which goes no further than a coin where they were below it."""
    return torch.minimum(scale * errors, errors.clamp(min=0.5))
