"""The catalogue holds the three orders of QTHA, with the weights that each should have."""

import pytest
import torch

from qpeft.backends.reference_sim import ReferenceBackend
from qpeft.circuits import ANSATZE, Circuit, Input, Weight, build_ansatz, z_on_each
from qpeft.errors import ConfigError

SIZES = [(n_qubits, n_layers) for n_qubits in (2, 3, 4, 7) for n_layers in (1, 2, 4)]


def parts(circuit: Circuit) -> str:
    """Return one letter a sweep over the qubits: z data, r rotations, + and - for the rings."""
    letters = []
    for gate in circuit.gates[:: circuit.n_qubits]:
        if isinstance(gate.angle, Input):
            letters.append("z")
        elif gate.name == "RY":
            letters.append("r")
        else:
            letters.append("+" if gate.qubits[1] == 1 else "-")
    return "".join(letters)


@pytest.mark.parametrize("name", ANSATZE)
@pytest.mark.parametrize(("n_qubits", "n_layers"), SIZES)
def test_an_entangled_ansatz_has_4nl_weights(name: str, n_qubits: int, n_layers: int) -> None:
    circuit = build_ansatz(name, n_qubits, n_layers)
    n_uploads = 1 if name == "encode_once" else n_layers
    assert circuit.name == name
    assert circuit.n_inputs == n_qubits
    assert circuit.n_weights == 4 * n_qubits * n_layers
    assert circuit.n_uploads() == n_uploads
    assert circuit.count_gates() == {
        "CRZ": 2 * n_qubits * n_layers,
        "RY": (2 * n_layers + n_uploads) * n_qubits,
    }


@pytest.mark.parametrize("name", ANSATZE)
@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 1), (1, 3), (4, 2)])
def test_without_rings_2nl_weights_are_left(name: str, n_qubits: int, n_layers: int) -> None:
    circuit = build_ansatz(name, n_qubits, n_layers, is_entangled=False)
    assert circuit.n_weights == 2 * n_qubits * n_layers
    assert set(circuit.count_gates()) == {"RY"}


@pytest.mark.parametrize("name", ANSATZE)
def test_one_qubit_has_no_ring(name: str) -> None:
    assert build_ansatz(name, 1, 2) == build_ansatz(name, 1, 2, is_entangled=False)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("reupload", "z+r-rz+r-r"),
        ("reupload_v1", "zr+r-zr+r-"),
        ("encode_once", "zr+r-r+r-"),
    ],
)
def test_the_orders_are_those_of_the_method(name: str, order: str) -> None:
    assert parts(build_ansatz(name, 3, 2)) == order


@pytest.mark.parametrize("name", ANSATZE)
def test_every_weight_turns_exactly_one_gate_in_order(name: str) -> None:
    circuit = build_ansatz(name, 4, 2)
    used = [gate.angle.index for gate in circuit.gates if isinstance(gate.angle, Weight)]
    assert used == list(range(circuit.n_weights))


def test_rings_control_the_next_and_then_the_previous_qubit() -> None:
    circuit = build_ansatz("reupload", 4, 1)
    rings = [gate.qubits for gate in circuit.gates if gate.name == "CRZ"]
    assert rings[:4] == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert rings[4:] == [(0, 3), (1, 0), (2, 1), (3, 2)]


def test_a_ring_of_two_qubits_goes_both_ways() -> None:
    rings = [gate.qubits for gate in build_ansatz("reupload", 2, 1).gates if gate.name == "CRZ"]
    assert rings == [(0, 1), (1, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("n_qubits", [2, 3])
def test_only_the_default_order_has_no_dead_last_ring(n_qubits: int) -> None:
    dead = {}
    for name in ANSATZE:
        circuit = build_ansatz(name, n_qubits, n_layers=2)
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(circuit.n_weights, generator=generator).double().requires_grad_()
        inputs = torch.randn(8, n_qubits, generator=generator).double()
        totals = ReferenceBackend().bind(circuit, z_on_each(n_qubits), weights)(inputs).sum(dim=0)
        slopes = [torch.autograd.grad(total, weights, retain_graph=True)[0] for total in totals]
        largest = torch.stack(slopes).abs().amax(dim=0)
        dead[name] = (largest < 1e-12).nonzero().flatten().tolist()
    last_ring = list(range(8 * n_qubits - n_qubits, 8 * n_qubits))
    assert dead == {"reupload": [], "reupload_v1": last_ring, "encode_once": last_ring}


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(0, 1), (4, 0), (-1, 2)])
def test_a_size_below_one_is_refused(n_qubits: int, n_layers: int) -> None:
    with pytest.raises(ConfigError, match=f"got n_qubits={n_qubits}, n_layers={n_layers}"):
        build_ansatz("reupload", n_qubits, n_layers)


def test_an_unknown_ansatz_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"Unknown ansatz 'reuplaod'. Did you mean 'reupload'\?"):
        build_ansatz("reuplaod", 4, 1)
