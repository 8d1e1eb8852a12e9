"""The gates that a circuit may contain, as data.

A rotation R_P(t) = exp(-i t P / 2) has a Pauli axis P. A diagonal gate multiplies basis states by phases
exp(-i t s / 2), with s in {-1, 0, 1} read off the bits of its qubits.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GateKind:
    """What is known of a gate before it stands in a circuit.

    Args:
        n_qubits: How many qubits it acts on.
        has_angle: Whether it has an angle, in radians.
        axis: For a one-qubit rotation the Pauli axis, "X", "Y" or "Z".
        phases: For a diagonal gate, s for each basis state of its qubits (phase exp(-i t s / 2));
            for one without an angle, t is pi.
        n_shift_terms: Number of terms of its parameter-shift rule (0 where it has no angle).
    """

    n_qubits: int
    has_angle: bool
    axis: str | None = None
    phases: tuple[int, ...] | None = None
    n_shift_terms: int = 0


GATES: dict[str, GateKind] = {
    "H": GateKind(1, False),
    "RX": GateKind(1, True, axis="X", n_shift_terms=2),
    "RY": GateKind(1, True, axis="Y", n_shift_terms=2),
    "RZ": GateKind(1, True, axis="Z", n_shift_terms=2),
    "CNOT": GateKind(2, False),
    "CZ": GateKind(2, False, phases=(0, 0, 0, 2)),
    "CRZ": GateKind(2, True, phases=(0, 0, 1, -1), n_shift_terms=4),
    "RZZ": GateKind(2, True, phases=(1, -1, -1, 1), n_shift_terms=2),
}
