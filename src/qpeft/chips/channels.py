"""Quantum channels as Pauli transfer matrices (PTM), and states as real vectors of Pauli expectation values.

    r_P = Tr(P rho), P in {I, X, Y, Z}^n, qubit 0 on the leftmost base-4 digit;  rho = 2^-n sum_P r_P P
    state       r' = M r       with  M[P, Q] = 2^-n Tr(P channel(Q))
    observable  o' = M^T o     backwards, for an observable sum_P o_P P, whose expectation value is o . r

A density matrix of n qubits is 4^n real numbers, half of what a complex matrix takes, and every channel of one
qubit is a real 4 x 4 matrix whose first row is (1, 0, 0, 0). Source of the convention and of the forms below:
D. Greenbaum, arXiv 1509.02921.
"""

import math

import torch
from torch import Tensor

PAULI_ORDER = "IXYZ"


def rotation_channel(axis: str, angles: Tensor) -> Tensor:
    """Return (..., 4, 4) of R_P(t) = exp(-i t P / 2), or of H, for angles t (...) in radians.

    Args:
        axis: "X", "Y", "Z", or "H" (then the angles give the shape and nothing else).
        angles: (...), real.
    """
    fixed, cos_part, sin_part = rotation_parts(axis, angles)
    cos, sin = torch.cos(angles)[..., None, None], torch.sin(angles)[..., None, None]
    return fixed + cos * cos_part + sin * sin_part


def rotation_parts(axis: str, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the (4, 4) matrices F, C, S of a rotation's channel F + cos(t) C + sin(t) S.

    Args:
        axis: "X", "Y", "Z", or "H", for which C and S vanish.
        like: A tensor whose type and device they get.
    """
    parts = torch.zeros(3, 4, 4, dtype=torch.float64)
    if axis == "H":
        parts[0] = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, -1, 0], [0, 1, 0, 0]])
    else:
        # A turn about an axis leads the next axis of the cycle X, Y, Z to the one after it.
        kept = PAULI_ORDER.index(axis)
        one, two = 1 + kept % 3, 1 + (kept + 1) % 3
        parts[0, 0, 0] = parts[0, kept, kept] = 1
        parts[1, one, one] = parts[1, two, two] = 1
        parts[2, one, two], parts[2, two, one] = -1, 1
    fixed, cos_part, sin_part = parts.to(like.device, like.dtype).unbind()
    return fixed, cos_part, sin_part


def u3_channel(angles: Tensor) -> Tensor:
    """Return (..., 4, 4) of U3(theta, phi, lambda) = RZ(phi) RY(theta) RZ(lambda), up to a phase.

    Args:
        angles: (..., 3), radians.
    """
    theta, phi, lam = angles.unbind(-1)
    turn = rotation_channel("Y", theta) @ rotation_channel("Z", lam)
    return rotation_channel("Z", phi) @ turn


def cz_channel() -> Tensor:
    """Return the (16, 16) of CZ: Paulis change places, X_0 -> X_0 Z_1 and so on, with a sign."""
    paulis = torch.tensor(
        [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]],
        dtype=torch.complex128,
    )
    pairs = torch.stack([torch.kron(first, second) for first in paulis for second in paulis])
    flip = torch.diag(torch.tensor([1, 1, 1, -1], dtype=torch.complex128))
    return torch.einsum("pij,qji->pq", pairs, flip @ pairs @ flip).real / 4


def relaxation_channel(t1_us: Tensor, t2_us: Tensor, nanoseconds: Tensor) -> Tensor:
    """Return (..., 4, 4) of thermal relaxation towards |0>, the environment being cold.

    X and Y decay by exp(-t / T2), Z - 1 by exp(-t / T1) (Nielsen and Chuang, section 8.4.1).

    Args:
        t1_us: (...), relaxation times in microseconds.
        t2_us: (...), dephasing times in microseconds, at most 2 T1.
        nanoseconds: (...), for how long.
    """
    decay = torch.exp(-nanoseconds / (1000 * t1_us))
    dephasing = torch.exp(-nanoseconds / (1000 * t2_us))
    channel = torch.zeros(*decay.shape, 4, 4, dtype=decay.dtype, device=decay.device)
    channel[..., 0, 0] = 1
    channel[..., 1, 1] = channel[..., 2, 2] = dephasing
    channel[..., 3, 3] = decay
    channel[..., 3, 0] = 1 - decay
    return channel


def depolarising_channel(probability: float, n_qubits: int) -> Tensor:
    """Return (4^n, 4^n) of rho -> (1 - p) rho + p 1 / 2^n: every Pauli but the identity shrinks by 1 - p."""
    diagonal = torch.full((4**n_qubits,), 1 - probability, dtype=torch.float64)
    diagonal[0] = 1
    return torch.diag(diagonal)


def kronecker_channel(first: Tensor, second: Tensor) -> Tensor:
    """Return (..., 16, 16) of two (..., 4, 4) channels side by side, the first on the leftmost digit."""
    product = torch.einsum("...ij,...kl->...ikjl", first, second)
    return product.reshape(*product.shape[:-4], 16, 16)


def process_fidelity(channel: Tensor) -> float:
    """Return the process fidelity of a channel with the identity, Tr(M) / 4^n."""
    return float(torch.trace(channel)) / len(channel)


def average_fidelity(channel: Tensor) -> float:
    """Return the average gate fidelity with the identity, (d F + 1) / (d + 1) of the process fidelity F.

    With d = 2^n (M. A. Nielsen, quant-ph/0205035).
    """
    dimension = math.isqrt(len(channel))
    return (dimension * process_fidelity(channel) + 1) / (dimension + 1)


class PauliStates:
    """States (or observables) in columns, on which channels act one after another.

    Args:
        values: (..., 4^n, m), m columns, the qubits in order.

    The digits stay in the order in which the last channel left them, which saves half of the copies.
    """

    def __init__(self, values: Tensor):
        self.n_qubits = round(math.log(values.shape[-2], 4))
        self.n_columns = values.shape[-1]
        self.order = list(range(self.n_qubits))
        self._values = values.flatten(-2)

    def apply(self, channel: Tensor, qubits: tuple[int, ...]) -> None:
        """Let a channel (..., 4^k, 4^k) act on k qubits of every column."""
        self._bring_to_front(qubits)
        columns = self._values.unflatten(-1, (4 ** len(qubits), -1))
        self._values = (channel @ columns).flatten(-2)

    def values(self) -> Tensor:
        """Return (..., 4^n, m), the qubits in order."""
        self._bring_to_front(tuple(range(self.n_qubits)))
        return self._values.unflatten(-1, (-1, self.n_columns))

    def _bring_to_front(self, qubits: tuple[int, ...]) -> None:
        wanted = [*qubits, *(qubit for qubit in self.order if qubit not in qubits)]
        if wanted == self.order:
            return
        leading = self._values.shape[:-1]
        digits = self._values.reshape(*leading, *[4] * self.n_qubits, self.n_columns)
        places = [len(leading) + self.order.index(qubit) for qubit in wanted]
        moved = digits.permute(*range(len(leading)), *places, digits.dim() - 1)
        self._values = moved.reshape(*leading, -1)
        self.order = wanted
