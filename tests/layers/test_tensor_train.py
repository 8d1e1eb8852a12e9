"""A tensor train's contraction is the product with the matrix that it stands for."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpeft.errors import ConfigError
from qpeft.layers import TensorTrain
from qpeft.layers.tensor_train import contract_each, core_shapes


def dense(train: TensorTrain) -> Tensor:
    """W (width, inner_width), by the sum over all bonds at once."""
    k = len(train.cores)
    bonds, wide, inner = "abcdefgh", "jklmnopq", "rstuvwxy"
    terms = ",".join(f"{bonds[i]}{wide[i]}{inner[i]}{bonds[i + 1]}" for i in range(k))
    full = torch.einsum(f"{terms}->{wide[:k]}{inner[:k]}", *train.cores)
    n_wide = math.prod(train.wide_modes)
    return full.reshape(n_wide, -1)[: train.width, : train.inner_width]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, tuple[int, ...], tuple[int, ...], int]:
    """Draw a train's sizes, with modes in any order, of whose products some may be padding."""
    k = draw(st.integers(1, 4))
    wide = tuple(draw(st.lists(st.integers(1, 5), min_size=k, max_size=k)))
    inner = tuple(draw(st.lists(st.integers(1, 4), min_size=k, max_size=k)))
    n_wide, n_inner = math.prod(wide), math.prod(inner)
    width = draw(st.integers((n_wide + 1) // 2, n_wide))
    inner_width = draw(st.integers((n_inner + 1) // 2, n_inner))
    return width, inner_width, wide, inner, draw(st.integers(1, 4))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(shape=shapes(), r=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_contraction_equals_the_dense_product(
    shape: tuple[int, int, tuple[int, ...], tuple[int, ...], int], r: int, seed: int
) -> None:
    torch.manual_seed(seed)
    train = TensorTrain(*shape).double()
    matrix = torch.randn(r, train.inner_width, dtype=torch.float64)
    expected = matrix @ dense(train).mT
    result = train.contract(matrix)
    assert result.shape == (r, train.width)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_the_contraction_equal_those_of_the_dense_product() -> None:
    torch.manual_seed(0)
    train = TensorTrain(11, 7, (4, 3), (2, 4), 3).double()
    matrix = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    weights = [matrix, *train.cores]
    mixture = torch.randn(3, 11, dtype=torch.float64)
    fast = torch.autograd.grad((train.contract(matrix) * mixture).sum(), weights)
    slow = torch.autograd.grad(((matrix @ dense(train).mT) * mixture).sum(), weights)
    for one, two in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_many_trains_are_contracted_as_each_alone() -> None:
    torch.manual_seed(0)
    same = [TensorTrain(11, 7, (4, 3), (2, 4), 3) for _ in range(5)]
    matrices = torch.randn(5, 3, 7)
    together = contract_each(same, matrices)
    for train, matrix, result in zip(same, matrices, together, strict=True):
        torch.testing.assert_close(result, train.contract(matrix), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("wide", "inner", "bond_dim"), [((8, 8, 8, 7), (4, 4, 4, 4), 8), ((24,), (6,), 3)]
)
def test_entries_start_with_variance_one_over_the_width(
    wide: tuple[int, ...], inner: tuple[int, ...], bond_dim: int
) -> None:
    torch.manual_seed(0)
    width, inner_width = math.prod(wide), math.prod(inner)
    squares = []
    for _ in range(20):
        train = TensorTrain(width, inner_width, wide, inner, bond_dim)
        probe = torch.randn(16, inner_width)
        squares.append(train.contract(probe).square().mean().item() / inner_width)
    assert width * sum(squares) / len(squares) == pytest.approx(1, rel=0.35)


def test_a_zero_start_is_exactly_zero_and_can_still_be_trained() -> None:
    torch.manual_seed(0)
    train = TensorTrain(12, 6, (4, 3), (2, 3), 2)
    train.reset_parameters(is_zero=True)
    result = train.contract(torch.randn(3, 6))
    assert not result.any()
    result.sum().backward()
    assert train.cores[-1].grad.any()


def test_cores_have_the_shapes_that_are_counted() -> None:
    assert core_shapes((5,), (3,), 4) == [(1, 5, 3, 1)]
    assert core_shapes((5, 4, 3), (2, 2, 1), 6) == [(1, 5, 2, 6), (6, 4, 2, 6), (6, 3, 1, 1)]


@pytest.mark.parametrize(("modes", "bond_dim"), [((2, 3), 0), ((6,), 2)])
def test_a_train_that_cannot_be_is_refused(modes: tuple[int, ...], bond_dim: int) -> None:
    with pytest.raises(ConfigError, match="A tensor train needs bond_dim >= 1 and equally many"):
        TensorTrain(6, 4, modes, (2, 2), bond_dim)
