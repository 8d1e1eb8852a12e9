"""Runs programs on a chip that exists only as a calibration: noise, read-out errors, shots.

    programs  --split-->  blocks that never interact  --alike ones at once-->  probabilities  --draw-->  counts

A block is a density matrix, kept as 4^n Pauli expectation values (`qpeft.chips.channels`). They are float64: the
probability of a rare outcome is a small difference of them, and most of the time goes elsewhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qpeft.chips.blocks import Block, check_program, group_alike, key_of, split_program
from qpeft.chips.calibration import Calibration
from qpeft.chips.channels import PauliStates, cz_channel, u3_channel
from qpeft.chips.noise import NoiseModel, idle_times
from qpeft.chips.programs import Program
from qpeft.errors import ConfigError

MAX_BLOCK_QUBITS = 8
_CHUNK = 2**18  # numbers of a batch of states; 2 MB, about what a core's cache holds


@dataclass(frozen=True, eq=False)
class BlockOutcomes:
    """What is read from one block.

    Args:
        qubits: The physical qubits that are read, ascending in their classical bits.
        bits: The classical bit of each.
        probabilities: (2^n,), summing to 1; the first qubit is the leftmost bit of the index.
    """

    qubits: tuple[int, ...]
    bits: tuple[int, ...]
    probabilities: np.ndarray


def run_programs(
    programs: Sequence[Program],
    calibration: Calibration,
    shots: int,
    seed: int | Sequence[int],
    *,
    scale: float = 1.0,
    has_idle_noise: bool = True,
) -> list[dict[int, int]]:
    """Run each program and count its outcomes.

    Args:
        programs: Each of up to all qubits of the chip.
        calibration: The chip.
        shots: Of each program.
        seed: A program's outcomes depend on this and its index, not on the other programs.
        scale: Factor on all error rates.
        has_idle_noise: Whether waiting qubits relax.

    Returns:
        For each program the count of each outcome; bit j of a key is classical bit j, the qubit measured[j].

    Raises:
        ConfigError: A program cannot run on the chip, or a block of it is too large to simulate.

    Example:
        >>> from math import pi
        >>> from qpeft.chips.calibration import load_calibration
        >>> from qpeft.chips.programs import U3
        >>> flip = Program(72, (U3(5, pi, 0.0, pi),), measured=(4, 5))
        >>> run_programs([flip], load_calibration("wukong"), shots=1000, seed=0, scale=0.0)
        [{2: 1000}]
    """
    if shots < 1:
        raise ConfigError(f"shots must be at least 1; got {shots}.")
    outcomes = outcome_probabilities(
        programs, calibration, scale=scale, has_idle_noise=has_idle_noise
    )
    root = (seed,) if isinstance(seed, int) else tuple(seed)
    return [
        _draw(blocks, len(program.measured), shots, np.random.default_rng((*root, index)))
        for index, (program, blocks) in enumerate(zip(programs, outcomes, strict=True))
    ]


def outcome_probabilities(
    programs: Sequence[Program],
    calibration: Calibration,
    *,
    scale: float = 1.0,
    has_idle_noise: bool = True,
) -> list[list[BlockOutcomes]]:
    """Return for each program the exact outcome probabilities of its blocks, read-out errors included.

    Blocks do not interact, so a program's distribution is their product. Arguments and errors are those of
    `run_programs`.
    """
    blocks = []
    for index, program in enumerate(programs):
        check_program(program, calibration, f"Program {index}")
        blocks += split_program(program, index)
    noise = NoiseModel(calibration, scale, has_idle_noise=has_idle_noise)
    results: list[list[BlockOutcomes]] = [[] for _ in programs]
    with torch.no_grad(), torch.device("cpu"):
        probabilities = _simulate(blocks, noise)
    for block, row in zip(blocks, probabilities, strict=True):
        qubits = tuple(block.qubits[local] for local in block.measured)
        results[block.program].append(BlockOutcomes(qubits, block.bits, row))
    return results


def _simulate(blocks: Sequence[Block], noise: NoiseModel) -> list[np.ndarray]:
    """Return the outcome probabilities of each block."""
    results = [np.empty(0)] * len(blocks)
    for group in group_alike(blocks):
        n_qubits = len(blocks[group[0]].qubits)
        if n_qubits > MAX_BLOCK_QUBITS:
            raise ConfigError(
                f"Program {blocks[group[0]].program} joins {n_qubits} qubits by CZ gates; the emulator takes "
                f"blocks of at most {MAX_BLOCK_QUBITS} qubits. Use a smaller rank, or groups."
            )
        size = max(1, _CHUNK // 4**n_qubits)
        for start in range(0, len(group), size):
            chunk = group[start : start + size]
            rows = _simulate_alike([blocks[index] for index in chunk], noise)
            for index, row in zip(chunk, rows.numpy(), strict=True):
                results[index] = row
    return results


def _simulate_alike(blocks: Sequence[Block], noise: NoiseModel) -> Tensor:
    """Return (B, 2^n_measured) for blocks of the same structure."""
    first = blocks[0]
    n_qubits = len(first.qubits)
    physical = [[block.qubits[local] for block in blocks] for local in range(n_qubits)]
    before, at_end = idle_times(first.ops, noise.durations, n_qubits)
    angles = torch.tensor([block.angles for block in blocks], dtype=torch.float64)
    turns = iter(u3_channel(angles.transpose(0, 1)) if angles.numel() else ())
    flip = cz_channel()
    state = PauliStates(_ground_state(len(blocks), n_qubits))
    for qubits, waits in zip(first.ops, before, strict=True):
        for qubit, wait in zip(qubits, waits, strict=True):
            _wait(state, qubit, physical[qubit], wait, noise)
        on = [physical[qubit] for qubit in qubits]
        if len(qubits) == 1:
            behind = _gather(noise.after_turn, on)
            state.apply(behind @ next(turns), qubits)
        else:
            state.apply(_gather(noise.after_cz, on) @ flip, qubits)
    for qubit in first.measured:
        _wait(state, qubit, physical[qubit], at_end[qubit], noise)
    readout = [noise.readout(physical[qubit]) for qubit in first.measured]
    return _read(state.values(), n_qubits, first.measured, readout)


def _ground_state(n_rows: int, n_qubits: int) -> Tensor:
    """Return (n_rows, 4^n, 1) of |0...0>: 1 for every product of I and Z."""
    state = torch.zeros(n_rows, *[4] * n_qubits, dtype=torch.float64)
    corner = state[(slice(None), *[slice(None, None, 3)] * n_qubits)]
    corner.fill_(1.0)
    return state.reshape(n_rows, -1, 1)


def _wait(
    state: PauliStates, qubit: int, physical: Sequence[int], wait: float, noise: NoiseModel
) -> None:
    if wait > 0 and noise.has_idle_noise:
        state.apply(noise.waiting(physical, wait), (qubit,))


def _gather(channel_of: Callable[..., Tensor], on: Sequence[Sequence[int]]) -> Tensor:
    """Return (B, 4^k, 4^k): each row's channel; few places are distinct in a long batch."""
    places = list(zip(*on, strict=True))
    distinct = {place: number for number, place in enumerate(dict.fromkeys(places))}
    table = torch.stack([channel_of(*place) for place in distinct])
    return table[torch.tensor([distinct[place] for place in places])]


