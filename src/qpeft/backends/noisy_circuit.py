"""One circuit with its noise on one place of a chip: from weights to operators, from rows to expectation values.

All channels are real matrices on Pauli expectation values (`qpeft.chips.channels`). Two forms of one function:

    polynomial   data enter once: the observables go backwards through the noise to the encoding, where their
                 coefficients of {I, Z, X}^n are those of {1, cos, sin}^n; a row costs what it costs `exact`
    rows         data enter again: every row's density matrix goes forwards, in chunks of rows that are computed
                 again in the backward pass, so that memory stays bounded
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qpeft.backends.fourier import trigonometric_features, trigonometric_polynomial
from qpeft.backends.noisy_stages import (
    ChannelOnQubits,
    DataTurn,
    UnitBuilder,
    compile_stages,
    final_waits,
)
from qpeft.chips.channels import PAULI_ORDER, PauliStates
from qpeft.chips.native import NativeCircuit
from qpeft.chips.noise import NoiseModel
from qpeft.circuits import ZProduct

DENSE_QUBITS = 4  # above, one 4^n x 4^n matrix a stage costs more than its units one by one
_CHUNK = 2**18  # numbers in the states of a chunk of rows


class Site(NamedTuple):
    """A circuit as a chip runs it.

    Args:
        native: Native gates on wires; with SWAPs there may be more wires than qubits.
        readout: The wire on which each qubit of the circuit is read out.
        place: The physical qubit of each wire.
    """

    native: NativeCircuit
    readout: tuple[int, ...]
    place: tuple[int, ...]


class NoisyCircuit:
    """What is known of a circuit without its weights, on one device and in one precision.

    Args:
        site: The circuit on its place.
        n_inputs: Number of data columns.
        observables: What is read out.
        noise: Of the chip.
        device: Of all tensors.
        dtype: Real type of all tensors.
    """

    def __init__(
        self,
        site: Site,
        n_inputs: int,
        observables: tuple[ZProduct, ...],
        noise: NoiseModel,
        device: torch.device,
        dtype: torch.dtype,
    ):
        self.dtype, self.n_qubits = dtype, site.native.n_qubits
        self.stages = compile_stages(site.native, n_inputs, site.place, noise)
        self.builder = UnitBuilder(self.stages, device, dtype)
        self.observables = read_observables(site, observables, noise).to(device, dtype)
        self.encoded = _encoded_paulis(self.n_qubits).to(device)

    def operators(self, weights: Tensor) -> list[Tensor]:
        """Return all that the rows need of weights (B, n_weights), as tensors (B, ...)."""
        units = self.builder.build(weights)
        last = PauliStates(self.observables.expand(len(weights), -1, -1))
        for qubits, channel in reversed(units[-1]):
            last.apply(channel.mT, qubits)
        if not self.stages.data:
            return [last.values()[:, self.encoded]]  # (B, 3^n, n_observables)
        if self.n_qubits > DENSE_QUBITS:
            return [*(channel for stage in units[:-1] for _, channel in stage), last.values()]
        eye = torch.eye(4**self.n_qubits, dtype=self.dtype, device=weights.device)
        first = self._matrix(units[0], eye[:, self.encoded], len(weights))
        middle = [self._matrix(stage, eye, len(weights)) for stage in units[1:-1]]
        return [first, *middle, last.values()]

    def evaluate(self, rows: Tensor, operators: Sequence[Tensor]) -> Tensor:
        """Return expectation values (B, n_rows, n_observables) of rows (B, n_rows, n_inputs)."""
        if not self.stages.data:
            return trigonometric_polynomial(self._start_angles(rows), operators[0])
        size = max(1, _CHUNK // 4**self.n_qubits)
        chunks = [
            _computed_again(self._evaluate_rows, chunk, *operators) for chunk in rows.split(size, 1)
        ]
        return torch.cat(chunks, dim=1)

    def _evaluate_rows(self, rows: Tensor, *operators: Tensor) -> Tensor:
        features = trigonometric_features(self._start_angles(rows)).mT  # (B, 3^n, rows)
        is_dense = self.n_qubits <= DENSE_QUBITS
        if is_dense:
            states = features
        else:
            empty = rows.new_zeros(len(rows), 4**self.n_qubits, rows.shape[1])
            states = empty.index_copy(1, self.encoded, features)
        left = iter(operators)
        for units, data in zip(self.stages.units[:-1], self.stages.data, strict=True):
            if is_dense:
                states = next(left) @ states
            else:
                known = PauliStates(states)
                for unit in units:
                    known.apply(next(left), unit.qubits)
                states = known.values()
            for turn in data:
                states = _turn_by_data(states, turn, rows, self.n_qubits)
        return states.mT @ next(left)

    def _matrix(self, units: Sequence[ChannelOnQubits], basis: Tensor, n_blocks: int) -> Tensor:
        """Return (B, 4^n, m): where a stage leads the m columns of a basis."""

        def lead(*channels: Tensor) -> Tensor:
            columns = PauliStates(basis.expand(n_blocks, -1, -1))
            for (qubits, _), channel in zip(units, channels, strict=True):
                columns.apply(channel, qubits)
            return columns.values()

        return _computed_again(lead, *(channel for _, channel in units))

    def _start_angles(self, rows: Tensor) -> Tensor:
        """Return (B, n_rows, n_qubits): the angle of each qubit's first RY, zero where there is none."""
        if self.stages.start == list(range(rows.shape[-1])):
            return rows
        zero = rows.new_zeros(rows.shape[:-1])
        columns = [zero if c is None else rows[..., c] for c in self.stages.start]
        return torch.stack(columns, dim=-1)


