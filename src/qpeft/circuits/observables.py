"""What is read out: products of Z on some qubits, which are diagonal with entries +1 and -1."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ZProduct:
    """The observable Z on each of `qubits` and the identity elsewhere."""

    qubits: tuple[int, ...]

    def sign(self, basis_state: int, n_qubits: int) -> int:
        """Return the eigenvalue, +1 or -1, on a basis state (qubit 0 is the leftmost bit)."""
        bits = sum(basis_state >> (n_qubits - 1 - qubit) & 1 for qubit in self.qubits)
        return -1 if bits % 2 else 1


def z_on_each(n_qubits: int) -> tuple[ZProduct, ...]:
    """Return Z_0 to Z_(n-1), the read-out of QTHA."""
    return tuple(ZProduct((qubit,)) for qubit in range(n_qubits))
