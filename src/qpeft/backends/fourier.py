"""A circuit into which the data enter once, as the trigonometric polynomial that it is.

    <O_k>(z) = sum over P in {1, cos, sin}^n of  c[P, k] prod_i P_i(z_i)

RY turns qubit i into (I + sin z_i X + cos z_i Z) / 2 and all that follows is linear in the state, so 3^n real
coefficients an observable say everything (Schuld et al., arXiv 2008.08605). Few and cheap operations a row for
small n; the same form, with measured coefficients, is the surrogate of a circuit on hardware.
"""

from functools import reduce
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qpeft.backends.products import outer_product


def pauli_transform(n_qubits: int) -> Tensor:
    """Return (4^n, 3^n): from a real matrix on n qubits to its coefficients of {1, cos, sin}^n."""
    halves = torch.tensor(
        [[[0.5, 0.0], [0.0, 0.5]], [[0.5, 0.0], [0.0, -0.5]], [[0.0, 0.5], [0.5, 0.0]]],
        dtype=torch.float64,
    )

    def extend(known: Tensor, one: Tensor) -> Tensor:
        size = 2 * known.shape[-1]
        return torch.einsum("pij,qkl->pqikjl", known, one).reshape(-1, size, size)

    return reduce(extend, [halves] * n_qubits).flatten(1).mT


def coefficients_of_unitary(unitary: Tensor, signs: Tensor, transform: Tensor) -> Tensor:
    """Return (B, 3^n, n_observables) for the unitary behind the data.

    Args:
        unitary: (B, 2^n, 2^n), real or complex.
        signs: (2^n, n_observables), the observables' diagonals.
        transform: `pauli_transform(n)`, in the real precision of the unitary.
    """
    diagonals = signs.mT[:, :, None]  # (observables, 2^n, 1)
    parts = [unitary.real, unitary.imag] if unitary.is_complex() else [unitary]
    stacked = torch.cat(parts, dim=-2)[:, None]  # (B, 1, parts * 2^n, 2^n)
    observables = stacked.mT @ (diagonals.repeat(1, len(parts), 1) * stacked)
    return (observables.flatten(-2) @ transform).mT


def evaluate_polynomial(inputs: Tensor, coefficients: Tensor) -> Tensor:
    """Return (B, rows, n_observables) for inputs (B, rows, n) in radians; differentiable in both.

    Args:
        inputs: The angles of the n = 2 or n = 4 qubits.
        coefficients: (B, 3^n, n_observables).
    """
    columns = inputs.mT.contiguous()
    result: Tensor = _Evaluate.apply(columns, coefficients)
    return result.mT


def trigonometric_polynomial(
    inputs: Tensor, coefficients: Tensor, n_frequencies: int = 1
) -> Tensor:
    """Return (B, rows, K) for inputs (B, rows, n), in the form that is fastest for their number.

    Args:
        inputs: Radians.
        coefficients: (B, (2 L + 1)^n, K), of all products of `trigonometric_features`.
        n_frequencies: L.
    """
    if n_frequencies == 1 and inputs.shape[-1] in (2, 4):
        return evaluate_polynomial(inputs, coefficients)
    return trigonometric_features(inputs, n_frequencies) @ coefficients


def trigonometric_features(inputs: Tensor, n_frequencies: int = 1) -> Tensor:
    """Return all products of one of {1, cos z, sin z, ..., cos Lz, sin Lz} for each input.

    Args:
        inputs: (..., n), radians.
        n_frequencies: L.

    Returns:
        (..., (2 L + 1)^n).
    """
    return outer_product(_input_features(inputs, n_frequencies))


def _input_features(inputs: Tensor, n_frequencies: int) -> Tensor:
    """Return (..., n, 2 L + 1): 1, cos z, sin z, ..., cos Lz, sin Lz of each input."""
    columns = [torch.ones_like(inputs)]
    for frequency in range(1, n_frequencies + 1):
        columns += [torch.cos(frequency * inputs), torch.sin(frequency * inputs)]
    return torch.stack(columns, dim=-1)


def low_terms(n_inputs: int, n_frequencies: int, max_weight: int) -> Tensor:
    """Return (n_terms, n_inputs): for each product of at most `max_weight` inputs, the factor of each.

    Factor 0 is 1, factor 2 k - 1 is cos(k z) and factor 2 k is sin(k z).
    """
    factors = range(1, 2 * n_frequencies + 1)
    rows = []
    for weight in range(min(max_weight, n_inputs) + 1):
        for places in combinations(range(n_inputs), weight):
            for chosen in product(factors, repeat=weight):
                row = [0] * n_inputs
                for place, factor in zip(places, chosen, strict=True):
                    row[place] = factor
                rows.append(row)
    return torch.tensor(rows)


