"""What a circuit is: gates, the ansatz catalogue, observables, drawings and text formats."""

from qpeft.circuits.ansatz import ANSATZE, build_ansatz
from qpeft.circuits.circuit import Circuit, Gate, Input, Weight
from qpeft.circuits.observables import ZProduct, z_on_each

__all__ = [
    "ANSATZE",
    "Circuit",
    "Gate",
    "Input",
    "Weight",
    "ZProduct",
    "build_ansatz",
    "z_on_each",
]
