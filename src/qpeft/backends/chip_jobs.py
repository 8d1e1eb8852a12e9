"""From a batch of circuits to jobs of packed chip programs, and from their raw results back to distributions.

    CircuitBatch --compile, fit, pack, cut--> JobRequest (payload: structure once, U3 angles of every circuit)
    payload --programs_of--> programs: blocks side by side, every block read out
    raw {"programs": [{"0x1f": 12, ...}, ...]} --read_chip_jobs--> (n_circuits, 2^n_qubits)

Bit j of a raw key is classical bit j, the j-th measured qubit of its program; blocks follow each other, and within
a block qubit 0 comes first. In a distribution qubit 0 is the most significant bit.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qpeft.backends.remote import (
    CircuitBatch,
    Distributions,
    JobRequest,
    Limits,
    decode_array,
    encode_array,
)
from qpeft.chips.calibration import Calibration
from qpeft.chips.native import Turn, u3_angles
from qpeft.chips.packing import Packing, PackingOptions, pack_circuits
from qpeft.chips.programs import CZ, U3, Program
from qpeft.chips.routing import FittedCircuit, fit_to_chip
from qpeft.errors import ConfigError, CorruptResultError


def prepare_chip_jobs(
    batch: CircuitBatch,
    calibration: Calibration,
    limits: Limits,
    options: PackingOptions,
    settings: Mapping[str, Any],
) -> list[JobRequest]:
    """Compile a batch, pack it on a chip and cut it into jobs; deterministic, nothing is sent.

    Angles are rounded to 8 decimals, which is what Origin's cloud carries.

    Args:
        batch: The circuits. Without shots (exact results) each has a program of its own, because the joint
            distribution of many blocks has too many entries to list.
        calibration: The chip as it is now; its name and date are part of the payload.
        limits: Of the remote.
        options: How circuits share a program.
        settings: Options of the remote that change a result, as JSON data.

    Returns:
        Requests of at most `limits.max_programs` programs, the circuits in the order of the batch.

    Raises:
        ConfigError: The circuit is too large for the chip or the remote, or it does not take these shots.
        MissingExtraError: The circuit needs SWAPs and qiskit is not installed.
    """
    _check_limits(batch, limits)
    fitted, packing = plan_chip_jobs(batch, calibration, options)
    angles = u3_angles(fitted.native, torch.from_numpy(batch.angles)).numpy()
    angles[:, :, 1:] -= 2 * np.pi * np.round(angles[:, :, 1:] / (2 * np.pi))
    angles = np.round(angles, 8) + 0.0  # no negative zero, so that equal angles hash equal
    requests = []
    start = 0
    for first in range(0, len(packing.programs), limits.max_programs):
        blocks = packing.programs[first : first + limits.max_programs]
        stop = start + sum(len(places) for places in blocks)
        payload = _payload(fitted, calibration, blocks, angles[start:stop], settings)
        requests.append(JobRequest(payload, stop - start, len(blocks), batch.shots))
        start = stop
    return requests


def plan_chip_jobs(
    batch: CircuitBatch, calibration: Calibration, options: PackingOptions
) -> tuple[FittedCircuit, Packing]:
    """Return a batch's circuit as the chip runs it, and which places each program uses.

    Raises:
        ConfigError: The circuit is too large for the chip.
        MissingExtraError: The circuit needs SWAPs and qiskit is not installed.
    """
    fitted = fit_to_chip(batch.circuit, calibration, min_cz_fidelity=options.min_cz_fidelity)
    if batch.shots is None:
        options = PackingOptions(is_packed=False, min_cz_fidelity=options.min_cz_fidelity)
    return fitted, pack_circuits(len(batch), fitted.places, calibration.shape, options)


def programs_of(payload: Mapping[str, Any]) -> list[Program]:
    """Rebuild the programs of a job from its payload.

    Args:
        payload: Of a request of `prepare_chip_jobs`, perhaps read back from JSON.

    Returns:
        One program for each entry of its result; `measured` lists the qubits of all blocks in order.
    """
    circuits = iter(decode_array(payload["u3"]).tolist())
    ops = [tuple(op) for op in payload["ops"]]
    readout, places = payload["readout"], payload["places"]
    programs = []
    for blocks in payload["programs"]:
        gates: list[U3 | CZ] = []
        for block in blocks:
            qubits = places[block]
            turns = iter(next(circuits))
            gates += [
                U3(qubits[op[0]], *next(turns))
                if len(op) == 1
                else CZ(qubits[op[0]], qubits[op[1]])
                for op in ops
            ]
        measured = tuple(places[block][wire] for block in blocks for wire in readout)
        programs.append(Program(payload["n_qubits"], tuple(gates), measured))
    return programs


def read_chip_jobs(request: JobRequest, raw: Any) -> Distributions:
    """Cut raw results into blocks and sum out all other qubits.

    Args:
        request: Of `prepare_chip_jobs`.
        raw: {"programs": [...]}: for each program its outcomes by hexadecimal key. Values are counts that sum to
            the shots, or probabilities that sum to 1 within 1e-6; all programs give the same of the two.

    Returns:
        (n_circuits, 2^n_qubits) in the order of the batch.

    Raises:
        CorruptResultError: Something does not add up; the message names the program.
    """
    layout = request.payload["programs"]
    outcomes = raw.get("programs") if isinstance(raw, Mapping) else None
    if not isinstance(outcomes, Sequence) or len(outcomes) != len(layout):
        got = type(raw).__name__ if outcomes is None else f"{len(outcomes)} of them"
        raise CorruptResultError(
            f"A result must have a list 'programs' of {len(layout)} entries; got {got}. Fetch it again, or submit "
            f"the job anew."
        )
    n_qubits = len(request.payload["readout"])
    rows = []
    kinds = set()
    for number, (blocks, outcome) in enumerate(zip(layout, outcomes, strict=True)):
        try:
            keys, values = _checked_outcome(outcome, len(blocks) * n_qubits)
            kinds.add(_kind(outcome, values, request.shots))
            if len(kinds) > 1:
                raise _OutcomeError(
                    "it has probabilities and other programs have counts, or the reverse"
                )
        except _OutcomeError as problem:
            raise CorruptResultError(
                f"Program {number} of {len(layout)} has a result that does not add up: {problem}. Fetch it again, "
                f"or submit the job anew."
            ) from None
        rows.append(_marginals(keys, values, len(blocks), n_qubits))
    return np.concatenate(rows) if rows else np.zeros((0, 2**n_qubits))


def _check_limits(batch: CircuitBatch, limits: Limits) -> None:
    if batch.circuit.n_qubits > limits.max_qubits:
        raise ConfigError(
            f"Circuit '{batch.circuit.name}' has {batch.circuit.n_qubits} qubits; this machine takes at most "
            f"{limits.max_qubits}. Use a smaller rank, or groups so that each block fits."
        )
    if batch.shots is None and not limits.has_exact_results:
        raise ConfigError(
            "This machine measures and has no exact results. Set shots, for example 1000."
        )
    if batch.shots is not None and limits.max_shots is not None and batch.shots > limits.max_shots:
        raise ConfigError(
            f"This machine takes at most {limits.max_shots} shots a program; got {batch.shots}."
        )


def _payload(
    fitted: FittedCircuit,
    calibration: Calibration,
    programs: Sequence[Sequence[Any]],
    angles: np.ndarray,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """All that a result depends on: `programs` lists the places of each program's circuits, in order."""
    used = sorted({place.qubits for places in programs for place in places})
    number = {qubits: index for index, qubits in enumerate(used)}
    return {
        "chip": calibration.chip,
        "calibration": calibration.taken_at,
        "n_qubits": calibration.n_qubits,
        "ops": [
            [op.qubit] if isinstance(op, Turn) else list(op.qubits) for op in fitted.native.ops
        ],
        "readout": list(fitted.readout),
        "places": [list(qubits) for qubits in used],
        "programs": [[number[place.qubits] for place in places] for places in programs],
        "u3": encode_array(angles),
        "settings": dict(settings),
    }


