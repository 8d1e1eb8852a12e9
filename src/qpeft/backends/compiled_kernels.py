"""The compiled code: runs a program (`compiled_program.py`) for a few rows at a time, forward and back.

The rows of a group lie side by side in one vector, so a state is 2^(n+1) vectors and stays in the processor's
caches; every operation acts on all rows of the group. The backward pass starts at the final state, makes the
costate dLoss/d(state) and undoes both step by step (the adjoint method, arXiv 2009.02823).
"""

import zlib
from collections.abc import Callable
from pathlib import Path

from numba import njit

from qpeft.backends.compiled_program import PAIRS, PHASES, SWAPS, TURN_TWO
from qpeft.backends.compiled_steps import (
    inner,
    read,
    read_back,
    rotate,
    start,
    swap,
    turn_of,
    turn_pairs,
    turn_phases,
    turn_two,
    undo_start,
    undo_turn_pairs,
    undo_turn_phases,
    undo_turn_two,
)
from qpeft.backends.compiled_vectors import add, lanes, load, splat, store, total, zeros


@inner
def _do(  # type: ignore[no-untyped-def]
    code, sizes, signs, data, angles, phases, values, sums, room, tasks, is_forward
):
    """Do tasks, each a run of groups of rows of one block. All arrays are flat.

    Args:
        code: The arrays `start`, `steps`, `pairs` and `input_terms` of a `Program`.
        sizes: The numbers of inputs, slots, layers, basis states and observables.
        signs: (2^n, n_observables).
        data: (n_groups, n_inputs, 2, lanes), cosine and sine of half of each datum.
        angles: (n_blocks, n_slots, 2), cosine and sine of half of each angle without its data.
        phases: (n_blocks, n_layers, 2^n, 2), cosine and sine of half of each phase.
        values: (n_groups, n_observables, lanes). Forward: to be filled with expectation values. Back: the gradient
            for them, 0 for rows that are not there.
        sums: Back: three arrays to be filled: the gradient for the inputs (n_groups, n_inputs, lanes); and zeros,
            float64, that for angles (n_tasks, n_slots) and for phases (n_tasks, n_layers, 2^n), summed over rows.
        room: Four arrays to work in: state, costate, turns and slots.
        tasks: (n, 4), the number of each task, its block, its first group and the group after its last.
        is_forward: Which of the two to do.
    """
    state, costate, turns, slots = room
    input_grad, slot_sums, phase_sums = sums
    n_inputs, n_slots, n_layers, n_states, n_observables = sizes
    n_lanes = lanes(state)
    for i in range(0, len(tasks), 4):
        task, block = tasks[i], tasks[i + 1]
        phase = 2 * block * n_layers * n_states
        for group in range(tasks[i + 2], tasks[i + 3]):
            column = group * n_inputs * n_lanes
            place = group * n_observables * n_lanes
            _set_turns(code[3], data, 2 * column, angles, 2 * block * n_slots, turns)
            _evolve(code, state, turns, phases, phase)
            if is_forward:
                read(signs, n_observables, state, values, place)
                continue
            read_back(signs, n_observables, values, place, state, costate)
            first = task * n_layers * n_states
            _undo(code, state, costate, turns, phases, phase, slots, phase_sums, first)
            for slot in range(n_slots):
                slot_sums[task * n_slots + slot] += total(load(slots, slot * n_lanes))
            _set_input_grad(code[3], n_inputs, slots, input_grad, column)


@inner
def _evolve(code, state, turns, phases, phase):  # type: ignore[no-untyped-def]
    """Fill `state` with the final state of a group of rows."""
    slots_of, steps, pairs, _ = code
    start(slots_of, turns, state)
    for i in range(0, len(steps), 5):
        kind, one, two, three = steps[i], steps[i + 1], steps[i + 2], steps[i + 3]
        if kind == TURN_TWO:
            turn_two(state, one, turns, two, three, steps[i + 4])
        elif kind == PHASES:
            turn_phases(state, phases, phase + one * len(state) // lanes(state))
        elif kind == PAIRS:
            turn_pairs(state, pairs, one, two, turns, three)
        elif kind == SWAPS:
            for place in range(one, two):
                swap(state, pairs, place)


@inner
def _undo(  # type: ignore[no-untyped-def]
    code, state, costate, turns, phases, phase, slots, phase_sums, first
):
    """Take state and costate back to the start and collect the gradients of all angles."""
    slots_of, steps, pairs, _ = code
    n_states = len(state) // (2 * lanes(state))
    for i in range(len(steps) - 5, -1, -5):
        kind, one, two, three = steps[i], steps[i + 1], steps[i + 2], steps[i + 3]
        if kind == TURN_TWO:
            undo_turn_two(state, costate, one, turns, two, three, steps[i + 4], slots)
        elif kind == PHASES:
            here = one * n_states
            undo_turn_phases(state, costate, phases, phase + 2 * here, phase_sums, first + here)
        elif kind == PAIRS:
            undo_turn_pairs(state, costate, pairs, one, two, turns, three, slots)
        elif kind == SWAPS:
            for place in range(two - 1, one - 1, -1):
                swap(state, pairs, place)
                swap(costate, pairs, place)
    undo_start(slots_of, state, costate, slots)


@inner
def _set_turns(terms, data, datum, angles, angle, turns):  # type: ignore[no-untyped-def]
    """Fill `turns` with cosines and sines of half angles, data included (`datum`, `angle`: the first's place)."""
    n_lanes = lanes(turns)
    for place in range(0, len(turns), n_lanes):
        store(turns, place, splat(angles[angle]))
        angle += 1
    for i in range(0, len(terms), 2):
        place = 2 * terms[i] * n_lanes
        here = datum + 2 * terms[i + 1] * n_lanes
        cos, sin = turn_of(turns, terms[i])
        cos, sin = rotate(cos, sin, load(data, here), load(data, here + n_lanes))
        store(turns, place, cos)
        store(turns, place + n_lanes, sin)


@inner
def _set_input_grad(terms, n_inputs, slots, input_grad, first):  # type: ignore[no-untyped-def]
    """Fill a group's gradient for the inputs from that for the angles."""
    n_lanes = lanes(slots)
    for column in range(n_inputs):
        store(input_grad, first + column * n_lanes, zeros(slots))
    for i in range(0, len(terms), 2):
        place = first + terms[i + 1] * n_lanes
        store(input_grad, place, add(load(input_grad, place), load(slots, terms[i] * n_lanes)))


def _compile(stamp: int) -> Callable[..., int]:
    """Compile `work` on first use, and keep the code for later processes where numba may write.

    Args:
        stamp: Of the sources. numba looks at this file only to see whether the code that it kept is still right;
            as a variable from around the function, the stamp is a part of what it looks at.
    """

    def work(  # type: ignore[no-untyped-def]
        code, sizes, signs, data, angles, phases, values, sums, room, tasks, is_forward
    ):
        _do(code, sizes, signs, data, angles, phases, values, sums, room, tasks, is_forward)
        return stamp

    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(work)
    except RuntimeError:  # numba finds no folder that it may write to
        return njit(**options)(work)


def _stamp() -> int:
    """Return a number that another version of any of these files would not have."""
    parts = sorted(Path(__file__).parent.glob("compiled_*.py"))
    return zlib.crc32(b"".join(part.read_bytes() for part in parts))


work = _compile(_stamp())
"""Do tasks, as `_do` says; returns the stamp of the sources that it was compiled from."""
