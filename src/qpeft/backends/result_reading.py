"""From the counts and probabilities of a provider's client to distributions, with every number checked.

A provider names a basis state in its own way; the caller says how a name becomes our index, in which qubit 0 is
the leftmost bit.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qpeft.backends.remote import Distributions, JobRequest, decode_array
from qpeft.errors import CorruptResultError


def read_result(request: JobRequest, raw: Any, index_of: Callable[[str], int]) -> Distributions:
    """Return the distributions of `{"counts": [{name: n}, ...]}` or `{"probabilities": array}`.

    Args:
        request: What was asked for; its payload has the circuit.
        raw: What came back.
        index_of: As in `read_counts`.

    Raises:
        CorruptResultError: Circuits, shots or names do not add up.
    """
    n_qubits = request.payload["circuit"]["n_qubits"]
    kind = "probabilities" if request.shots is None else "counts"
    if not isinstance(raw, Mapping) or kind not in raw:
        raise CorruptResultError(f"A result has no {kind}. Fetch it again.")
    if request.shots is None:
        return read_probabilities(raw[kind], request.n_circuits, n_qubits)
    return read_counts(raw[kind], request.n_circuits, n_qubits, request.shots, index_of)


def read_counts(
    rows: Any, n_circuits: int, n_qubits: int, shots: int, index_of: Callable[[str], int]
) -> Distributions:
    """Return counts as distributions.

    Args:
        rows: One mapping from a basis state's name to its count for each circuit, as JSON data.
        n_circuits: Circuits that there must be.
        n_qubits: Qubits of each.
        shots: Sum of each circuit's counts.
        index_of: Turns a name into the index of the basis state; ValueError where it is none.

    Returns:
        (n_circuits, 2^n_qubits) counts.

    Raises:
        CorruptResultError: Circuits, names or counts do not add up.
    """
    if not isinstance(rows, list) or len(rows) != n_circuits:
        found = f"{len(rows)} circuits" if isinstance(rows, list) else type(rows).__name__
        raise CorruptResultError(f"A result has {found} where {n_circuits} circuits were sent.")
    counts = np.zeros((n_circuits, 2**n_qubits))
    for row, names in enumerate(rows):
        if not isinstance(names, Mapping):
            raise CorruptResultError(f"Circuit {row} of a result has no counts: {names!r}.")
        for name, count in names.items():
            counts[row, _checked_index(name, index_of, n_qubits)] += _checked_count(count, row)
        if counts[row].sum() != shots:
            raise CorruptResultError(
                f"Circuit {row} of a result has {counts[row].sum():.0f} shots where {shots} were asked for."
            )
    return counts


def read_probabilities(data: Any, n_circuits: int, n_qubits: int) -> Distributions:
    """Return exact probabilities as distributions, in the order of basis states in which they stand.

    Args:
        data: From `encode_array`, (n_circuits, 2^n_qubits).
        n_circuits: Circuits that there must be.
        n_qubits: Qubits of each.

    Raises:
        CorruptResultError: The shape is another, or a row is not a distribution.
    """
    try:
        values = decode_array(data)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptResultError(f"A result holds no probabilities: {error}.") from error
    if values.shape != (n_circuits, 2**n_qubits):
        raise CorruptResultError(
            f"A result has probabilities of shape {values.shape}, expected {(n_circuits, 2**n_qubits)}."
        )
    is_distribution = np.isfinite(values) & (values >= -1e-9)
    if not is_distribution.all() or not np.allclose(values.sum(axis=1), 1, rtol=0, atol=1e-6):
        raise CorruptResultError("A result has probabilities that are negative or do not sum to 1.")
    return values.clip(min=0)


def _checked_index(name: Any, index_of: Callable[[str], int], n_qubits: int) -> int:
    try:
        index = index_of(name)
    except (TypeError, ValueError) as error:
        raise CorruptResultError(f"A result names a basis state {name!r}.") from error
    if not 0 <= index < 2**n_qubits:
        raise CorruptResultError(f"A result names a basis state {name!r} of {n_qubits} qubits.")
    return index


def _checked_count(count: Any, row: int) -> float:
    is_number = isinstance(count, int | float) and not isinstance(count, bool)
    if not is_number or not math.isfinite(count) or count < 0 or count != int(count):
        raise CorruptResultError(f"Circuit {row} of a result has the count {count!r}.")
    return float(count)
