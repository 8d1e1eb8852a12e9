"""How large an adapter is: its parameter count, and sizes for a target saving against LoRA.

The saving is the tensor trains'; the circuit adds a few angles to it.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from qpeft.adapters.config import QthaConfig
from qpeft.circuits import build_ansatz
from qpeft.errors import ConfigError
from qpeft.layers.mode_sizes import check_modes, mode_sizes
from qpeft.layers.tensor_train import core_shapes

MAX_BOND_DIM = 64


@dataclass(frozen=True)
class Sizes:
    """The sizes of one adapted layer.

    Args:
        in_modes: Mode sizes of d_in.
        out_modes: Mode sizes of d_out.
        inner_modes: Mode sizes of the inner width.
        inner_width: w.
        bond_dim: chi.
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    inner_modes: tuple[int, ...]
    inner_width: int
    bond_dim: int

    @property
    def n_train_parameters(self) -> int:
        """Parameters of both tensor trains."""
        return sum(
            math.prod(shape)
            for modes in (self.in_modes, self.out_modes)
            for shape in core_shapes(modes, self.inner_modes, self.bond_dim)
        )


def choose_sizes(config: QthaConfig, d_in: int, d_out: int, r: int) -> Sizes:
    """Return the sizes for a layer: as configured, or chosen for `target_saving`.

    For a target, the budget is (1 - saving) * r * (d_in + d_out). Of all inner widths r, 2 r, 4 r, ... up to
    `config.inner_width` the one is taken that allows the largest bond dimension, and with it the most
    parameters within the budget; the tensor trains are the adapter's bottleneck, the inner width is not.
    A control gets the sizes of the circuit that it stands for, so that only the core tells them apart, unless
    `sized_as` says otherwise; core="fourier" always does, so that an exported adapter keeps its shape, and its
    coefficients come on top.

    Raises:
        ConfigError: The saving cannot be reached in this layer.
    """
    if config.target_saving is None:
        return _sizes(config, d_in, d_out, config.inner_width, config.bond_dim)
    budget = math.floor((1 - config.target_saving) * r * (d_in + d_out))
    if config.core == "fourier" or config.sized_as == "quantum":
        config = replace(config, core="quantum")
    candidates = []
    width = min(r, config.inner_width)
    while width <= config.inner_width:
        for bond_dim in range(MAX_BOND_DIM, 0, -1):
            sizes = _sizes(config, d_in, d_out, width, bond_dim)
            n_parameters = sizes.n_train_parameters + n_dense_parameters(config, r, width)
            if n_parameters <= budget:
                candidates.append((bond_dim, n_parameters, sizes))
                break
        width *= 2
    if not candidates:
        least = _sizes(config, d_in, d_out, min(r, config.inner_width), 1)
        n_least = least.n_train_parameters + n_dense_parameters(config, r, least.inner_width)
        possible = max(0.0, 1 - n_least / (r * (d_in + d_out)))
        raise ConfigError(
            f"target_saving={config.target_saving} cannot be reached for a {d_in} -> {d_out} layer "
            f"at r={r}: the smallest adapter saves {possible:.0%}. Lower target_saving, raise r, or "
            f"leave this layer out with exclude_modules."
        )
    return max(candidates, key=lambda c: c[:2])[2]


def n_dense_parameters(config: QthaConfig, r: int, inner_width: int) -> int:
    """Return the trained parameters besides the tensor trains: A, B, C, Q and the core."""
    n_mixing = r * r if config.core == "none" or config.fusion == "hadamard" else 2 * r * r
    return 2 * r * inner_width + n_mixing + n_core_parameters(config, r)


def n_core_parameters(config: QthaConfig, r: int) -> int:
    """Return the trained parameters of what stands in the core's place."""
    if config.core in ("none", "frozen"):
        return 0
    if config.core == "constant":
        return r
    n = r // config.groups
    circuit = build_ansatz(config.ansatz, n, config.n_layers, is_entangled=config.core != "product")
    if config.core == "fourier":
        return r * (2 * circuit.n_uploads() + 1) ** n
    return config.groups * circuit.n_weights


@lru_cache(maxsize=65536)
def _cached_modes(width: int, n_cores: int, by_hand: tuple[int, ...] | None) -> tuple[int, ...]:
    if by_hand is not None:
        return check_modes(width, by_hand, n_cores)
    return mode_sizes(width, n_cores)


def _sizes(config: QthaConfig, d_in: int, d_out: int, inner_width: int, bond_dim: int) -> Sizes:
    by_hand = config.mode_sizes or {}

    def modes(width: int) -> tuple[int, ...]:
        given = by_hand.get(width)
        return _cached_modes(width, config.n_cores, tuple(given) if given else None)

    return Sizes(modes(d_in), modes(d_out), modes(inner_width), inner_width, bond_dim)
