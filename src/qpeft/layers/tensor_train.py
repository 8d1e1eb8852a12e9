"""A tensor-train (MPO) map between a wide side and a narrow inner side.

    W[(j1..jk), (i1..ik)] = core1[j1, i1] core2[j2, i2] ... corek[jk, ik]      (Oseledets, 2011)

with bond dimension chi between neighbours. Only its product with a small matrix is ever needed, so the map is
contracted with that matrix (r rows), which costs about r * width * chi^2 operations and no row of data.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qpeft.errors import ConfigError


class TensorTrain(nn.Module):
    """A width x inner_width matrix as k cores of shape (chi, wide mode, inner mode, chi).

    Args:
        width: Size of the wide side.
        inner_width: Size of the inner side.
        wide_modes: k mode sizes whose product is at least `width`.
        inner_modes: k mode sizes whose product is at least `inner_width`.
        bond_dim: chi; the two outer bonds have dimension 1.

    Raises:
        ConfigError: `bond_dim` is less than one or the numbers of modes differ.
    """

    def __init__(
        self,
        width: int,
        inner_width: int,
        wide_modes: tuple[int, ...],
        inner_modes: tuple[int, ...],
        bond_dim: int,
    ):
        super().__init__()
        if bond_dim < 1 or len(wide_modes) != len(inner_modes):
            raise ConfigError(
                f"A tensor train needs bond_dim >= 1 and equally many modes on both sides; got "
                f"bond_dim={bond_dim}, {list(wide_modes)} and {list(inner_modes)}."
            )
        self.width, self.inner_width = width, inner_width
        self.wide_modes, self.inner_modes = wide_modes, inner_modes
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(shape))
            for shape in core_shapes(wide_modes, inner_modes, bond_dim)
        )
        self.reset_parameters()

    def reset_parameters(self, *, is_zero: bool = False) -> None:
        """Draw the cores so that an entry of W has variance 1 / width.

        Args:
            is_zero: True sets the last core to zero, and with it the whole map.
        """
        n_paths = math.prod(core.shape[-1] for core in self.cores)
        std = (self.width * n_paths) ** (-0.5 / len(self.cores))
        for core in self.cores:
            nn.init.normal_(core, std=std)
        if is_zero:
            nn.init.zeros_(self.cores[-1])

    def contract(self, matrix: Float[Tensor, "r inner_width"]) -> Float[Tensor, "r width"]:
        """Return matrix @ W^T: the dense map from the wide side to the r rows of `matrix`."""
        return contract_each([self], matrix[None])[0]

    def extra_repr(self) -> str:
        """Show the sizes when the module is printed."""
        return f"{self.width} x {self.inner_width}, modes {self.wide_modes} x {self.inner_modes}"


def contract_each(
    trains: Sequence[TensorTrain], matrices: Float[Tensor, "n r inner_width"]
) -> Float[Tensor, "n r width"]:
    """Contract each of n trains of the same shape with its matrix, all in the same operations.

    Backward contracts again: what lies between two products is many times larger than the cores.
    """
    cores = [core for train in trains for core in train.cores]
    result: Tensor = _Contraction.apply(trains[0], matrices, *cores)
    return result


class _Contraction(torch.autograd.Function):
    """The contraction of (matrices, cores of the first train, of the second, ...); keeps those alone."""

    @staticmethod
    def forward(ctx: Any, first: TensorTrain, matrices: Tensor, *cores: Tensor) -> Tensor:
        ctx.first = first
        ctx.save_for_backward(matrices, *cores)
        return _contract(first, matrices, cores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        tensors = [
            tensor.detach().requires_grad_(needs)
            for tensor, needs in zip(ctx.saved_tensors, needed, strict=True)
        ]
        with torch.enable_grad(), torch.autocast(grad.device.type, enabled=False):
            result = _contract(ctx.first, tensors[0], tensors[1:])
        wanted = [tensor for tensor in tensors if tensor.requires_grad]
        grads = iter(torch.autograd.grad(result, wanted, grad))
        return (None, *(next(grads) if needs else None for needs in needed))


def _contract(first: TensorTrain, matrices: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """Contract; `cores` are those of all trains, one train after the other."""
    n, r, _ = matrices.shape
    padding = math.prod(first.inner_modes) - first.inner_width
    if padding:
        matrices = nn.functional.pad(matrices, (0, padding))
    k = len(first.inner_modes)
    stacked = [torch.stack(list(cores[i::k])) for i in range(k)]
    # From the last core to the first: state is (n, r * inner modes to the left, this inner mode and
    # bond, wide modes to the right), which needs no permutation between two products.
    state = matrices.reshape(n, -1, first.inner_modes[-1]) @ _as_matrix(stacked[-1]).mT
    n_done = first.wide_modes[-1]
    for core in reversed(stacked[:-1]):
        _, _, wide, inner, bond_right = core.shape
        state = state.reshape(n, -1, inner * bond_right, n_done)
        state = _as_matrix(core)[:, None] @ state
        n_done *= wide
    return state.reshape(n, r, n_done)[:, :, : first.width]


def core_shapes(
    wide_modes: tuple[int, ...], inner_modes: tuple[int, ...], bond_dim: int
) -> list[tuple[int, int, int, int]]:
    """Return the shape (left bond, wide mode, inner mode, right bond) of each core."""
    k = len(wide_modes)
    bonds = [1] + [bond_dim] * (k - 1) + [1]
    return [(bonds[i], wide_modes[i], inner_modes[i], bonds[i + 1]) for i in range(k)]


def _as_matrix(core: Tensor) -> Tensor:
    """View cores (n, ...) as (n, left bond * wide mode, inner mode * right bond)."""
    return core.flatten(3).flatten(1, 2)
