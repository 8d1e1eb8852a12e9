"""A tensor-train (MPO) map between a wide side and a narrow inner side.

    W[(j1..jk), (i1..ik)] = core1[j1, i1] core2[j2, i2] ... corek[jk, ik]      (Oseledets, 2011)

with bond dimension chi between neighbours. Only its product with a small matrix is ever needed, so the map is
contracted with that matrix (r rows), which costs about r * width * chi^2 operations and no row of data.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
    """Contract each of n trains of the same shape with its matrix, all in the same operations."""
    first = trains[0]
    n, r, _ = matrices.shape
    padding = math.prod(first.inner_modes) - first.inner_width
    if padding:
        matrices = nn.functional.pad(matrices, (0, padding))
    cores = [torch.stack(same) for same in zip(*(train.cores for train in trains), strict=True)]
    # From the last core to the first: state is (n, r * inner modes to the left, this inner mode and
    # bond, wide modes to the right), which needs no permutation between two products.
    state = matrices.reshape(n, -1, first.inner_modes[-1]) @ _as_matrix(cores[-1]).mT
    n_done = first.wide_modes[-1]
    for core in reversed(cores[:-1]):
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
