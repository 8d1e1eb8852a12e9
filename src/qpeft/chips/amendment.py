"""Corrects counts for read-out errors, as a cloud's "amendment" does."""

from collections.abc import Mapping, Sequence

import numpy as np

from qpeft.chips.blocks import key_of, outcome_of, split_program
from qpeft.chips.calibration import Calibration
from qpeft.chips.noise import NoiseModel
from qpeft.chips.programs import Program
from qpeft.errors import ConfigError


def amended_probabilities(
    counts: Mapping[int, int],
    program: Program,
    calibration: Calibration,
    *,
    scale: float = 1.0,
) -> dict[int, float]:
    """Correct the counts of a program for read-out errors.

    The inverse confusion matrix of each qubit acts on the outcomes of each block (qubits that CZ gates join); what
    becomes negative is set to 0 and the rest normalised, which leaves a small bias. Every block has exactly its
    corrected probabilities in the result. How outcomes of different blocks meet in one key is arbitrary, for 2^72
    joint outcomes cannot be corrected one by one: do not read correlations between blocks from it.

    Args:
        counts: What was read, bit j of a key being the qubit measured[j].
        program: The program that was run.
        calibration: The chip with its read-out errors.
        scale: Factor on the read-out errors.

    Returns:
        Probabilities that sum to 1, by keys of the same kind.

    Raises:
        ConfigError: A qubit is read no better than by a coin, so that its confusion matrix has no inverse.
    """
    noise = NoiseModel(calibration, scale)
    weights = np.array(list(counts.values()), dtype=np.float64)
    parts = []
    for block in split_program(program, 0):
        qubits = [block.qubits[local] for local in block.measured]
        seen = np.array([outcome_of(key, block.bits) for key in counts])
        known = np.bincount(seen, weights, 2 ** len(block.bits)) / weights.sum()
        parts.append((block.bits, _amend(known, _inverse_confusion(noise, qubits))))
    return _couple(parts)


def _inverse_confusion(noise: NoiseModel, qubits: Sequence[int]) -> np.ndarray:
    """Return (n, 2, 2): from what is read to what is true, for each physical qubit."""
    confusion = noise.readout(qubits).numpy()
    for qubit, matrix in zip(qubits, confusion, strict=True):
        if abs(np.linalg.det(matrix)) < 1e-6:
            raise ConfigError(
                f"Qubit {qubit} of chip '{noise.calibration.chip}' is read no better than by a coin, which "
                f"nothing corrects. Leave it out, or switch the amendment off."
            )
    return np.linalg.inv(confusion)


def _amend(probabilities: np.ndarray, inverses: np.ndarray) -> np.ndarray:
    """Return (2^n,) corrected probabilities; the first qubit is the leftmost bit of the index."""
    for place, inverse in enumerate(inverses):
        columns = probabilities.reshape(2**place, 2, -1)
        probabilities = (inverse @ columns).reshape(-1)
    clipped = np.clip(probabilities, 0, None)
    return clipped / clipped.sum()


def _couple(parts: Sequence[tuple[Sequence[int], np.ndarray]]) -> dict[int, float]:
    """Return a joint distribution of few keys that has the given distribution on the bits of each part.

    All parts are laid along one line from 0 to 1, each outcome as long as it is likely; a key is what lies above a
    point of that line.
    """
    ends = [np.cumsum(probabilities)[:-1] for _, probabilities in parts]
    edges = np.unique(np.concatenate([[0.0, 1.0], *ends]).clip(0, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    keys = [0] * len(middles)
    for (bits, _), inner in zip(parts, ends, strict=True):
        for piece, outcome in enumerate(np.searchsorted(inner, middles, side="right")):
            keys[piece] |= key_of(int(outcome), bits)
    joint: dict[int, float] = {}
    for key, length in zip(keys, np.diff(edges), strict=True):
        joint[key] = joint.get(key, 0.0) + float(length)
    return joint
