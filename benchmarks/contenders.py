"""The engines that `quantum_layer.py` compares, each behind the same two methods.

Every contender is built once for a circuit and then asked for one training step at a time: the
expectations of all rows and the gradients of sum(expectations * mixture) for inputs and weights.
Where an engine gives its probabilities, they are multiplied by the signs of Z, which is up to three
times faster than asking for one expectation value after another.
"""

import importlib.metadata
import sys
import types
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qpeft.backends import compiled, get_backend
from qpeft.circuits import Circuit, Gate, Input, Weight, z_on_each

Step = tuple[Tensor, Tensor, Tensor]


class Contender:
    """One engine, for one circuit.

    Args:
        circuit: What it evaluates; RX, RY, RZ, CNOT and CRZ occur.

    Raises:
        ImportError: It is not installed.
    """

    name = ""
    package = ""
    note = ""
    row_limit: int | None = None  # rows it is timed with; more are extrapolated
    is_torch = True  # its gates are operations of torch

    def __init__(self, circuit: Circuit):
        self.circuit = circuit

    @classmethod
    def version(cls) -> str:
        return importlib.metadata.version(cls.package)

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        """Return (rows, n_qubits), differentiable by torch."""
        raise NotImplementedError

    def step(self, inputs: Tensor, weights: Tensor, mixture: Tensor) -> Step:
        """Return expectations and the gradients for inputs and weights."""
        inputs, weights = inputs.detach().requires_grad_(), weights.detach().requires_grad_()
        values = self.expectations(inputs, weights)
        gradients = torch.autograd.grad((values * mixture).sum(), (inputs, weights))
        return values.detach(), *gradients


class Qpeft(Contender):
    name = "qpeft exact"
    package = "qpeft"

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        bound = get_backend("exact").bind(self.circuit, z_on_each(self.circuit.n_qubits), weights)
        return bound(inputs)


class QpeftWithoutNumba(Qpeft):
    name = "qpeft exact, torch only"
    note = "what a GPU runs, and a CPU without numba"

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        with unittest.mock.patch.object(compiled, "is_available", return_value=False):
            return super().expectations(inputs, weights)


class GateByGate(Contender):
    name = "one gate, one torch operation"
    package = "torch"
    note = "a baseline of ours: state (rows, 2, ..., 2), complex64"

    def __init__(self, circuit: Circuit):
        super().__init__(circuit)
        self.signs = z_signs(circuit.n_qubits)

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        n = self.circuit.n_qubits
        state = torch.zeros(len(inputs), *[2] * n, dtype=torch.complex64)
        state.view(len(inputs), -1)[:, 0] = 1
        for gate in self.circuit.gates:
            state = self._turn(gate, angle_of(gate, inputs, weights), state)
        return state.flatten(1).abs().square() @ self.signs

    def _turn(self, gate: Gate, angle: Tensor, state: Tensor) -> Tensor:
        if gate.name in ("CNOT", "CRZ"):
            control, target = (1 + qubit for qubit in gate.qubits)
            kept, turned = state.unbind(control)
            target -= target > control
            if gate.name == "CNOT":
                turned = turned.flip(target)
            else:
                turned = _rotate("RZ", angle, turned, target)
            return torch.stack([kept, turned], dim=control)
        return _rotate(gate.name, angle, state, 1 + gate.qubits[0])


def _rotate(name: str, angle: Tensor, state: Tensor, axis: int) -> Tensor:
    cos, sin = torch.cos(angle / 2), torch.sin(angle / 2)
    zero = torch.zeros_like(cos)
    entries = {
        "RX": ((cos, zero), (zero, -sin), (zero, -sin), (cos, zero)),
        "RY": ((cos, zero), (-sin, zero), (sin, zero), (cos, zero)),
        "RZ": ((cos, -sin), (zero, zero), (zero, zero), (cos, sin)),
    }[name]
    matrix = torch.stack([torch.complex(*entry) for entry in entries], dim=-1).unflatten(-1, (2, 2))
    moved = state.movedim(axis, 1)
    flat = moved.reshape(len(moved), 2, -1)
    return (matrix @ flat).view(moved.shape).movedim(1, axis)


class PennyLaneBackprop(Contender):
    name = "PennyLane default.qubit, backprop"
    package = "pennylane"

    def __init__(self, circuit: Circuit):
        import pennylane as qml

        super().__init__(circuit)
        device = qml.device("default.qubit", wires=circuit.n_qubits)
        wires = range(circuit.n_qubits)
        self.node = _qml_node(qml, circuit, device, "backprop", lambda: qml.probs(wires=wires))
        self.signs = z_signs(circuit.n_qubits)

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        probabilities = self.node(inputs.T, weights)  # parameter broadcasting over the rows
        return probabilities.to(inputs.dtype) @ self.signs


