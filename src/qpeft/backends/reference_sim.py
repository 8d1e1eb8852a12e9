"""The slow twin of the exact engine: every gate is a 2^n x 2^n matrix made by Kronecker products.

A gate is a sum of products, U(t) = sum_k c_k(t) F_k0 (x) F_k1 (x) ... (x) F_k(n-1), with a 2 x 2
matrix for each qubit: the identity where the gate does not act. A product has at most two non-zeros
a row, so it is kept sparse; nothing else here is made for speed.

    state           (*blocks, rows, 2^n)   complex128, qubit 0 is the leftmost factor
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from qpeft.backends.base import BoundCircuit, Capabilities, check_fit, check_inputs
from qpeft.circuits import Circuit, Gate, Input, ZProduct
from qpeft.types import Expectations, Inputs, Weights


class ReferenceBackend:
    """Evaluates a circuit gate by gate in complex128; plain autograd differentiates it."""

    name = "reference"
    capabilities = Capabilities(is_exact=True, is_differentiable=True, max_qubits=12)

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Weights
    ) -> BoundCircuit:
        """Bind a circuit to weights of shape (*blocks, n_weights), in radians.

        Returns:
            A function from inputs (*blocks, rows, n_inputs) in radians to expectations
            (*blocks, rows, n_observables) in [-1, 1], float64 if either argument is, else float32.

        Raises:
            ConfigError: The circuit has more than 12 qubits, or weights or inputs do not fit it.
        """
        check_fit(self, circuit, weights)

        def evaluate(inputs: Inputs) -> Expectations:
            check_inputs(circuit, inputs)
            state = _start_state(inputs.shape[:-1], circuit.n_qubits, inputs.device)
            for gate in circuit.gates:
                angle = _angle_of(gate, inputs, weights)
                state = _apply(gate, angle, state, circuit.n_qubits)
            values = [
                _expectation(state, observable, circuit.n_qubits) for observable in observables
            ]
            dtype = torch.promote_types(inputs.dtype, weights.dtype)
            return torch.stack(values, dim=-1).to(torch.promote_types(dtype, torch.float32))

        return evaluate

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        """Bind to each entry of weights (n_entries, *blocks, n_weights), one by one."""
        return [self.bind(circuit, observables, entry) for entry in weights]


@cache
def kronecker_matrix(names: tuple[str, ...]) -> Tensor:
    """Return the Kronecker product of one 2 x 2 matrix a qubit, qubit 0 leftmost.

    Args:
        names: The matrix of each qubit, by its name: I, X, Y, Z, H, |0><0| or |1><1|.

    Returns:
        A sparse complex128 matrix (2^n, 2^n).
    """
    # Kept for later calls, which may train although this one is in inference mode.
    with torch.inference_mode(False):
        matrix = torch.ones(1, 1, dtype=torch.complex128).to_sparse()
        for name in names:
            matrix = _kronecker(matrix, _MATRICES[name].to_sparse())
    return matrix


def _kronecker(left: Tensor, right: Tensor) -> Tensor:
    """Entry ((i, k), (j, l)) of a Kronecker product is left[i, j] * right[k, l]."""
    left, right = left.coalesce(), right.coalesce()
    shape = [a * b for a, b in zip(left.shape, right.shape, strict=True)]
    scale = torch.tensor(right.shape)[:, None, None]
    corners = left.indices()[:, :, None] * scale  # (2, n_left, 1)
    places = corners + right.indices()[:, None, :]  # (2, n_left, n_right)
    values = left.values()[:, None] * right.values()[None, :]
    return torch.sparse_coo_tensor(
        places.flatten(1), values.flatten(), shape, check_invariants=True
    )


_MATRICES: dict[str, Tensor] = {
    name: torch.tensor(entries, dtype=torch.complex128, device="cpu")
    for name, entries in {
        "I": [[1, 0], [0, 1]],
        "X": [[0, 1], [1, 0]],
        "Y": [[0, -1j], [1j, 0]],
        "Z": [[1, 0], [0, -1]],
        "H": [[0.5**0.5, 0.5**0.5], [0.5**0.5, -(0.5**0.5)]],
        "|0><0|": [[1, 0], [0, 0]],
        "|1><1|": [[0, 0], [0, 1]],
    }.items()
}

# Each gate as its terms: a coefficient of the angle, and a matrix on each of the gate's qubits.
_TERMS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "H": (("one", ("H",)),),
    "RX": (("cos", ("I",)), ("-i sin", ("X",))),
    "RY": (("cos", ("I",)), ("-i sin", ("Y",))),
    "RZ": (("cos", ("I",)), ("-i sin", ("Z",))),
    "CNOT": (("one", ("|0><0|", "I")), ("one", ("|1><1|", "X"))),
    "CZ": (("one", ("|0><0|", "I")), ("one", ("|1><1|", "Z"))),
    "CRZ": (("one", ("|0><0|", "I")), ("cos", ("|1><1|", "I")), ("-i sin", ("|1><1|", "Z"))),
    "RZZ": (("cos", ("I", "I")), ("-i sin", ("Z", "Z"))),
}


def _start_state(leading: torch.Size, n_qubits: int, device: torch.device) -> Tensor:
    state = torch.zeros(*leading, 2**n_qubits, dtype=torch.complex128, device=device)
    state[..., 0] = 1
    return state


def _angle_of(gate: Gate, inputs: Tensor, weights: Tensor) -> Tensor | None:
    """Return the gate's angle for every row, (*blocks, rows), or (*blocks, 1) from weights."""
    if gate.angle is None:
        return None
    if isinstance(gate.angle, Input):
        return inputs[..., gate.angle.index].double()
    return weights[..., gate.angle.index].double().unsqueeze(-1)


def _apply(gate: Gate, angle: Tensor | None, state: Tensor, n_qubits: int) -> Tensor:
    result = torch.zeros_like(state)
    for kind, names in _TERMS[gate.name]:
        moved = _multiply(dict(zip(gate.qubits, names, strict=True)), state, n_qubits)
        result = result + _coefficient(kind, angle) * moved
    return result


def _coefficient(kind: str, angle: Tensor | None) -> Tensor | complex | float:
    """Return a term's factor, (*blocks, rows, 1) where it depends on the angle."""
    if angle is None or kind == "one":
        return 1.0
    half = angle.unsqueeze(-1) / 2
    return torch.cos(half) if kind == "cos" else -1j * torch.sin(half)


def _multiply(names: dict[int, str], state: Tensor, n_qubits: int) -> Tensor:
    """Multiply every row by the product that has the named matrices on their qubits, else I."""
    matrix = kronecker_matrix(tuple(names.get(qubit, "I") for qubit in range(n_qubits)))
    columns = state.reshape(-1, state.shape[-1]).T  # (2^n, all rows)
    return torch.sparse.mm(matrix.to(state.device), columns).T.reshape(state.shape)


def _expectation(state: Tensor, observable: ZProduct, n_qubits: int) -> Tensor:
    """Return <state| Z...Z |state> of every row, (*blocks, rows)."""
    moved = _multiply(dict.fromkeys(observable.qubits, "Z"), state, n_qubits)
    return (state.conj() * moved).real.sum(dim=-1)
