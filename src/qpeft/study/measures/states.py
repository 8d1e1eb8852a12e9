"""State vectors of many circuits of one shape at once, in complex128.

state    (rows, 2^n), qubit 0 is the leftmost bit
"""

import math

import torch
from torch import Tensor

from qpeft.circuits import Circuit, Gate, Input
from qpeft.circuits.gates import GATES


def final_states(circuit: Circuit, inputs: Tensor, weights: Tensor) -> Tensor:
    """Return the states (rows, 2^n) that a circuit makes of |0...0>.

    Args:
        circuit: The circuit.
        inputs: (rows, n_inputs), radians.
        weights: (rows, n_weights), radians: each row has its own.

    Example:
        >>> from qpeft.circuits import Circuit, Gate
        >>> bell = Circuit(2, (Gate("H", (0,)), Gate("CNOT", (0, 1))))
        >>> nothing = torch.zeros(1, 0)
        >>> final_states(bell, nothing, nothing).abs().square()[0].round(decimals=6).tolist()
        [0.5, 0.0, 0.0, 0.5]
    """
    state = torch.zeros(len(inputs), 2**circuit.n_qubits, dtype=torch.complex128)
    state[:, 0] = 1
    phases: Tensor | None = None  # of the diagonal gates since the last other one
    for gate in circuit.gates:
        angle = None
        if gate.angle is not None:
            columns = inputs if isinstance(gate.angle, Input) else weights
            angle = columns[:, gate.angle.index].double()
        if GATES[gate.name].phases is not None:
            turned = _phases(gate, angle, circuit.n_qubits)
            phases = turned if phases is None else phases + turned
            continue
        if phases is not None:
            state, phases = state * torch.polar(torch.ones_like(phases), phases), None
        state = _applied(gate, angle, state, circuit.n_qubits)
    if phases is not None:
        state = state * torch.polar(torch.ones_like(phases), phases)
    return state


def _phases(gate: Gate, angle: Tensor | None, n_qubits: int) -> Tensor:
    """Return (rows or 1, 2^n): by how much a diagonal gate turns each basis state, in radians."""
    turns = torch.tensor(GATES[gate.name].phases, dtype=torch.float64)
    half = torch.full((1,), math.pi / 2, dtype=torch.float64) if angle is None else angle / 2
    return -half[:, None] * turns[_bits(gate.qubits, n_qubits)]


def _applied(gate: Gate, angle: Tensor | None, state: Tensor, n_qubits: int) -> Tensor:
    if gate.name == "CNOT":
        control, target = (n_qubits - 1 - qubit for qubit in gate.qubits)
        places = torch.arange(state.shape[1])
        return state[:, places ^ ((places >> control & 1) << target)]
    split = state.unflatten(1, (2 ** gate.qubits[0], 2, -1))  # (rows, before, 2, behind)
    zero, one = split.unbind(2)
    entries = [entry[:, None, None] for entry in _matrix(gate.name, angle)]
    news = [entries[0] * zero + entries[1] * one, entries[2] * zero + entries[3] * one]
    return torch.stack(news, dim=2).flatten(1)


def _matrix(name: str, angle: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the entries (rows or 1) of a gate on one qubit, row by row."""
    if angle is None:
        root = torch.full((1,), 0.5, dtype=torch.float64).sqrt()
        return root, root, root, -root
    cos, sin = torch.cos(angle / 2), torch.sin(angle / 2)
    if name == "RX":
        return cos, -1j * sin, -1j * sin, cos
    if name == "RY":
        return cos, -sin, sin, cos
    nothing = torch.zeros_like(cos)
    return cos - 1j * sin, nothing, nothing, cos + 1j * sin


def _bits(qubits: tuple[int, ...], n_qubits: int) -> Tensor:
    """Return for each basis state the number that the bits of some qubits make, the first leftmost."""
    places = torch.arange(2**n_qubits)
    number = torch.zeros_like(places)
    for qubit in qubits:
        number = 2 * number + (places >> (n_qubits - 1 - qubit) & 1)
    return number
