"""The door to the compiled engine: circuits on a CPU by code that numba compiles (extra `fast`).

Two torch operations, `qpeft::circuit_expectations` and its gradient, keep nothing but inputs and weights between
forward and backward. torch.compile takes them as they are.

Rows are dealt out in tasks that depend on the number of rows alone, and sums over tasks are taken in their
order, so results are the same whatever the number of threads. The threads are Python's (the code lets go of the
interpreter's lock): numba's own may not be used by several Python threads at once, which autograd and data
parallel training do.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qpeft.backends.compiled_program import Program, compile_program
from qpeft.circuits import Circuit, ZProduct

MAX_TASKS = 16  # for each block; so many threads can be of use
LEAST_TASK_ROWS = 64
# Amplitudes times steps: about 2 ms, 20 times what it takes to start threads.
WORTH_THREADS = 1 << 22
_PROGRAMS: dict[int, Program] = {}
_NUMBERS = itertools.count()


def is_available() -> bool:
    """Return whether numba is installed and can be imported; to find out takes 90 MB of memory."""
    return numba_version() != ""


@cache
def numba_version() -> str:
    """Return the version of numba, or nothing if it cannot be imported."""
    try:
        import numba
    except ImportError:
        return ""
    return str(numba.__version__)


@torch.compiler.disable(reason="qpeft numbers a circuit when it is bound, outside of graphs")
@cache
def program_number(circuit: Circuit, observables: tuple[ZProduct, ...]) -> int:
    """Compile a circuit with its observables, once, and return the number by which it is known here."""
    number = next(_NUMBERS)
    _PROGRAMS[number] = compile_program(circuit, observables)
    return number


def expectations(inputs: Tensor, weights: Tensor, program: int) -> Tensor:
    """Evaluate a circuit; differentiable once, in inputs and weights.

    Args:
        inputs: (n_blocks, rows, n_inputs) on a CPU, float32 or float64, in radians.
        weights: (n_blocks, n_weights) of the same dtype, in radians.
        program: What `program_number` returned.

    Returns:
        (n_blocks, rows, n_observables), in [-1, 1].
    """
    result: Tensor = _expectations(inputs, weights, program)
    return result


@torch.library.custom_op("qpeft::circuit_expectations", mutates_args=(), device_types="cpu")
def _expectations(inputs: Tensor, weights: Tensor, program: int) -> Tensor:
    call = _Call(inputs, weights, program)
    values = inputs.new_empty(call.n_groups, call.program.signs.shape[1], call.n_lanes)
    call.work(values, is_forward=True)
    return _rows(values, inputs)


@torch.library.custom_op("qpeft::circuit_gradients", mutates_args=(), device_types="cpu")
def _gradients(
    grad: Tensor, inputs: Tensor, weights: Tensor, program: int
) -> tuple[Tensor, Tensor]:
    call = _Call(inputs, weights, program)
    input_grad, by_slot, by_phase = call.work(_groups(grad, call.n_lanes), is_forward=False)
    weight_grad = call.weight_grad(by_slot, by_phase)
    return _rows(input_grad, inputs), torch.from_numpy(weight_grad).to(weights.dtype)


@_expectations.register_fake
def _(inputs: Tensor, weights: Tensor, program: int) -> Tensor:
    return inputs.new_empty(*inputs.shape[:-1], _PROGRAMS[program].signs.shape[1])


@_gradients.register_fake
def _(grad: Tensor, inputs: Tensor, weights: Tensor, program: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(inputs, memory_format=torch.contiguous_format), torch.empty_like(
        weights, memory_format=torch.contiguous_format
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.program = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *_gradients(grad, *ctx.saved_tensors, ctx.program), None


_expectations.register_autograd(_backward, setup_context=_keep)


class _Call:
    """One evaluation: its program, what is the same for all rows, and its tasks."""

    def __init__(self, inputs: Tensor, weights: Tensor, program: int):
        self.number, self.program = program, _PROGRAMS[program]
        self.dtype = np.dtype(np.float64 if inputs.dtype == torch.float64 else np.float32)
        self.n_lanes = 32 // self.dtype.itemsize
        self.n_blocks, self.n_rows = inputs.shape[:2]
        self.n_groups = self.n_blocks * _ceiling(self.n_rows, self.n_lanes)
        self.tasks = _tasks(self.n_blocks, self.n_rows, self.n_lanes)
        half = _groups(0.5 * inputs.detach(), self.n_lanes)
        self.data = torch.stack([torch.cos(half), torch.sin(half)], dim=-2)
        self._prepare(weights.detach().double().numpy())

    def _prepare(self, weights: NDArray[np.float64]) -> None:
        """Make cosines and sines of half of all angles of weights, in double precision."""
        program, blocks = self.program, np.arange(self.n_blocks)[:, None]
        angles = np.tile(program.constants, (self.n_blocks, 1))
        slots, columns = program.weight_terms.T
        np.add.at(angles, (blocks, slots), weights[:, columns])
        layers, rows, columns = program.phase_terms.T
        strengths = np.zeros((self.n_blocks, len(program.fixed), len(program.coefficients)))
        np.add.at(strengths, (blocks, layers, rows), weights[:, columns])
        # einsum and not a matrix product, whose order of summation may change with the threads.
        phases = program.fixed + np.einsum("blr,rs->bls", strengths, program.coefficients)
        self.angles, self.phases = (
            np.stack([np.cos(0.5 * each), np.sin(0.5 * each)], axis=-1).astype(self.dtype)
            for each in (angles, phases)
        )

    def weight_grad(
        self, by_slot: NDArray[np.float64], by_phase: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (n_blocks, n_weights) of the tasks' sums for angles and for phases."""
        program, blocks = self.program, np.arange(self.n_blocks)[:, None]
        grad = np.zeros((self.n_blocks, program.n_weights))
        each = (self.n_blocks, len(self.tasks) // max(1, self.n_blocks))
        by_slot = by_slot.reshape(*each, *by_slot.shape[1:]).sum(axis=1)
        by_phase = by_phase.reshape(*each, *by_phase.shape[1:]).sum(axis=1)
        slots, columns = program.weight_terms.T
        np.add.at(grad, (blocks, columns), by_slot[:, slots])
        layers, rows, columns = program.phase_terms.T
        strengths = np.einsum("bls,rs->blr", by_phase, program.coefficients)
        np.add.at(grad, (blocks, columns), strengths[:, layers, rows])
        return grad

    def work(
        self, values: Tensor, *, is_forward: bool
    ) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
        """Run all tasks; back, return the gradients for inputs, and by task for angles and phases."""
        program = self.program
        n_tasks = 0 if is_forward else len(self.tasks)
        input_grad = values.new_empty((0,) if is_forward else self.data[..., 0, :].shape)
        by_slot = np.zeros((n_tasks, len(program.constants)))
        by_phase = np.zeros((n_tasks, *program.fixed.shape))
        code, sizes, signs = _code(self.number, self.dtype)
        changing = (self.data.numpy(), self.angles, self.phases, values.numpy())
        sums = (_flat(input_grad.numpy()), _flat(by_slot), _flat(by_phase))
        self._deal((code, sizes, signs, *(_flat(each) for each in changing), sums), is_forward)
        return input_grad, by_slot, by_phase

    def _deal(self, arguments: tuple[Any, ...], is_forward: bool) -> None:
        """Deal the tasks out to threads."""
        n_steps = self.n_blocks * self.n_rows * len(self.program.signs) * len(self.program.steps)
        n_threads = torch.get_num_threads() if n_steps > WORTH_THREADS else 1
        n_threads = max(1, min(n_threads, len(self.tasks)))

        def do(part: NDArray[np.int64]) -> None:
            _kernel()(*arguments, self._room(), _flat(part), is_forward)

        if n_threads == 1:
            do(self.tasks)
            return
        parts = np.array_split(self.tasks, n_threads)
        with ThreadPoolExecutor(n_threads - 1) as pool:
            others = [pool.submit(do, part) for part in parts[1:]]
            do(parts[0])
            for other in others:
                other.result()

    def _room(self) -> tuple[NDArray[Any], ...]:
        """Return the arrays in which one thread works: state, costate, turns and slots."""
        n_entries, n_slots = 2 * len(self.program.signs), len(self.program.constants)
        sizes = (n_entries, n_entries, 2 * n_slots, n_slots)
        return tuple(np.empty(size * self.n_lanes, self.dtype) for size in sizes)


@cache
def _code(number: int, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return what the kernel needs of a program: its arrays, its sizes, and the signs in a precision."""
    program = _PROGRAMS[number]
    arrays = (program.start, program.steps, program.pairs, program.input_terms)
    sizes = (program.n_inputs, len(program.constants), len(program.fixed), *program.signs.shape)
    return tuple(_flat(each) for each in arrays), sizes, _flat(program.signs.astype(dtype))


@cache
def _kernel() -> Callable[..., int]:
    from qpeft.backends.compiled_kernels import work

    return work


@cache
def _tasks(n_blocks: int, n_rows: int, n_lanes: int) -> NDArray[np.int64]:
    """Return (n_tasks, 4): number, block, first group, group after the last; as many for each block."""
    n_groups = _ceiling(n_rows, n_lanes)
    size = max(_ceiling(LEAST_TASK_ROWS, n_lanes), _ceiling(n_groups, MAX_TASKS))
    groups = [
        (block, block * n_groups + i, block * n_groups + min(i + size, n_groups))
        for block in range(n_blocks)
        for i in range(0, n_groups, size)
    ]
    tasks = [(number, *each) for number, each in enumerate(groups)]
    return np.array(tasks, dtype=np.int64).reshape(-1, 4)


def _groups(rows: Tensor, n_lanes: int) -> Tensor:
    """Return (n_groups, n_columns, lanes) of (n_blocks, rows, n_columns), with zeros to full groups."""
    n_blocks, n_rows, n_columns = rows.shape
    n_groups = _ceiling(n_rows, n_lanes)
    full = torch.nn.functional.pad(rows, (0, 0, 0, n_groups * n_lanes - n_rows))
    split = full.reshape(n_blocks * n_groups, n_lanes, n_columns)
    return split.transpose(1, 2).contiguous()


def _rows(groups: Tensor, inputs: Tensor) -> Tensor:
    """Return (n_blocks, rows, n_columns) of (n_groups, n_columns, lanes)."""
    n_blocks, n_rows, _ = inputs.shape
    n_groups, n_columns, n_lanes = groups.shape
    full = n_groups // max(1, n_blocks) * n_lanes
    rows = groups.transpose(1, 2).reshape(n_blocks, full, n_columns)
    return rows[:, :n_rows].contiguous()


def _ceiling(number: int, size: int) -> int:
    return -(-number // size)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1)
