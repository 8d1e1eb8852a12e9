"""Expressibility, entangling capability and gradient variance agree with theory and with others' code."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import Tensor

from qpeft.backends import get_backend
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, build_ansatz, z_on_each
from qpeft.errors import ConfigError
from qpeft.study.measures import measure_ansatz, measure_ansatzes
from qpeft.study.measures.ansatz import (
    N_BINS,
    expressibility,
    gradient_variance,
    meyer_wallach,
)
from qpeft.study.measures.states import final_states

NOTHING = torch.zeros(1, 0)

EVERY_GATE = Circuit(
    3,
    (
        Gate("H", (1,)),
        Gate("RX", (0,), Weight(0)),
        Gate("RY", (2,), Input(0)),
        Gate("CZ", (0, 1)),
        Gate("CRZ", (2, 0), Weight(1)),
        Gate("CNOT", (2, 1)),
        Gate("RZ", (1,), Input(1)),
        Gate("RZZ", (0, 2), Weight(2)),
        Gate("RX", (1,), Weight(3)),
        Gate("RY", (0,), Weight(0)),
    ),
)


def pennylane_state(circuit: Circuit, inputs: list[float], weights: list[float]) -> np.ndarray:
    names = {"H": "Hadamard", "RZZ": "IsingZZ"}

    @qml.qnode(qml.device("default.qubit", wires=circuit.n_qubits))
    def run() -> object:
        for gate in circuit.gates:
            values = inputs if isinstance(gate.angle, Input) else weights
            angles = [] if gate.angle is None else [values[gate.angle.index]]
            getattr(qml, names.get(gate.name, gate.name))(*angles, wires=gate.qubits)
        return qml.state()

    return np.asarray(run())


def haar_states(n_rows: int, n_states: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(2, n_rows, n_states, generator=generator, dtype=torch.float64)
    states = torch.complex(parts[0], parts[1])
    return states / states.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("circuit", [EVERY_GATE, build_ansatz("reupload", 4, 2)])
def test_states_are_those_of_pennylane(circuit: Circuit) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs = 3 * torch.randn(2, circuit.n_inputs, generator=generator, dtype=torch.float64)
    weights = 3 * torch.randn(2, circuit.n_weights, generator=generator, dtype=torch.float64)
    ours = final_states(circuit, inputs, weights).numpy()
    for row in range(2):
        theirs = pennylane_state(circuit, inputs[row].tolist(), weights[row].tolist())
        # A CZ of ours is theirs but for a phase of the whole state.
        phase = np.vdot(theirs, ours[row])
        np.testing.assert_allclose(ours[row], phase * theirs, atol=1e-12)
        assert abs(phase) == pytest.approx(1, abs=1e-12)


def test_states_give_the_expectations_of_the_reference_simulator() -> None:
    inputs, weights = torch.tensor([[0.3, -2.0]]).double(), torch.tensor([[1.0, 2, 3, 4]]).double()
    chances = final_states(EVERY_GATE, inputs, weights)[0].abs().square()
    z = [
        sum(o.sign(b, 3) * float(p) for b, p in enumerate(chances))
        for o in (ZProduct((0,)), ZProduct((1,)), ZProduct((2,)))
    ]
    bound = get_backend("reference").bind(EVERY_GATE, z_on_each(3), weights[0])
    assert z == pytest.approx(bound(inputs)[0].tolist(), abs=1e-12)


def test_a_circuit_that_does_nothing_has_the_least_expressibility() -> None:
    idle = torch.zeros(20, 2).to(torch.complex128)
    idle[:, 0] = 1
    # One qubit: Haar fidelities are uniform, and all of these lie in one bin.
    assert expressibility(idle) == pytest.approx(math.log(N_BINS), abs=1e-12)


def test_haar_random_states_have_expressibility_near_zero() -> None:
    for n_states in (2, 16, 256):
        assert 0 <= expressibility(haar_states(1000, n_states)) < 2e-3


def test_expressibility_is_the_divergence_of_two_histograms() -> None:
    circuit = build_ansatz("reupload", 2, 1, is_entangled=False)
    generator = torch.Generator().manual_seed(0)
    angles = [torch.rand(60, 2, generator=generator).double() * 6 for _ in range(3)]
    states = final_states(circuit, angles[0], torch.cat(angles[1:], dim=1))
    rows = states.numpy()
    fidelities = [abs(np.vdot(a, b)) ** 2 for i, a in enumerate(rows) for b in rows[:i]]
    seen, edges = np.histogram(fidelities, bins=N_BINS, range=(0, 1 + 1e-12))
    seen = seen / seen.sum()
    haar = (1 - edges[:-1]) ** 3 - np.clip(1 - edges[1:], 0, None) ** 3
    wanted = sum(p * math.log(p / q) for p, q in zip(seen, haar, strict=True) if p)
    assert expressibility(states) == pytest.approx(wanted, rel=1e-6)


def test_expressibility_is_finite_where_haar_states_are_never_so_alike() -> None:
    equal = torch.zeros(5, 256).to(torch.complex128)
    equal[:, 3] = 1
    assert expressibility(equal) == pytest.approx(255 * math.log(N_BINS))


@pytest.mark.parametrize("n_qubits", [2, 3, 5])
def test_a_ghz_state_is_entangled_to_the_full(n_qubits: int) -> None:
    gates = [Gate("H", (0,)), *(Gate("CNOT", (i, i + 1)) for i in range(n_qubits - 1))]
    states = final_states(Circuit(n_qubits, tuple(gates)), NOTHING, NOTHING)
    assert meyer_wallach(states).item() == pytest.approx(1, abs=1e-12)


def test_a_bell_pair_beside_an_idle_qubit_has_two_thirds() -> None:
    circuit = Circuit(3, (Gate("H", (0,)), Gate("CNOT", (0, 2))))
    states = final_states(circuit, NOTHING, NOTHING)
    assert meyer_wallach(states).item() == pytest.approx(2 / 3, abs=1e-12)


def test_haar_random_states_have_the_known_mean_entanglement() -> None:
    mean = float(meyer_wallach(haar_states(4000, 16)).mean())
    assert mean == pytest.approx((16 - 2) / (16 + 1), abs=5e-3)


def test_a_circuit_without_rings_never_entangles() -> None:
    row = measure_ansatz("reupload", 4, 2, n_samples=50, is_entangled=False)
    assert row.entangling_capability == pytest.approx(0, abs=1e-12)
    assert measure_ansatz("reupload", 4, 2, n_samples=50).entangling_capability > 0.3


def test_more_layers_are_more_expressive_and_have_smaller_gradients() -> None:
    one, four = measure_ansatzes(["reupload"], [4], [1, 4], n_samples=300)
    assert (one.n_layers, four.n_layers) == (1, 4)
    assert four.expressibility < one.expressibility / 2
    assert four.gradient_variance < one.gradient_variance
    assert four.entangling_capability > one.entangling_capability


def test_gradient_variance_of_one_rotation_is_one_half() -> None:
    circuit = Circuit(1, (Gate("RY", (0,), Weight(0)),))
    angles = torch.linspace(-math.pi, math.pi, 2001).double()[:-1, None]
    inputs = torch.zeros(len(angles), 0)
    # d cos(t) / dt = -sin(t), of mean square 1/2.
    assert gradient_variance(circuit, inputs, angles) == pytest.approx(0.5, rel=1e-3)


def test_gradient_variance_is_that_of_shifted_angles_on_another_simulator() -> None:
    circuit = build_ansatz("encode_once", 3, 2)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.rand(40, 3, generator=generator).double() * 6
    weights = torch.rand(40, circuit.n_weights, generator=generator).double() * 6
    weights.requires_grad_()
    bound = get_backend("reference").bind(circuit, (ZProduct((0,)),), weights)
    (gradient,) = torch.autograd.grad(bound(inputs[:, None]).sum(), weights)
    wanted = gradient.numpy().var(axis=0, ddof=1).mean()
    assert gradient_variance(circuit, inputs, weights) == pytest.approx(wanted, rel=1e-9)


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert measure_ansatz("reupload", 3, 1, n_samples=40, seed=5) == measure_ansatz(
        "reupload", 3, 1, n_samples=40, seed=5
    )


def test_an_unknown_ansatz_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="reupload"):
        measure_ansatz("reuplod", 2, 1)