class _OutcomeError(Exception):
    """What is wrong with one program's outcomes."""


_KEY = re.compile(r"0[xX][0-9a-fA-F]+")


def _checked_outcome(outcome: Any, n_bits: int) -> tuple[list[int], np.ndarray]:
    """Return the keys and values of one program, checked."""
    if not isinstance(outcome, Mapping) or not outcome:
        raise _OutcomeError(f"expected outcomes by hexadecimal key, got {_short(outcome)}")
    for key in outcome:
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise _OutcomeError(f"key {_short(key)} is not hexadecimal such as '0x1f'")
    for value in outcome.values():
        if type(value) not in (int, float):
            raise _OutcomeError(f"value {_short(value)} is not a number")
    keys = [int(key, 16) for key in outcome]
    if max(keys) >> n_bits:
        raise _OutcomeError(f"key {max(keys):#x} has more than the {n_bits} measured bits")
    if len(set(keys)) != len(keys):
        raise _OutcomeError("a key occurs twice in different spellings")
    try:
        values = np.array(list(outcome.values()), dtype=np.float64)
    except OverflowError:
        raise _OutcomeError("a value is too large") from None
    if not np.isfinite(values).all() or (values < 0).any():
        raise _OutcomeError("a value is negative or not finite")
    return keys, values


def _kind(outcome: Mapping[str, Any], values: np.ndarray, shots: int | None) -> str:
    """Say whether values are counts or probabilities, or raise if they are neither."""
    total = float(values.sum())
    are_whole = bool((values == np.round(values)).all())
    if shots is not None and are_whole and total == shots:
        return "counts"
    # A lone whole 1 would be one count of many that are lost; a machine's probability is written 1.0.
    are_counts = shots is not None and all(type(value) is int for value in outcome.values())
    if not are_counts and abs(total - 1) <= 1e-6:
        return "probabilities"
    if shots is not None and total == shots:
        raise _OutcomeError("its values are not whole numbers, as counts are")
    expected = "probabilities that sum to 1" if shots is None else f"{shots} shots or a sum of 1"
    raise _OutcomeError(f"its values sum to {total:.9g}, expected {expected}")


def _marginals(keys: list[int], values: np.ndarray, n_blocks: int, n_qubits: int) -> np.ndarray:
    """Return (n_blocks, 2^n_qubits): each block's share of the outcomes."""
    n_bytes = (n_blocks * n_qubits + 7) // 8
    data = b"".join(key.to_bytes(n_bytes, "little") for key in keys)
    packed = np.frombuffer(data, dtype=np.uint8).reshape(len(keys), n_bytes)
    bits = np.unpackbits(packed, axis=1, count=n_blocks * n_qubits, bitorder="little")
    weights = 1 << np.arange(n_qubits - 1, -1, -1)  # qubit 0 is the most significant
    states = bits.reshape(len(keys), n_blocks, n_qubits) @ weights  # (n_keys, n_blocks)
    size = 2**n_qubits
    flat = (states + size * np.arange(n_blocks)).ravel()
    sums = np.bincount(flat, weights=np.repeat(values, n_blocks), minlength=n_blocks * size)
    return sums.reshape(n_blocks, size)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
