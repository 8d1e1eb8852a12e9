"""Turns weights into the operators of a compiled circuit, in few tensor operations.

All rotation matrices of a circuit are made at once, so are all Kronecker products and all phases; plain
autograd carries the gradient from the operators back to the weights. `blocks` is B below.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qpeft.backends.fusion import (
    FIXED_MATRICES,
    GENERATORS,
    DataPhase,
    Diagonal,
    LayeredCircuit,
    Local,
    Permutation,
    fixed_phases,
    permutation_source,
    phase_coefficients,
)
from qpeft.backends.products import kronecker
from qpeft.circuits import Input, Weight


@dataclass(frozen=True)
class Step:
    """One step of an evolution.

    Args:
        kind: "start", "unitary", "high", "low", "diagonal", "permute" or "phase".
        operator: Its tensor: (B, n, 2, 2) for "start", one matrix on each qubit of the fresh product
            state; (B, N, N), (B, H, H), (B, L, L) or (B, N); indices (2, N) for "permute" (forward
            and back); None for "phase".
        phase: For "phase", which of the circuit's distinct data phases it is.
    """

    kind: str
    operator: Tensor | None = None
    phase: int = 0


class OperatorFactory:
    """Builds the operators of one compiled circuit on one device and in one precision.

    Args:
        layered: The compiled circuit.
        device: Where the constants live.
        dtype: float32 or float64.
    """

    def __init__(self, layered: LayeredCircuit, device: torch.device, dtype: torch.dtype):
        self.layered = layered
        self.device = device
        self.dtype = dtype
        self.complex_dtype = torch.complex64 if dtype == torch.float32 else torch.complex128
        self.locals = [layer for layer in layered.layers if isinstance(layer, Local)]
        self.diagonals = [layer for layer in layered.layers if type(layer) is Diagonal]
        phases = [
            phase_coefficients(layer.gates, layered.n_qubits, layered.n_inputs, Input)
            for layer in layered.layers
            if isinstance(layer, DataPhase)
        ]
        distinct: list[Tensor] = []
        self.phase_of_layer: list[int] = []
        for coefficients in phases:
            known = [i for i, other in enumerate(distinct) if torch.equal(other, coefficients)]
            if not known:
                distinct.append(coefficients)
            self.phase_of_layer.append(known[0] if known else len(distinct) - 1)
        self.data_phases = [coefficients.to(device, dtype) for coefficients in distinct]
        # Made now rather than on first use: a constant that is born inside a caller's inference mode
        # could never serve training afterwards.
        if self.locals:
            _ = self._rotation_weights, self._local_plan
        if self.diagonals:
            _ = self._diagonal_plan

    def local_matrices(self, weights: Tensor) -> Tensor:
        """Return (B, n_local_layers, n_qubits, 2, 2): the matrix on each qubit in each Local layer."""
        index, generators, fixed = self._local_plan
        half = weights[:, self._rotation_weights] * 0.5
        cos, sin = torch.cos(half)[..., None, None], torch.sin(half)[..., None, None]
        rotations = cos * fixed[0] + sin * generators
        bank = torch.cat([fixed.expand(len(weights), -1, -1, -1), rotations], dim=1)
        chain = bank[:, index]  # (B, layers, n, depth, 2, 2)
        matrices = chain[..., 0, :, :]
        for depth in range(1, index.shape[-1]):
            matrices = chain[..., depth, :, :] @ matrices
        return matrices

    def diagonal_phases(self, weights: Tensor) -> Tensor:
        """Return (B, n_diagonal_layers, 2^n), complex: the entries of each Diagonal layer."""
        coefficients, fixed = self._diagonal_plan
        angle = (weights @ coefficients).unflatten(-1, fixed.shape) + fixed
        return torch.polar(torch.ones_like(angle), -0.5 * angle)

    def steps(self, weights: Tensor, *, is_fused: bool) -> list[Step]:
        """Return the steps after the start, for weights of shape (B, n_weights).

        Args:
            weights: The trained angles.
            is_fused: True multiplies all between two data phases into one 2^n x 2^n unitary; False
                keeps rotations as two half-register products and diagonals as they are.
        """
        matrices = self.local_matrices(weights) if self.locals else None
        diagonals = self.diagonal_phases(weights) if self.diagonals else None
        separate = self._separate_steps(matrices, diagonals, is_fused)
        return _fuse(separate, self.dtype) if is_fused else separate

    def _separate_steps(
        self, matrices: Tensor | None, diagonals: Tensor | None, is_fused: bool
    ) -> list[Step]:
        n = self.layered.n_qubits
        split = 0 if is_fused else n // 2
        steps: list[Step] = []
        n_local = n_diagonal = n_phase = 0
        high = kronecker(matrices[:, :, :split]) if matrices is not None and split else None
        low = kronecker(matrices[:, :, split:]) if matrices is not None else None
        for i, layer in enumerate(self.layered.layers):
            if isinstance(layer, Local):
                if i == 0 and not is_fused and matrices is not None:
                    steps.append(Step("start", matrices[:, 0]))  # product states stay products
                    n_local += 1
                    continue
                if low is not None:
                    steps.append(Step("unitary" if is_fused else "low", low[:, n_local]))
                if high is not None:
                    steps.append(Step("high", high[:, n_local]))
                n_local += 1
            elif isinstance(layer, DataPhase):
                steps.append(Step("phase", phase=self.phase_of_layer[n_phase]))
                n_phase += 1
            elif isinstance(layer, Permutation):
                source = permutation_source(layer.gates, n).to(self.device)
                steps.append(Step("permute", torch.stack([source, source.argsort()])))
            elif diagonals is not None:
                steps.append(Step("diagonal", diagonals[:, n_diagonal]))
                n_diagonal += 1
        return steps

    @cached_property
    def _is_real(self) -> bool:
        pieces = [piece for layer in self.locals for c in layer.chains.values() for piece in c]
        return all(p in ("H", "I") if isinstance(p, str) else p[0] == "Y" for p in pieces)

    @cached_property
    def _rotation_weights(self) -> Tensor:
        return torch.tensor([p[1] for p in self._rotations], dtype=torch.long, device=self.device)

    @cached_property
    def _rotations(self) -> list[tuple[str, int]]:
        chains = [chain for layer in self.locals for chain in layer.chains.values()]
        return [piece for chain in chains for piece in chain if not isinstance(piece, str)]

    @cached_property
    def _local_plan(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (index of each matrix in the bank, generators of rotations, fixed matrices)."""
        names = list(FIXED_MATRICES)
        depth = max(len(chain) for layer in self.locals for chain in layer.chains.values())
        index = torch.zeros(len(self.locals), self.layered.n_qubits, depth, dtype=torch.long)
        n_seen = 0
        for i, layer in enumerate(self.locals):
            for qubit, chain in layer.chains.items():
                for j, piece in enumerate(chain):
                    if isinstance(piece, str):
                        index[i, qubit, j] = names.index(piece)
                    else:
                        index[i, qubit, j] = len(names) + n_seen
                        n_seen += 1
        fixed = torch.stack([FIXED_MATRICES[name] for name in names])
        generators = [GENERATORS[axis] for axis, _ in self._rotations]
        generator = torch.stack(generators) if generators else fixed[:0]
        if self._is_real:
            return index.to(self.device), self._real(generator), self._real(fixed)
        return (
            index.to(self.device),
            generator.to(self.device, self.complex_dtype),
            fixed.to(self.device, self.complex_dtype),
        )

    def _real(self, matrices: Tensor) -> Tensor:
        return matrices.real.to(self.device, self.dtype)

    @cached_property
    def _diagonal_plan(self) -> tuple[Tensor, Tensor]:
        """Return coefficients (n_weights, layers * 2^n) and fixed phases (layers, 2^n)."""
        n = self.layered.n_qubits
        coefficients = [
            phase_coefficients(layer.gates, n, self.layered.n_weights, Weight)
            for layer in self.diagonals
        ]
        fixed = torch.stack([fixed_phases(layer.gates, n) for layer in self.diagonals])
        return (
            torch.cat(coefficients, dim=-1).to(self.device, self.dtype),
            fixed.to(self.device, self.dtype),
        )