def _read(
    values: Tensor, n_qubits: int, measured: Sequence[int], readout: Sequence[Tensor]
) -> Tensor:
    """Return (B, 2^n_measured): probabilities of what is read, from Pauli expectation values.

    Only I and Z matter, and only I where a qubit is not read: P(bits) = 2^-n sum_S (-1)^(bits . S) <Z_S>.
    """
    digits = values.reshape(-1, *[4] * n_qubits)
    kept = [slice(None, None, 3) if qubit in measured else 0 for qubit in range(n_qubits)]
    order = [sorted(measured).index(qubit) for qubit in measured]
    known = digits[(slice(None), *kept)].permute(0, *(1 + place for place in order))
    signs = torch.tensor([[0.5, 0.5], [0.5, -0.5]], dtype=torch.float64)
    shape = known.shape
    for place, confusion in enumerate(readout):
        columns = known.reshape(len(values), 2**place, 2, -1)
        known = (confusion @ signs)[:, None] @ columns
    return known.reshape(shape).flatten(1).clamp(min=0)


def _draw(
    blocks: Sequence[BlockOutcomes], n_bits: int, shots: int, generator: np.random.Generator
) -> dict[int, int]:
    """Draw every shot's outcome of each block and put their bits together."""
    n_bytes = (n_bits + 7) // 8
    keys = np.zeros((shots, n_bytes), dtype=np.uint8)
    for block in blocks:
        inner_edges = np.cumsum(block.probabilities / block.probabilities.sum())[:-1]
        drawn = np.searchsorted(inner_edges, generator.random(shots), side="right")
        keys |= _byte_table(block.bits, n_bytes)[drawn]
    distinct, counts = np.unique(keys, axis=0, return_counts=True)
    return {
        int.from_bytes(key.tobytes(), "little"): int(count)
        for key, count in zip(distinct, counts, strict=True)
    }


def _byte_table(bits: Sequence[int], n_bytes: int) -> np.ndarray:
    """Return (2^n, n_bytes): what each outcome of a block adds to a key, lowest byte first."""
    keys = [key_of(outcome, bits) for outcome in range(2 ** len(bits))]
    data = b"".join(key.to_bytes(n_bytes, "little") for key in keys)
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, n_bytes)
