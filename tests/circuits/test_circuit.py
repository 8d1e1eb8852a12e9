"""A circuit is checked frozen data that knows its sizes."""

import dataclasses

import pytest

from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, z_on_each
from qpeft.circuits.gates import GATES
from qpeft.errors import ConfigError, QpeftError


def test_sizes_are_read_off_the_gates() -> None:
    circuit = Circuit(
        3,
        (
            Gate("RY", (0,), Input(1)),
            Gate("RX", (2,), Input(1)),
            Gate("CRZ", (2, 0), Weight(4)),
            Gate("CNOT", (0, 1)),
        ),
    )
    assert (circuit.n_inputs, circuit.n_weights) == (2, 5)
    assert circuit.n_uploads() == 2
    assert circuit.count_gates() == {"CNOT": 1, "CRZ": 1, "RX": 1, "RY": 1}


def test_an_empty_circuit_has_no_sizes() -> None:
    circuit = Circuit(2, ())
    assert (circuit.n_inputs, circuit.n_weights, circuit.depth, circuit.n_uploads()) == (0, 0, 0, 0)
    assert circuit.count_gates() == {}


def test_depth_counts_steps_of_gates_that_share_no_qubit() -> None:
    first_layer = (Gate("H", (0,)), Gate("H", (1,)), Gate("H", (2,)))
    assert Circuit(3, first_layer).depth == 1
    assert Circuit(3, (*first_layer, Gate("CZ", (0, 1)), Gate("H", (2,)))).depth == 2
    chain = (Gate("CNOT", (0, 1)), Gate("CNOT", (1, 2)), Gate("H", (0,)))
    assert Circuit(3, chain).depth == 2


def test_circuits_with_equal_gates_are_equal_and_hash_equally() -> None:
    one, two = (Circuit(1, (Gate("RZ", (0,), Weight(0)),)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)


def test_a_circuit_cannot_be_changed() -> None:
    circuit = Circuit(1, ())
    with pytest.raises(dataclasses.FrozenInstanceError):
        circuit.n_qubits = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "qubits", "angle", "message"),
    [
        ("CNOTT", (0, 1), None, "Unknown gate 'CNOTT'. Did you mean 'CNOT'?"),
        ("RY", (0, 1), Weight(0), "Gate RY acts on 1 different qubits; got (0, 1)."),
        ("CZ", (1,), None, "Gate CZ acts on 2 different qubits; got (1,)."),
        ("CNOT", (1, 1), None, "Gate CNOT acts on 2 different qubits; got (1, 1)."),
        ("RX", (0,), None, "Gate RX needs an angle; got None."),
        ("H", (0,), Input(0), "Gate H takes no angle; got Input(index=0)."),
    ],
)
def test_a_gate_that_cannot_be_names_what_is_wrong(
    name: str, qubits: tuple[int, ...], angle: Input | Weight | None, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Gate(name, qubits, angle)
    assert str(caught.value) == message


@pytest.mark.parametrize("qubit", [-1, 2])
def test_a_gate_outside_of_the_circuit_is_refused(qubit: int) -> None:
    with pytest.raises(ConfigError, match=r"circuit 'small' has qubits 0 to 1"):
        Circuit(2, (Gate("H", (qubit,)),), "small")


def test_a_circuit_without_qubits_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 qubit; got 0"):
        Circuit(0, ())


def test_a_config_error_is_ours_and_a_value_error() -> None:
    assert issubclass(ConfigError, QpeftError)
    assert issubclass(ConfigError, ValueError)


def test_every_gate_of_the_table_can_stand_in_a_circuit() -> None:
    gates = tuple(
        Gate(name, tuple(range(kind.n_qubits)), Weight(0) if kind.has_angle else None)
        for name, kind in GATES.items()
    )
    assert Circuit(2, gates).count_gates() == dict.fromkeys(sorted(GATES), 1)


def test_z_signs_read_qubit_zero_as_the_leftmost_bit() -> None:
    first, second, third = z_on_each(3)
    assert [observable.sign(0b100, 3) for observable in (first, second, third)] == [-1, 1, 1]
    assert [observable.sign(0b001, 3) for observable in (first, second, third)] == [1, 1, -1]


def test_a_product_of_z_has_the_parity_of_its_bits() -> None:
    parity = ZProduct((0, 2))
    assert [parity.sign(state, 3) for state in range(8)] == [1, -1, 1, -1, -1, 1, -1, 1]
    assert ZProduct(()).sign(5, 3) == 1