class PennyLaneLightning(Contender):
    name = "PennyLane lightning.qubit, adjoint"
    package = "pennylane-lightning"
    note = "one circuit a row: 8 rows timed, scaled to all"
    row_limit = 8
    is_torch = False

    def __init__(self, circuit: Circuit):
        import numpy as np
        import pennylane as qml

        super().__init__(circuit)
        device = qml.device("lightning.qubit", wires=circuit.n_qubits, c_dtype=np.complex64)
        self.node = _qml_node(
            qml,
            circuit,
            device,
            "adjoint",
            lambda: [qml.expval(qml.PauliZ(qubit)) for qubit in range(circuit.n_qubits)],
        )

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        rows = [torch.stack(self.node(row, weights)) for row in inputs]
        return torch.stack(rows).to(inputs.dtype)


def _qml_node(
    qml: Any, circuit: Circuit, device: Any, method: str, measure: Callable[[], Any]
) -> Callable[..., Any]:
    kinds = {"RX": qml.RX, "RY": qml.RY, "RZ": qml.RZ, "CRZ": qml.CRZ, "CNOT": qml.CNOT}

    @qml.qnode(device, interface="torch", diff_method=method)
    def node(inputs: Tensor, weights: Tensor) -> Any:
        for gate in circuit.gates:
            if gate.angle is None:
                kinds[gate.name](wires=gate.qubits)
            else:
                source = inputs if isinstance(gate.angle, Input) else weights
                kinds[gate.name](source[gate.angle.index], wires=gate.qubits)
        return measure()

    return node


class TorchQuantum(Contender):
    name = "TorchQuantum"
    package = "torchquantum"

    def __init__(self, circuit: Circuit):
        # Its data sets alone need torchvision, for which there may be no build beside this torch.
        sys.modules.setdefault("torchquantum.dataset", types.ModuleType("torchquantum.dataset"))
        import torchquantum as tq
        import torchquantum.functional as gates

        super().__init__(circuit)
        self.tq = tq
        self.gates = {"RX": gates.rx, "RY": gates.ry, "RZ": gates.rz, "CRZ": gates.crz}
        self.cnot = gates.cnot
        self.signs = z_signs(circuit.n_qubits)

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        device = self.tq.QuantumDevice(n_wires=self.circuit.n_qubits, bsz=len(inputs))
        for gate in self.circuit.gates:
            wires = list(gate.qubits)
            if gate.angle is None:
                self.cnot(device, wires=wires)
            else:
                angle = angle_of(gate, inputs, weights)
                self.gates[gate.name](device, wires=wires, params=angle.unsqueeze(-1))
        return device.get_states_1d().abs().square() @ self.signs


class TensorCircuit(Contender):
    name = "TensorCircuit-NG (torch, vmap)"
    package = "tensorcircuit-ng"

    def __init__(self, circuit: Circuit):
        import tensorcircuit as tc

        super().__init__(circuit)
        backend = tc.set_backend("pytorch")
        tc.set_dtype("complex64")
        signs = z_signs(circuit.n_qubits)

        def row(inputs: Tensor, weights: Tensor) -> Tensor:
            program = tc.Circuit(circuit.n_qubits)
            for gate in circuit.gates:
                if gate.angle is None:
                    program.cnot(*gate.qubits)
                else:
                    source = inputs if isinstance(gate.angle, Input) else weights
                    theta = source[gate.angle.index]
                    getattr(program, gate.name.lower())(*gate.qubits, theta=theta)
            return program.probability() @ signs

        self.rows = backend.vmap(row, vectorized_argnums=0)

    def expectations(self, inputs: Tensor, weights: Tensor) -> Tensor:
        return self.rows(inputs, weights)


