"""Calibrations that are drawn, not measured: a chip of Wukong's kind from the ranges that are public of it."""

import random

from qpeft.chips.calibration import Calibration, QubitQuality, are_neighbours

WUKONG_SEED = 72
"""The seed of the packaged calibration `wukong.json`."""

SHAPE = (6, 12)
N_DEAD_COUPLERS = 5
SOURCE = (
    "Synthetic: drawn at random from ranges that are public of the 72-qubit chip Origin Wukong "
    "(single-qubit fidelity 0.995-0.997, read-out 0.92-0.94, CZ 0.952-0.983 with some couplers dead, "
    "T2 1.1-1.8 us); T1, gate times and which couplers are dead are assumptions. It is not a "
    "measurement of any chip."
)


def draw_calibration(seed: int) -> Calibration:
    """Draw the calibration of a 6 x 12 chip with 126 couplers, a few of them dead.

    The read-out fidelity of the published range is the mean of both states; 0 is read better than 1, because a
    qubit may relax while it is read.

    Args:
        seed: The packaged calibration has `WUKONG_SEED`.
    """
    # Python's own generator: its sequence is the same in every version, so the packaged file stays checkable.
    draw = random.Random(seed)
    qubits = {}
    for number in range(SHAPE[0] * SHAPE[1]):
        mean, half_gap = draw.uniform(0.92, 0.94), draw.uniform(0.01, 0.025)
        qubits[number] = QubitQuality(
            t1_us=round(draw.uniform(10.0, 20.0), 2),
            t2_us=round(draw.uniform(1.1, 1.8), 3),
            gate_fidelity=round(draw.uniform(0.995, 0.997), 5),
            readout_0=round(mean + half_gap, 4),
            readout_1=round(mean - half_gap, 4),
        )
    pairs = [(a, b) for a in qubits for b in qubits if a < b and are_neighbours(SHAPE, a, b)]
    dead = draw.sample(pairs, N_DEAD_COUPLERS)
    couplers = {
        pair: 0.0 if pair in dead else round(draw.uniform(0.952, 0.983), 4) for pair in pairs
    }
    return Calibration(
        "wukong",
        "2025-01-01T00:00:00+00:00",
        SHAPE,
        qubits,
        couplers,
        gate_ns=30.0,
        cz_ns=40.0,
        source=SOURCE,
    )
