"""What the agreement tests share: circuits, PennyLane as a backend, values with gradients."""

from collections.abc import Callable, Sequence

import pennylane as qml
import torch
from hypothesis import strategies as st
from torch import Tensor

from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct
from qpeft.circuits.gates import GATES

PENNYLANE_GATES = {
    "H": qml.Hadamard,
    "RX": qml.RX,
    "RY": qml.RY,
    "RZ": qml.RZ,
    "CNOT": qml.CNOT,
    "CZ": qml.CZ,
    "CRZ": qml.CRZ,
    "RZZ": qml.IsingZZ,
}


class PennyLaneBackend:
    """PennyLane's default.qubit with backpropagation, for one block and in float64."""

    name = "pennylane"

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> Callable[[Tensor], Tensor]:
        device = qml.device("default.qubit", wires=circuit.n_qubits)

        @qml.qnode(device, interface="torch", diff_method="backprop")
        def node(inputs: Tensor) -> list[object]:
            for gate in circuit.gates:
                qml_gate = PENNYLANE_GATES[gate.name]
                if gate.angle is None:
                    qml_gate(wires=gate.qubits)
                elif isinstance(gate.angle, Input):
                    qml_gate(inputs[:, gate.angle.index], wires=gate.qubits)
                else:
                    qml_gate(weights[gate.angle.index], wires=gate.qubits)
            return [
                qml.expval(qml.prod(*(qml.PauliZ(qubit) for qubit in observable.qubits)))
                for observable in observables
            ]

        def evaluate(inputs: Tensor) -> Tensor:
            columns = [column.expand(inputs.shape[0]) for column in node(inputs)]
            return torch.stack(columns, dim=-1)

        return evaluate


def values_and_gradients(
    backend: object,
    circuit: Circuit,
    observables: Sequence[ZProduct],
    inputs: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return expectations and the gradients of a fixed mixture of them for inputs and weights."""
    inputs, weights = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
    values = backend.bind(circuit, observables, weights)(inputs)  # type: ignore[attr-defined]
    if not values.requires_grad:  # a circuit without any angle
        return values, torch.zeros_like(inputs), torch.zeros_like(weights)
    gradients = torch.autograd.grad(
        (values * mixture_of(values)).sum(),
        (inputs, weights),
        allow_unused=True,
        materialize_grads=True,
    )
    return values.detach(), *gradients


def mixture_of(values: Tensor) -> Tensor:
    """Return the fixed factors, one for each value, whose weighted sum is differentiated."""
    return torch.linspace(-1.0, 2.0, values.numel(), dtype=values.dtype).reshape(values.shape)


def random_angles(
    circuit: Circuit, n_rows: int, seed: int = 0, blocks: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """Return inputs (*blocks, n_rows, n_inputs) and weights (*blocks, n_weights) in float64."""
    generator = torch.Generator().manual_seed(seed)
    inputs = 2 * torch.randn(*blocks, n_rows, circuit.n_inputs, generator=generator).double()
    weights = 2 * torch.randn(*blocks, circuit.n_weights, generator=generator).double()
    return inputs, weights


@st.composite
def random_circuits(
    draw: st.DrawFn, min_qubits: int = 1, max_qubits: int = 4, max_gates: int = 20
) -> Circuit:
    """Draw a circuit of any gates, in which an angle may be used by several gates."""
    n_qubits = draw(st.integers(min_qubits, max_qubits))
    names = [name for name, kind in GATES.items() if kind.n_qubits <= n_qubits]
    angles = st.one_of(st.integers(0, 3).map(Input), st.integers(0, 5).map(Weight))
    gates = []
    for name in draw(st.lists(st.sampled_from(names), max_size=max_gates)):
        qubits = draw(st.permutations(range(n_qubits)))[: GATES[name].n_qubits]
        gates.append(Gate(name, tuple(qubits), draw(angles) if GATES[name].has_angle else None))
    return Circuit(n_qubits, tuple(gates), "random")


def layered_circuit(n_qubits: int, n_layers: int) -> Circuit:
    """RY of data, then RX RY RZ on each qubit and a ring of CNOT, n_layers times."""
    gates = [Gate("RY", (qubit,), Input(qubit)) for qubit in range(n_qubits)]
    n_weights = 0
    for _ in range(n_layers):
        for qubit in range(n_qubits):
            for name in ("RX", "RY", "RZ"):
                gates.append(Gate(name, (qubit,), Weight(n_weights)))
                n_weights += 1
        gates += [Gate("CNOT", (q, (q + 1) % n_qubits)) for q in range(n_qubits) if n_qubits > 1]
    return Circuit(n_qubits, tuple(gates), "layered")


def every_gate_circuit(n_qubits: int) -> Circuit:
    """Every gate, each angle once from data and once trained, spread over all qubits."""
    gates = []
    n_inputs = n_weights = 0
    for turn in range(2):
        for place, (name, kind) in enumerate(GATES.items()):
            if kind.n_qubits > n_qubits:
                continue
            for start in range(0, n_qubits, 2):
                first = (start + place + turn) % n_qubits
                qubits = (first, (first + 1 + place) % n_qubits)[: kind.n_qubits]
                if len(set(qubits)) < kind.n_qubits:
                    qubits = (first, (first + 1) % n_qubits)
                if not kind.has_angle:
                    gates.append(Gate(name, qubits))
                elif turn == 0:
                    gates.append(Gate(name, qubits, Input(n_inputs % 5)))
                    n_inputs += 1
                else:
                    gates.append(Gate(name, qubits, Weight(n_weights)))
                    n_weights += 1
    return Circuit(n_qubits, tuple(gates), "every gate")
