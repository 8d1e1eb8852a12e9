"""Runs rows of data through the steps of a circuit, and back, without keeping a state for each gate.

States are (B, rows, 2^n). Every step is unitary, so the backward pass starts at the final state and
undoes the steps one by one (the adjoint method, arXiv 2009.02823): memory does not grow with depth.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qpeft.backends.operators import Step
from qpeft.backends.products import outer_product, outer_product_backward


class Evolution:
    """The parts of a circuit's run that do not depend on weights.

    Args:
        start: For each qubit the data column of its first RY, or None.
        data_phases: The distinct data phases, each (n_inputs, 2^n).
        signs: (2^n, n_observables), the diagonals of the observables.
    """

    def __init__(self, start: Sequence[int | None], data_phases: Sequence[Tensor], signs: Tensor):
        self.start = list(start)
        self.data_phases = list(data_phases)
        self.signs = signs
        self.signs_twice = signs.repeat_interleave(2, dim=0)  # for (re, im) side by side

    def expectations(self, inputs: Tensor, steps: Sequence[Step]) -> Tensor:
        """Return (B, rows, n_observables) for inputs (B, rows, n_inputs); differentiable in all."""
        operators = [step.operator for step in steps]
        result: Tensor = _Evolve.apply(self, tuple(steps), inputs, *operators)
        return result

    def start_angles(self, inputs: Tensor) -> Tensor:
        """Return (B, rows, n_qubits): the angle of each qubit's first RY, zero where there is none."""
        if self.start == list(range(inputs.shape[-1])):
            return inputs
        zero = inputs.new_zeros(inputs.shape[:-1])
        return torch.stack([zero if i is None else inputs[..., i] for i in self.start], dim=-1)

    def start_state(self, inputs: Tensor) -> Tensor:
        """Return (B, rows, 2^n), real: each qubit turned from |0> by its first RY of data."""
        return outer_product(self._start_qubits(inputs))

    def start_backward(self, inputs: Tensor, grad: Tensor) -> Tensor:
        """Return (B, rows, n_inputs): the gradient for inputs, given that for the start state."""
        qubits = self._start_qubits(inputs)
        return self._angle_grads(inputs, qubits, outer_product_backward(qubits, grad))

    def turned_start_state(self, inputs: Tensor, matrices: Tensor) -> Tensor:
        """Return (B, rows, 2^n), complex: the start state with a matrix on each qubit.

        Args:
            inputs: (B, rows, n_inputs).
            matrices: (B, n, 2, 2), real or complex.
        """
        return outer_product(_turn(matrices, self._start_qubits(inputs)))

    def turned_start_backward(
        self, inputs: Tensor, matrices: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients for inputs and matrices, given that for `turned_start_state`."""
        qubits = self._start_qubits(inputs)
        turned = _turn(matrices, qubits)
        grads = outer_product_backward(turned.conj(), grad)  # (B, rows, n, 2)
        matrix_grad = torch.einsum("brni,brnj->bnij", grads, qubits.to(grads.dtype))
        adjoint = matrices.mH.to(grads.dtype)
        qubit_grads = _turn(adjoint, grads).real
        if not matrices.is_complex():
            matrix_grad = matrix_grad.real
        return self._angle_grads(inputs, qubits, qubit_grads), matrix_grad

    def _angle_grads(self, inputs: Tensor, qubits: Tensor, grads: Tensor) -> Tensor:
        """Return (B, rows, n_inputs) of gradients (B, rows, n, 2) for the qubits' states."""
        angles = 0.5 * (grads[..., 1] * qubits[..., 0] - grads[..., 0] * qubits[..., 1])
        if self.start == list(range(inputs.shape[-1])):
            return angles
        result = torch.zeros_like(inputs)
        for qubit, column in enumerate(self.start):
            if column is not None:
                result[..., column] += angles[..., qubit]
        return result

    def _start_qubits(self, inputs: Tensor) -> Tensor:
        half = self.start_angles(inputs) * 0.5
        return torch.stack([torch.cos(half), torch.sin(half)], dim=-1)  # (B, rows, n, 2)

    def phase_factors(self, inputs: Tensor) -> list[Tensor]:
        """Return for each distinct data phase its factors, (B, rows, 2^n) complex."""
        angles = [-0.5 * (inputs @ coefficients) for coefficients in self.data_phases]
        return [torch.polar(torch.ones_like(angle), angle) for angle in angles]

    def measure(self, state: Tensor) -> Tensor:
        """Return (B, rows, n_observables) of a real or complex state."""
        if state.is_complex():
            return torch.view_as_real(state).flatten(-2).square() @ self.signs_twice
        return state.square() @ self.signs


def _turn(matrices: Tensor, qubits: Tensor) -> Tensor:
    """Return (B, rows, n, 2), complex: a matrix (B, n, 2, 2) on each qubit's state."""
    dtype = _complex_dtype(qubits)
    columns = matrices.to(dtype)[:, None]  # (B, 1, n, 2, 2)
    states = qubits.to(dtype)
    return columns[..., 0] * states[..., :1] + columns[..., 1] * states[..., 1:]


class _Evolve(torch.autograd.Function):
    """Expectation values of (inputs, operators); keeps those and the final state."""

    @staticmethod
    def forward(
        ctx: Any, evolution: Evolution, steps: tuple[Step, ...], inputs: Tensor, *operators: Tensor
    ) -> Tensor:
        ctx.evolution, ctx.kinds = evolution, [(step.kind, step.phase) for step in steps]
        factors = evolution.phase_factors(inputs)
        state = _run(evolution, steps, inputs, factors)
        ctx.save_for_backward(inputs, state, *operators)
        return evolution.measure(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, state, *operators = ctx.saved_tensors
        steps = [
            Step(kind, operator, phase)
            for (kind, phase), operator in zip(ctx.kinds, operators, strict=True)
        ]
        needs = ctx.needs_input_grad
        with torch.autocast(inputs.device.type, enabled=False):
            grads = _reverse(ctx.evolution, steps, inputs, state, grad, needs[2], needs[3:])
        return (None, None, *grads)


def _run(
    evolution: Evolution, steps: Sequence[Step], inputs: Tensor, factors: Sequence[Tensor]
) -> Tensor:
    """Return the final state, which is real only where there is no step at all."""
    if not steps:
        return evolution.start_state(inputs)
    if steps[0].kind == "start":
        state = evolution.turned_start_state(inputs, _operator(steps[0]))
    else:
        state = _from_start(steps[0], evolution.start_state(inputs), factors)
    for step in steps[1:]:
        state = _apply(step, state, factors)
    return state


def _reverse(
    evolution: Evolution,
    steps: Sequence[Step],
    inputs: Tensor,
    state: Tensor,
    grad: Tensor,
    needs_inputs: bool,
    needs_operators: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients for the inputs and for each operator.

    The costate is dLoss/dRe(state) + i dLoss/dIm(state); as every step is unitary, its adjoint
    takes both the state and the costate one step back.
    """
    factors = evolution.phase_factors(inputs)
    # State and costate go back side by side, as rows of one tensor.
    pair = torch.cat([state, state * (2 * (grad @ evolution.signs.mT))], dim=1)
    state, costate = pair.tensor_split(2, dim=1)
    phase_grads: dict[int, Tensor] = {}
    grads: list[Tensor | None] = [None] * len(steps)
    for i in reversed(range(1, len(steps))):
        step = steps[i]
        if step.kind == "phase":
            _add_phase_grad(phase_grads, step.phase, state, costate)
        pair = _adjoint(step, pair, factors)
        before, pulled = pair.tensor_split(2, dim=1)
        if needs_operators[i]:
            grads[i] = _operator_grad(step, before, costate)
        state, costate = before, pulled
    first = steps[0] if steps else None
    if first is not None and first.kind == "start":
        input_grad, grads[0] = evolution.turned_start_backward(inputs, _operator(first), costate)
    else:
        if first is not None and first.kind == "phase":
            _add_phase_grad(phase_grads, first.phase, state, costate)
        elif first is not None and needs_operators[0]:
            grads[0] = _operator_grad(first, evolution.start_state(inputs), costate)
        if first is not None:
            costate = _to_start(first, costate, factors)
        input_grad = evolution.start_backward(inputs, costate)
    if not needs_inputs:
        return [None, *grads]
    for phase, phase_grad in phase_grads.items():
        input_grad = input_grad + phase_grad @ evolution.data_phases[phase].mT
    return [input_grad, *grads]


def _add_phase_grad(known: dict[int, Tensor], phase: int, state: Tensor, costate: Tensor) -> None:
    """Add dLoss/d(angle of each basis state), for factors exp(-i angle / 2)."""
    turned = 0.5 * (state.imag * costate.real - state.real * costate.imag)
    known[phase] = known[phase] + turned if phase in known else turned


def _apply(step: Step, state: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Return the complex state after one step."""
    if step.kind == "phase":
        return state * factors[step.phase]
    operator = _operator(step)
    if step.kind == "permute":
        return _permuted(state, operator[0])
    if step.kind == "diagonal":
        return state * operator[:, None, :]
    if step.kind == "high":
        return _apply_high(operator, state)
    operator = operator.to(state.dtype)
    return (_rows_of(state, operator) @ operator.mT).view(state.shape)


def _adjoint(step: Step, state: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Return the complex state before one step; rows may be a multiple of the factors' rows."""
    if step.kind == "phase":
        factor = factors[step.phase].conj()
        n_copies = 1 if state.shape[1] == factor.shape[1] else 2  # a state, or state and costate
        return (state.unflatten(1, (n_copies, factor.shape[1])) * factor[:, None]).flatten(1, 2)
    operator = _operator(step)
    if step.kind == "permute":
        return _permuted(state, operator[1])
    if step.kind == "diagonal":
        return state * operator[:, None, :].conj()
    if step.kind == "high":
        return _apply_high(operator.mH.resolve_conj().contiguous(), state)
    operator = operator.to(state.dtype)
    return (_rows_of(state, operator) @ operator.conj()).view(state.shape)


def _apply_high(operator: Tensor, state: Tensor) -> Tensor:
    """Multiply the leftmost half of the qubits; a real matrix takes both parts in a real product."""
    split = _split_state(state, operator)
    if operator.is_complex():
        return (operator[:, None] @ split).flatten(-2)
    parts = torch.view_as_real(split).flatten(-2)  # (B, rows, high, 2 * low)
    product = operator[:, None] @ parts
    return torch.view_as_complex(product.unflatten(-1, (product.shape[-1] // 2, 2))).flatten(-2)


def _permuted(state: Tensor, source: Tensor) -> Tensor:
    """Return state[..., source]; on a CPU, gather is several times faster than indexing."""
    return torch.gather(state, -1, source.expand(state.shape))


def _operator_grad(step: Step, before: Tensor, costate: Tensor) -> Tensor:
    """Return dLoss/d(operator), summed over rows; `before` is real where it is a start state."""
    operator = _operator(step)
    if step.kind == "diagonal":
        return (costate * before.conj()).sum(dim=1)
    if step.kind == "high":
        size = operator
        grad = (_split_state(costate, size) @ _split_state(before, size).to(costate.dtype).mH).sum(
            1
        )
    elif before.is_complex():
        grad = _rows_of(costate, operator).mT @ _rows_of(before, operator).conj()
    else:
        pairs = torch.view_as_real(_rows_of(costate, operator)).flatten(-2)
        product = _rows_of(before, operator).mT @ pairs
        grad = _from_pairs(product).mT
    return grad if operator.is_complex() else grad.real


def _from_start(step: Step, start: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Apply the first step to the real start state; a full unitary then costs a real product."""
    if step.kind != "unitary":
        return _apply(step, start.to(_complex_dtype(start)), factors)
    return _from_pairs(start @ _real_pairs(step))


def _to_start(step: Step, costate: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Return dLoss/d(real start state)."""
    if step.kind != "unitary":
        return _adjoint(step, costate, factors).real
    return torch.view_as_real(costate).flatten(-2) @ _real_pairs(step).mT


def _real_pairs(step: Step) -> Tensor:
    """Return (B, N, 2N): the transposed unitary, real and imaginary parts side by side."""
    operator = _operator(step)
    operator = operator.to(_complex_dtype(operator))
    return torch.view_as_real(operator.mT.contiguous()).flatten(-2)


def _from_pairs(pairs: Tensor) -> Tensor:
    """View (..., 2N) real, real and imaginary parts side by side, as (..., N) complex."""
    return torch.view_as_complex(pairs.unflatten(-1, (pairs.shape[-1] // 2, 2)))


def _operator(step: Step) -> Tensor:
    if step.operator is None:
        raise AssertionError(f"step '{step.kind}' has no operator")
    return step.operator


def _rows_of(state: Tensor, operator: Tensor) -> Tensor:
    """View (B, rows, 2^n) as (B, rows * high, low) for an operator on the low qubits."""
    size = operator.shape[-1]
    return state.reshape(state.shape[0], state.shape[1] * state.shape[2] // size, size)


def _split_state(state: Tensor, operator: Tensor) -> Tensor:
    """View (B, rows, 2^n) as (B, rows, high, low) for an operator on the high qubits."""
    size = operator.shape[-1]
    return state.unflatten(-1, (size, state.shape[-1] // size))


def _complex_dtype(tensor: Tensor) -> torch.dtype:
    is_double = tensor.dtype in (torch.float64, torch.complex128)
    return torch.complex128 if is_double else torch.complex64