class DeepQuantum(Contender):
    name = "DeepQuantum"
    package = "deepquantum"

    def __init__(self, circuit: Circuit):
        import deepquantum as dq

        super().__init__(circuit)
        self.program = dq.QubitCircuit(circuit.n_qubits)
        for gate in circuit.gates:
            options = {} if gate.angle is None else {"encode": isinstance(gate.angle, Input)}
            getattr(self.program, gate.name.lower())(*gate.qubits, **options)
        self.signs = z_signs(circuit.n_qubits)
        pairs = zip(circuit.gates, self.program.operators, strict=True)
        columns = [gate.angle.index for gate in circuit.gates if isinstance(gate.angle, Input)]
        self.columns = torch.tensor(columns)
        self.trained = [o.theta for g, o in pairs if g.angle and not isinstance(g.angle, Input)]

    def step(self, inputs: Tensor, weights: Tensor, mixture: Tensor) -> Step:
        """Its gates own their angles: they are set before, and their gradients are collected."""
        inputs = inputs.detach().requires_grad_()
        with torch.no_grad():
            for theta, value in zip(self.trained, weights, strict=True):
                theta.copy_(value)
        state = self.program(data=inputs[:, self.columns])
        values = state.flatten(1).abs().square() @ self.signs
        loss = (values * mixture).sum()
        first, *others = torch.autograd.grad(loss, (inputs, *self.trained))
        return values.detach(), first, torch.stack([g.reshape(()) for g in others])


class Pyvqnet(Contender):
    name = "pyvqnet (vqc)"
    package = "pyvqnet"
    is_torch = False

    def __init__(self, circuit: Circuit):
        from pyvqnet.qnn import vqc
        from pyvqnet.tensor import QTensor

        super().__init__(circuit)
        self.tensor = QTensor
        self.machine = vqc.QMachine(circuit.n_qubits)
        self.gates = {"RX": vqc.rx, "RY": vqc.ry, "RZ": vqc.rz, "CRZ": vqc.crz}
        self.cnot = vqc.cnot
        self.measure = vqc.MeasureAll(obs=[{f"Z{qubit}": 1} for qubit in range(circuit.n_qubits)])

    def step(self, inputs: Tensor, weights: Tensor, mixture: Tensor) -> Step:
        rows = self.tensor(inputs.numpy(), requires_grad=True)
        trained = self.tensor(weights.numpy(), requires_grad=True)
        self.machine.reset_states(len(inputs))
        for gate in self.circuit.gates:
            wires = list(gate.qubits) if len(gate.qubits) > 1 else gate.qubits[0]
            if gate.angle is None:
                self.cnot(q_machine=self.machine, wires=wires)
            elif isinstance(gate.angle, Input):
                angle = rows[:, [gate.angle.index]]
                self.gates[gate.name](q_machine=self.machine, wires=wires, params=angle)
            else:
                angle = trained[[gate.angle.index]]
                self.gates[gate.name](q_machine=self.machine, wires=wires, params=angle)
        values = self.measure(q_machine=self.machine)
        values.backward(self.tensor(mixture.numpy()))
        results = (values, rows.grad, trained.grad)
        return tuple(torch.from_numpy(result.to_numpy()) for result in results)  # type: ignore[return-value]


CONTENDERS: Sequence[type[Contender]] = (
    Qpeft,
    QpeftWithoutNumba,
    GateByGate,
    TensorCircuit,
    TorchQuantum,
    DeepQuantum,
    PennyLaneBackprop,
    PennyLaneLightning,
    Pyvqnet,
)


def layered(n_qubits: int, n_layers: int) -> Circuit:
    """RY of the data, then RX RY RZ on each qubit and a ring of CNOT, n_layers times."""
    gates = [Gate("RY", (qubit,), Input(qubit)) for qubit in range(n_qubits)]
    n_weights = 0
    for _ in range(n_layers):
        for qubit in range(n_qubits):
            for name in ("RX", "RY", "RZ"):
                gates.append(Gate(name, (qubit,), Weight(n_weights)))
                n_weights += 1
        gates += [Gate("CNOT", (qubit, (qubit + 1) % n_qubits)) for qubit in range(n_qubits)]
    return Circuit(n_qubits, tuple(gates), "layered")


def z_signs(n_qubits: int) -> Tensor:
    """Return (2^n, n): the eigenvalue of each Z on each basis state."""
    observables = z_on_each(n_qubits)
    rows = [[each.sign(state, n_qubits) for each in observables] for state in range(2**n_qubits)]
    return torch.tensor(rows, dtype=torch.float32)


def angle_of(gate: Gate, inputs: Tensor, weights: Tensor) -> Tensor:
    """Return a gate's angle: (rows,) from inputs, (1,) from weights, empty without one."""
    if gate.angle is None:
        return weights[:0]
    if isinstance(gate.angle, Input):
        return inputs[:, gate.angle.index]
    return weights[gate.angle.index : gate.angle.index + 1]
