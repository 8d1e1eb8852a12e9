"""The catalogue of ansaetze: each is a function from sizes to a `Circuit`.

The three orders of QTHA (arXiv 2503.12790) differ in where the data enter and where the rings stand.
ring+ is CRZ(i -> i+1 mod n), ring- is CRZ(i -> i-1 mod n); on one qubit there is no ring.
"""

from collections.abc import Callable, Iterable

from qpeft.circuits.circuit import Circuit, Gate, Input, Weight
from qpeft.errors import ConfigError, did_you_mean


def build_ansatz(name: str, n_qubits: int, n_layers: int, *, is_entangled: bool = True) -> Circuit:
    """Build a circuit of the catalogue.

    Args:
        name: A key of `ANSATZE`.
        n_qubits: Number of qubits, which is also the number of inputs.
        n_layers: Number of layers L.
        is_entangled: False leaves the rings out, which is the product-state control.

    Returns:
        The circuit, with 4 n L weights (2 n L without rings or on one qubit).

    Raises:
        ConfigError: The name is unknown or a size is less than one.

    Example:
        >>> circuit = build_ansatz("reupload", n_qubits=4, n_layers=2)
        >>> circuit.n_inputs, circuit.n_weights, circuit.n_uploads()
        (4, 32, 2)
    """
    if name not in ANSATZE:
        raise ConfigError(f"Unknown ansatz '{name}'.{did_you_mean(name, ANSATZE)}")
    if n_qubits < 1 or n_layers < 1:
        raise ConfigError(
            f"An ansatz needs at least 1 qubit and 1 layer; got n_qubits={n_qubits}, "
            f"n_layers={n_layers}."
        )
    return ANSATZE[name](n_qubits, n_layers, is_entangled)


def reupload(n_qubits: int, n_layers: int, is_entangled: bool) -> Circuit:
    """[RY(z), ring+, RY, ring-, RY] x L: the reference order, without a dead last ring."""
    draft = _Draft(n_qubits, is_entangled)
    for _ in range(n_layers):
        draft.encode()
        draft.ring(+1)
        draft.rotate()
        draft.ring(-1)
        draft.rotate()
    return draft.finish("reupload")


def reupload_v1(n_qubits: int, n_layers: int, is_entangled: bool) -> Circuit:
    """[RY(z), RY, ring+, RY, ring-] x L: the older order; its last ring cannot change <Z>."""
    draft = _Draft(n_qubits, is_entangled)
    for _ in range(n_layers):
        draft.encode()
        draft.rotate()
        draft.ring(+1)
        draft.rotate()
        draft.ring(-1)
    return draft.finish("reupload_v1")


def encode_once(n_qubits: int, n_layers: int, is_entangled: bool) -> Circuit:
    """RY(z), then [RY, ring+, RY, ring-] x L: data enter once; likewise a dead last ring."""
    draft = _Draft(n_qubits, is_entangled)
    draft.encode()
    for _ in range(n_layers):
        draft.rotate()
        draft.ring(+1)
        draft.rotate()
        draft.ring(-1)
    return draft.finish("encode_once")


ANSATZE: dict[str, Callable[[int, int, bool], Circuit]] = {
    "reupload": reupload,
    "reupload_v1": reupload_v1,
    "encode_once": encode_once,
}


class _Draft:
    """Collects gates and numbers the weights in the order in which they act."""

    def __init__(self, n_qubits: int, is_entangled: bool):
        self.n_qubits = n_qubits
        self.has_rings = is_entangled and n_qubits > 1
        self.gates: list[Gate] = []
        self.n_weights = 0

    def encode(self) -> None:
        self.gates += [Gate("RY", (qubit,), Input(qubit)) for qubit in range(self.n_qubits)]

    def rotate(self) -> None:
        self._add_weighted("RY", ((qubit,) for qubit in range(self.n_qubits)))

    def ring(self, step: int) -> None:
        if self.has_rings:
            pairs = ((qubit, (qubit + step) % self.n_qubits) for qubit in range(self.n_qubits))
            self._add_weighted("CRZ", pairs)

    def finish(self, name: str) -> Circuit:
        return Circuit(self.n_qubits, tuple(self.gates), name)

    def _add_weighted(self, name: str, places: Iterable[tuple[int, ...]]) -> None:
        for qubits in places:
            self.gates.append(Gate(name, qubits, Weight(self.n_weights)))
            self.n_weights += 1