def _fuse(steps: list[Step], dtype: torch.dtype) -> list[Step]:
    """Multiply runs of "unitary", "diagonal" and "permute" between data phases into one unitary."""
    fused: list[Step] = []
    unitary: Tensor | None = None
    columns: Tensor | None = None  # a diagonal that waits for the matrix behind it
    for step in steps:
        operator = step.operator
        if step.kind == "phase" or operator is None:
            fused += _close(unitary, columns)
            fused.append(step)
            unitary = columns = None
        elif step.kind == "diagonal":
            if unitary is None:
                columns = operator if columns is None else columns * operator
            else:
                unitary = operator[..., :, None] * unitary
        elif step.kind == "permute":
            if unitary is None:
                identity = torch.eye(operator.shape[-1], dtype=dtype, device=operator.device)
                start = identity if columns is None else torch.diag_embed(columns)
                unitary = start.expand(1, -1, -1) if start.dim() == 2 else start
                columns = None
            unitary = unitary[..., operator[0], :]
        elif unitary is not None:
            common = torch.promote_types(operator.dtype, unitary.dtype)
            unitary = operator.to(common) @ unitary.to(common)
        else:
            unitary = operator if columns is None else operator * columns[..., None, :]
            columns = None
    return fused + _close(unitary, columns)


def _close(unitary: Tensor | None, columns: Tensor | None) -> list[Step]:
    if unitary is not None:
        return [Step("unitary", unitary)]
    return [] if columns is None else [Step("diagonal", columns)]