def read_observables(site: Site, observables: Sequence[ZProduct], noise: NoiseModel) -> Tensor:
    """Return (4^n, n_observables) in float64: what products of read bits are, as sums of Paulis.

    A bit that is read is +1 or -1 with mean a + b <Z>, of its confusion matrix; the wait for the read-out lies
    before that.
    """
    confusion = noise.readout(site.place)
    mean = confusion[:, 0] - confusion[:, 1]  # of the read bit, for the true bits 0 and 1
    waits = final_waits(site.native, noise)
    nothing = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    read = []
    for qubit, wait in enumerate(waits):
        vector = nothing.clone()
        vector[0] = (mean[qubit, 0] + mean[qubit, 1]) / 2
        vector[3] = (mean[qubit, 0] - mean[qubit, 1]) / 2
        read.append(noise.waiting([site.place[qubit]], wait)[0].mT @ vector)
    columns = []
    for observable in observables:
        # Z Z = 1: a qubit that an observable names twice is not in it.
        wires = [site.readout[qubit] for qubit in observable.qubits]
        odd = {wire for wire in wires if wires.count(wire) % 2}
        factors = [read[w] if w in odd else nothing for w in range(site.native.n_qubits)]
        columns.append(reduce(torch.kron, factors))
    if not columns:
        return torch.zeros(4**site.native.n_qubits, 0, dtype=torch.float64)
    return torch.stack(columns, dim=-1)


def _encoded_paulis(n_qubits: int) -> Tensor:
    """Return (3^n,): the index among the Paulis of each of {I, Z, X}^n.

    RY(t) leads |0> to (I + cos(t) Z + sin(t) X) / 2, so these belong to the features {1, cos, sin}^n.
    """
    digits = torch.tensor([PAULI_ORDER.index(pauli) for pauli in "IZX"])
    known = torch.zeros(1, dtype=torch.long)
    for _ in range(n_qubits):
        known = (4 * known[:, None] + digits).flatten()
    return known


def _turn_by_data(states: Tensor, turn: DataTurn, rows: Tensor, n_qubits: int) -> Tensor:
    """Return states (B, 4^n, n_rows) after a rotation of one qubit by each row's own angle."""
    angles = (turn.scale * rows[..., turn.column])[:, None, None]  # (B, 1, 1, n_rows)
    cos, sin = torch.cos(angles), torch.sin(angles)
    before, behind = 4**turn.qubit, 4 ** (n_qubits - 1 - turn.qubit)
    parts = list(states.unflatten(1, (before, 4, behind)).unbind(2))
    # The axis after the turn's own in the cycle X, Y, Z turns towards the one after that.
    kept = PAULI_ORDER.index(turn.axis)
    one, two = 1 + kept % 3, 1 + (kept + 1) % 3
    first, second = parts[one], parts[two]
    parts[one], parts[two] = cos * first - sin * second, sin * first + cos * second
    return torch.stack(parts, dim=2).flatten(1, 3)


def _computed_again(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Call a function of tensors; the backward pass calls it again instead of keeping what is in between."""
    if not torch.is_grad_enabled():
        return function(*tensors)
    result: Tensor = checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return result