def term_features(inputs: Tensor, terms: Tensor, n_frequencies: int = 1) -> Tensor:
    """Return (..., n_terms): the products that `terms` says, of inputs (..., n) in radians."""
    columns = _input_features(inputs, n_frequencies)
    result = columns[..., 0, :][..., terms[:, 0]]
    for i in range(1, inputs.shape[-1]):
        result = result * columns[..., i, :][..., terms[:, i]]
    return result


class _Evaluate(torch.autograd.Function):
    """The polynomial for inputs (B, n, rows), giving (B, n_observables, rows).

    Rows come last, so that every operation runs along contiguous memory. The qubits are taken in two
    halves, sum_ab f_a c[a, b] g_b: the 3^n features are never written out. Only the inputs are kept
    for the backward pass; the features are made again.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, coefficients: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, coefficients)
        first, second = _half_features(_qubit_features(inputs))
        partial = _contract_first(coefficients, first)  # (B, 3^(n/2), observables, rows)
        return (partial * second[:, :, None]).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        inputs, coefficients = ctx.saved_tensors
        grad_inputs = grad_coefficients = None
        with torch.autocast(inputs.device.type, enabled=False):
            qubits = _qubit_features(inputs)
            first, second = _half_features(qubits)
            outer = (second[:, :, None] * grad[:, None]).flatten(1, 2)  # (B, 3^(n/2) * K, rows)
            if ctx.needs_input_grad[1]:
                grad_coefficients = (first @ outer.mT).view(coefficients.shape)
            if ctx.needs_input_grad[0]:
                matrix = coefficients.reshape(first.shape[0], first.shape[1], -1)
                grad_first = matrix @ outer
                grad_second = (_contract_first(coefficients, first) * grad[:, None]).sum(dim=2)
                grad_inputs = _features_backward(qubits, grad_first, grad_second)
        return grad_inputs, grad_coefficients


def _contract_first(coefficients: Tensor, first: Tensor) -> Tensor:
    """Return (B, 3^(n/2), observables, rows): the coefficients, with the first half filled in."""
    n_half, n_observables = first.shape[1], coefficients.shape[-1]
    matrix = coefficients.reshape(len(coefficients), n_half, -1).mT
    return (matrix @ first).unflatten(1, (n_half, n_observables))


def _qubit_features(inputs: Tensor) -> Tensor:
    """Return (B, n, 3, rows): 1, cos and sin of each input."""
    if torch.compiler.is_compiling():  # which fuses this, and takes no strided `out`
        return torch.stack([torch.ones_like(inputs), torch.cos(inputs), torch.sin(inputs)], dim=2)
    features = inputs.new_empty(*inputs.shape[:2], 3, inputs.shape[2])
    features[:, :, 0] = 1
    torch.cos(inputs, out=features[:, :, 1])
    torch.sin(inputs, out=features[:, :, 2])
    return features


def _half_features(qubits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features (B, 3^(n/2), rows) of the first and of the second half of the qubits."""
    if qubits.shape[1] == 4:
        left, right = qubits[:, 0::2], qubits[:, 1::2]
        qubits = (left[:, :, :, None] * right[:, :, None]).flatten(2, 3)  # (B, 2, 9, rows)
    return qubits[:, 0], qubits[:, 1]


def _features_backward(qubits: Tensor, grad_first: Tensor, grad_second: Tensor) -> Tensor:
    """Return (B, n, rows): the gradient for the inputs, given those for the halves' features."""
    grad = torch.stack([grad_first, grad_second], dim=1)
    if qubits.shape[1] == 4:
        left, right = qubits[:, 0::2], qubits[:, 1::2]
        square = grad.unflatten(2, (3, 3))
        grad_left = (square * right[:, :, None]).sum(dim=3)
        grad_right = (square * left[:, :, :, None]).sum(dim=2)
        grad = torch.stack([grad_left, grad_right], dim=2).flatten(1, 2)
    cos, sin = qubits[:, :, 1], qubits[:, :, 2]
    return cos * grad[:, :, 2] - sin * grad[:, :, 1]
