"""Outer and Kronecker products over qubits, in trees of few operations, with a hand-written backward."""

import torch
from torch import Tensor


def outer_product(vectors: Tensor) -> Tensor:
    """Return the outer product over the dimension before the last.

    Args:
        vectors: (..., n, m).

    Returns:
        (..., m^n), the first vector on the leftmost digit.
    """
    n = vectors.shape[-2]
    if n == 1:
        return vectors[..., 0, :]
    if n % 2:
        head, last = outer_product(vectors[..., :-1, :]), vectors[..., -1, :]
        return _join(head, last)
    first, second = vectors[..., 0::2, :], vectors[..., 1::2, :]
    return outer_product(_join(first, second))


def outer_product_backward(vectors: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient for `vectors`, given that for their outer product.

    Args:
        vectors: (..., n, m), as given to `outer_product`.
        grad: (..., m^n).

    Returns:
        (..., n, m).
    """
    n = vectors.shape[-2]
    if n == 1:
        return grad[..., None, :]
    if n % 2:
        head, last = vectors[..., :-1, :], vectors[..., -1, :]
        grad_head, grad_last = _split_grad(outer_product(head), last, grad)
        grads = outer_product_backward(head, grad_head)
        return torch.cat([grads, grad_last[..., None, :]], dim=-2)
    first, second = vectors[..., 0::2, :], vectors[..., 1::2, :]
    grad_pairs = outer_product_backward(_join(first, second), grad)
    pair = torch.stack(_split_grad(first, second, grad_pairs), dim=-2)
    return pair.flatten(-3, -2)


def kronecker(matrices: Tensor) -> Tensor:
    """Return the Kronecker product over the third dimension from the end.

    Args:
        matrices: (..., n, 2, 2).

    Returns:
        (..., 2^n, 2^n), the first matrix on the leftmost bit.
    """
    product = matrices[..., 0, :, :]
    for i in range(1, matrices.shape[-3]):
        factor = matrices[..., i, :, :]
        size = 2 * product.shape[-1]
        product = (product[..., :, None, :, None] * factor[..., None, :, None, :]).reshape(
            *product.shape[:-2], size, size
        )
    return product


def _join(first: Tensor, second: Tensor) -> Tensor:
    """Return the outer product of the last dimensions, flattened."""
    return (first[..., :, None] * second[..., None, :]).flatten(-2)


def _split_grad(first: Tensor, second: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients for both factors of `_join`."""
    square = grad.unflatten(-1, (first.shape[-1], second.shape[-1]))
    return (
        (square * second[..., None, :]).sum(dim=-1),
        (square * first[..., :, None]).sum(dim=-2),
    )
