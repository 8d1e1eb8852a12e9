"""Compiles a circuit with its noise into stages that depend on the weights alone, with data between them.

    start                RY of data on fresh qubits: known features, no operation
    stage, data, stage   fixed channels; rotations by data, which differ from row to row; fixed channels; ...

Within a stage, all that one qubit meets between two CZ is one chain of 4 x 4 channels, in which the constants
(noise, waiting, H) are multiplied into the rotations beforehand; a CZ takes in the chains before it; CZ after CZ
on the same pair is one 16 x 16 channel. The `Unit`s that remain are few, and all are built in a few operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qpeft.chips.channels import cz_channel, kronecker_channel, rotation_parts
from qpeft.chips.native import ControlledZ, Factor, NativeCircuit, NativeOp, Turn
from qpeft.chips.noise import NoiseModel, idle_times

Part = tuple[Tensor, int | None, float]
"""(3, 4, 4) matrices F, C, S of F + cos(t) C + sin(t) S, t = scale * weights[column]; the column, the scale."""


Link = tuple[Tensor | None, tuple[int, ...]]
"""A constant channel (None for one qubit) and the numbers of the chains before it, -1 for none."""

ChannelOnQubits = tuple[tuple[int, ...], Tensor]
"""The qubits that a channel (B, 4^k, 4^k) acts on, and the channel."""


@dataclass(frozen=True)
class DataTurn:
    """A rotation by scale * inputs[column] about an axis."""

    qubit: int
    axis: str
    column: int
    scale: float


@dataclass(frozen=True)
class Unit:
    """Channels that act on one qubit or a pair, one after another.

    Args:
        qubits: One, or two in ascending order.
        links: Each the chains of its qubits and then a constant.
    """

    qubits: tuple[int, ...]
    links: list[Link]


@dataclass
class Stages:
    """A compiled circuit.

    Args:
        start: For each qubit the data column of its first RY, or None.
        units: For each stage the units that act in it.
        data: What acts between the stages, one fewer.
        chains: The one-qubit channels of all stages, each from its parts, the first acting first.
    """

    start: list[int | None]
    units: list[list[Unit]] = field(default_factory=list)
    data: list[list[DataTurn]] = field(default_factory=list)
    chains: list[list[Part]] = field(default_factory=list)


def compile_stages(
    native: NativeCircuit, n_inputs: int, place: Sequence[int], noise: NoiseModel
) -> Stages:
    """Compile a circuit on a place of a chip.

    Args:
        native: The circuit in native gates.
        n_inputs: Columns of its angles that are data; the others are weights.
        place: The physical qubit of each circuit qubit.
        noise: Of the chip.
    """
    draft = _Draft(native.n_qubits, n_inputs)
    ops = [(op.qubit,) if isinstance(op, Turn) else op.qubits for op in native.ops]
    before, _ = idle_times(ops, noise.durations, native.n_qubits)
    for op, qubits, waits in zip(native.ops, ops, before, strict=True):
        for qubit, wait in zip(qubits, waits, strict=True):
            if wait > 0 and noise.has_idle_noise:
                draft.add_constant(qubit, noise.waiting([place[qubit]], wait)[0])
        _add_op(draft, op, place, noise)
    return draft.finish()


def final_waits(native: NativeCircuit, noise: NoiseModel) -> list[float]:
    """Return for each qubit how many nanoseconds it waits for the read-out."""
    ops = [(op.qubit,) if isinstance(op, Turn) else op.qubits for op in native.ops]
    return idle_times(ops, noise.durations, native.n_qubits)[1]


def _add_op(draft: "_Draft", op: NativeOp, place: Sequence[int], noise: NoiseModel) -> None:
    if isinstance(op, ControlledZ):
        pair = min(op.qubits), max(op.qubits)
        draft.add_cz(pair, noise.after_cz(place[pair[0]], place[pair[1]]) @ cz_channel())
    else:
        for factor in op.factors:
            draft.add_factor(op.qubit, factor)
        draft.add_constant(op.qubit, noise.after_turn(place[op.qubit]))


class _Draft:
    """Sorts operations into stages: even levels are stages, odd ones the data between them."""

    def __init__(self, n_qubits: int, n_inputs: int):
        self.n_qubits, self.n_inputs = n_qubits, n_inputs
        self.start: list[int | None] = [None] * n_qubits
        self.is_fresh = [True] * n_qubits
        self.level = [0] * n_qubits
        self.stages: list[_StageDraft] = []
        self.data: dict[int, list[DataTurn]] = {}
        self.chains: list[list[Part]] = []

    def add_factor(self, qubit: int, factor: Factor) -> None:
        """Add a gate of a turn: of data, of a weight, or H."""
        if factor.column is not None and factor.column < self.n_inputs:
            self._add_data(DataTurn(qubit, factor.axis, factor.column, factor.scale))
            return
        parts = torch.stack(rotation_parts(factor.axis, torch.empty(0, dtype=torch.float64)))
        if factor.column is None:
            self.add_constant(qubit, parts[0])
        else:
            part = (parts, factor.column - self.n_inputs, factor.scale)
            _extend(self._stage(qubit).chain(qubit), part)

    def add_constant(self, qubit: int, channel: Tensor) -> None:
        """Add a (4, 4) channel."""
        parts = torch.zeros(3, 4, 4, dtype=torch.float64)
        parts[0] = channel
        _extend(self._stage(qubit).chain(qubit), (parts, None, 0.0))

    def add_cz(self, pair: tuple[int, int], channel: Tensor) -> None:
        """Add the (16, 16) channel of a CZ with its noise."""
        self._stage(*pair).add_pair(pair, channel)

    def finish(self) -> Stages:
        """Return what was added."""
        n_stages = 1 + (max(self.level) + 1) // 2
        while len(self.stages) < n_stages:
            self.stages.append(_StageDraft(self.chains))
        data = [self.data.get(2 * stage + 1, []) for stage in range(n_stages - 1)]
        return Stages(self.start, [stage.finish() for stage in self.stages], data, self.chains)

    def _stage(self, *qubits: int) -> "_StageDraft":
        """Return the first stage that none of the qubits has passed."""
        level = max(self.level[qubit] + self.level[qubit] % 2 for qubit in qubits)
        for qubit in qubits:
            self.level[qubit], self.is_fresh[qubit] = level, False
        while len(self.stages) <= level // 2:
            self.stages.append(_StageDraft(self.chains))
        return self.stages[level // 2]

    def _add_data(self, turn: DataTurn) -> None:
        qubit = turn.qubit
        if self.is_fresh[qubit] and turn.axis == "Y" and turn.scale == 1.0:
            self.start[qubit] = turn.column
        else:
            self.level[qubit] += 1 - self.level[qubit] % 2
            self.data.setdefault(self.level[qubit], []).append(turn)
        self.is_fresh[qubit] = False


class _StageDraft:
    """Collects the units of one stage."""

    def __init__(self, chains: list[list[Part]]):
        self.chains = chains
        self.pending: dict[int, int] = {}  # the open chain of each qubit
        self.units: list[Unit] = []
        self.last: dict[int, Unit] = {}  # the last unit on each qubit

    def chain(self, qubit: int) -> list[Part]:
        """Return the chain of a qubit that is still open."""
        if qubit not in self.pending:
            self.pending[qubit] = self._new_chain()
        return self.chains[self.pending[qubit]]

    def add_pair(self, pair: tuple[int, int], channel: Tensor) -> None:
        """Add a channel on a pair, with the open chains of its qubits before it."""
        known = self.last.get(pair[0])
        if known is None or known is not self.last.get(pair[1]):
            known = Unit(pair, [])
            self.units.append(known)
            self.last.update(dict.fromkeys(pair, known))
        chains = tuple(self.pending.pop(qubit, -1) for qubit in pair)
        known.links.append((channel, chains))

    def finish(self) -> list[Unit]:
        """Return the units; chains that no CZ follows are units of one qubit."""
        rest = [Unit((qubit,), [(None, (chain,))]) for qubit, chain in self.pending.items()]
        return self.units + rest

    def _new_chain(self) -> int:
        self.chains.append([])
        return len(self.chains) - 1


def _extend(chain: list[Part], part: Part) -> None:
    """Add a part that acts last; a constant is multiplied into its neighbour."""
    if chain and None in (part[1], chain[-1][1]):
        (first, column, scale), (second, later_column, later_scale) = chain.pop(), part
        if later_column is None:
            part = (second[0] @ first, column, scale)
        else:
            part = (second @ first[0], later_column, later_scale)
    chain.append(part)


class UnitBuilder:
    """Makes the channels of all units for many sets of weights at once.

    Args:
        stages: The compiled circuit.
        device: Of the result.
        dtype: Real type of the result.
    """

    def __init__(self, stages: Stages, device: torch.device, dtype: torch.dtype):
        self.stages = stages
        eye = torch.zeros(3, 4, 4, dtype=torch.float64)
        eye[0] = torch.eye(4, dtype=torch.float64)
        # The last chain is the identity, number -1, for qubits of a CZ without anything before it.
        identity: Part = (eye, None, 0.0)
        chains = [*stages.chains, [identity]]
        self.n_chains, self.depth = len(chains), max(len(chain) for chain in chains)
        padded = [[*chain, *[identity] * (self.depth - len(chain))] for chain in chains]
        flat = [part for chain in padded for part in chain]
        matrices = torch.stack([part[0] for part in flat]).flatten(-2)  # (parts, 3, 16)
        self.matrices = matrices.to(device, dtype)
        self.columns = torch.tensor([part[1] or 0 for part in flat], device=device)
        self.scales = torch.tensor([part[2] for part in flat], device=device, dtype=dtype)
        self._prepare_links(device, dtype)

    def build(self, weights: Tensor) -> list[list[ChannelOnQubits]]:
        """Return for each stage its units: their qubits and channels (B, 4^k, 4^k).

        Args:
            weights: (B, n_weights), radians; differentiable.
        """
        singles = self._build_chains(weights)
        pairs = iter(self._build_pairs(singles).unbind(1) if self.n_pairs else ())
        chains = singles.unbind(1)

        def channel_of(unit: Unit) -> Tensor:
            return next(pairs) if len(unit.qubits) == 2 else chains[unit.links[0][1][0]]

        return [[(unit.qubits, channel_of(unit)) for unit in units] for units in self.stages.units]

    def _build_chains(self, weights: Tensor) -> Tensor:
        """Return (B, n_chains, 4, 4)."""
        if weights.shape[-1] == 0:
            weights = weights.new_zeros(len(weights), 1)
        angles = weights[:, self.columns] * self.scales
        factors = torch.stack([torch.ones_like(angles), angles.cos(), angles.sin()], dim=-1)
        parts = torch.einsum("bpk,pkm->bpm", factors, self.matrices)
        parts = parts.reshape(len(weights), self.n_chains, self.depth, 4, 4)
        return _multiply_up(parts)

    def _build_pairs(self, chains: Tensor) -> Tensor:
        """Return (B, n_pairs, 16, 16)."""
        first, second = chains[:, self.first_chain], chains[:, self.second_chain]
        links = self.constants @ kronecker_channel(first, second)
        return _multiply_up(links.unflatten(1, (self.n_pairs, -1)))

    def _prepare_links(self, device: torch.device, dtype: torch.dtype) -> None:
        pairs = [u for units in self.stages.units for u in units if len(u.qubits) == 2]
        self.n_pairs = len(pairs)
        longest = max((len(unit.links) for unit in pairs), default=0)
        nothing: Link = (torch.eye(16, dtype=torch.float64), (-1, -1))
        links = [link for u in pairs for link in [*u.links, *[nothing] * (longest - len(u.links))]]
        constants = [constant for constant, _ in links if constant is not None]
        if constants:
            self.constants = torch.stack(constants).to(device, dtype)
        numbers = [[chain % self.n_chains for chain in chains] for _, chains in links]
        self.first_chain = torch.tensor([n[0] for n in numbers], device=device, dtype=torch.long)
        self.second_chain = torch.tensor([n[1] for n in numbers], device=device, dtype=torch.long)


def _multiply_up(factors: Tensor) -> Tensor:
    """Return (B, n, d, d): the product over the third dimension, in which the first acts first."""
    product = factors[:, :, 0]
    for i in range(1, factors.shape[2]):
        product = factors[:, :, i] @ product
    return product
