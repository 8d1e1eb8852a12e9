"""The noisy simulator agrees with qiskit-aer, is differentiable, and is exact where there is no noise."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from aer_chip import aer_expectations
from comparison import random_angles, values_and_gradients

from qpeft.backends import get_backend, noisy_circuit
from qpeft.backends.noisy_sim import NoisyBackend
from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.chips.native import compile_native
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, build_ansatz, z_on_each
from qpeft.errors import ConfigError

WUKONG = load_calibration("wukong").drifted(40, seed=2)  # no two numbers are alike
SQUARE = (17, 16, 28, 29)
CHAIN = (30, 31, 43, 44, 45)


# T2 near 2 T1 on some qubits, where gates depolarise, and T2 < T1 on the others
QUIET = dataclasses.replace(
    WUKONG,
    qubits={
        n: dataclasses.replace(q, t2_us=1.9 * q.t1_us) if n % 2 else q
        for n, q in WUKONG.qubits.items()
    },
)


def mixed_circuit() -> Circuit:
    """Every gate of the table on a square, asymmetric; data enter first and once."""
    gates = (
        Gate("RY", (0,), Input(0)),
        Gate("RY", (2,), Input(1)),
        Gate("RX", (0,), Weight(0)),
        Gate("H", (1,)),
        Gate("CNOT", (0, 1)),
        Gate("RZZ", (1, 2), Weight(1)),
        Gate("RZ", (2,), Weight(2)),
        Gate("CRZ", (3, 2), Weight(3)),
        Gate("RX", (3,), Weight(4)),
        Gate("CZ", (3, 0)),
        Gate("CNOT", (3, 2)),
        Gate("RY", (1,), Weight(0)),
        Gate("H", (2,)),
    )
    return Circuit(4, gates, "mixed")


def late_data_circuit() -> Circuit:
    """Data behind weights, in every kind of gate, and one column in several gates."""
    gates = (
        Gate("H", (0,)),
        Gate("RY", (1,), Input(0)),
        Gate("RX", (1,), Input(1)),
        Gate("CRZ", (0, 1), Input(0)),
        Gate("RY", (2,), Weight(0)),
        Gate("RZZ", (1, 2), Input(2)),
        Gate("CNOT", (2, 3)),
        Gate("RZ", (3,), Input(1)),
        Gate("RX", (3,), Weight(1)),
        Gate("CRZ", (3, 0), Weight(2)),
        Gate("RY", (0,), Input(2)),
    )
    return Circuit(4, gates, "late data")


def chain_circuit(n_uploads: int) -> Circuit:
    """Five qubits in a row, for the form that takes a stage unit by unit."""
    gates: list[Gate] = []
    n_weights = 0
    for _ in range(n_uploads):
        for qubit in range(5):
            gates += [Gate("RY", (qubit,), Input(qubit)), Gate("RX", (qubit,), Weight(n_weights))]
            n_weights += 1
        for qubit in range(4):
            gates.append(Gate("CRZ", (qubit + 1, qubit), Weight(n_weights)))
            n_weights += 1
        gates += [Gate("RY", (qubit,), Weight(qubit)) for qubit in range(5)]
    return Circuit(5, tuple(gates), f"chain {n_uploads}")


def without_angles() -> Circuit:
    return Circuit(2, (Gate("H", (0,)), Gate("CNOT", (0, 1)), Gate("H", (1,))), "no angles")


CASES: list[tuple[Callable[[], Circuit], tuple[int, ...]]] = [
    (lambda: build_ansatz("reupload", 4, 1), SQUARE),
    (lambda: build_ansatz("reupload", 4, 2), SQUARE),
    (lambda: build_ansatz("reupload_v1", 4, 2), SQUARE),
    (lambda: build_ansatz("encode_once", 4, 2), SQUARE),
    (lambda: build_ansatz("encode_once", 2, 3), (40, 41)),
    (lambda: build_ansatz("reupload", 1, 2), (9,)),
    (mixed_circuit, SQUARE),
    (late_data_circuit, SQUARE),
    (lambda: chain_circuit(1), CHAIN),
    (lambda: chain_circuit(2), CHAIN),
    (without_angles, (3, 4)),
]


@pytest.mark.parametrize(
    ("make", "place", "chip"),
    [(*case, WUKONG) for case in CASES] + [(*CASES[i], QUIET) for i in (0, 6, 7)],
    ids=lambda value: value().name if callable(value) else "",
)
def test_noise_agrees_with_aer(
    make: Callable[[], Circuit], place: tuple[int, ...], chip: Calibration
) -> None:
    circuit = make()
    n = circuit.n_qubits
    observables = (*z_on_each(n), ZProduct(tuple(range(n))), ZProduct((n - 1, 0)))
    inputs, weights = random_angles(circuit, 3, seed=n)
    found = NoisyBackend(chip, place).bind(circuit, observables, weights)(inputs)
    angles = torch.cat([inputs, weights.expand(len(inputs), -1)], dim=1)
    wanted = aer_expectations(compile_native(circuit), angles, place, chip, observables)
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-6)


def test_noise_without_waiting_agrees_with_aer_and_differs_from_that_with() -> None:
    circuit, observables = build_ansatz("reupload", 4, 2), z_on_each(4)
    inputs, weights = random_angles(circuit, 3)
    found = NoisyBackend(WUKONG, SQUARE, has_idle_noise=False).bind(circuit, observables, weights)
    angles = torch.cat([inputs, weights.expand(len(inputs), -1)], dim=1)
    native = compile_native(circuit)
    wanted = aer_expectations(native, angles, SQUARE, WUKONG, observables, has_idle_noise=False)
    torch.testing.assert_close(found(inputs), torch.tensor(wanted), rtol=0, atol=1e-6)
    waiting = NoisyBackend(WUKONG, SQUARE).bind(circuit, observables, weights)(inputs)
    assert (waiting - found(inputs)).abs().max() > 1e-3


EXACT_CASES = [
    *CASES,
    (lambda: build_ansatz("reupload", 6, 2), None),
    (lambda: build_ansatz("reupload", 3, 1), None),  # an odd ring: SWAPs
    (lambda: build_ansatz("encode_once", 5, 1), None),
]


@pytest.mark.parametrize(
    ("make", "place"),
    EXACT_CASES,
    ids=[f"{make().name} {make().n_qubits}" for make, _ in EXACT_CASES],
)
def test_scale_zero_is_exact_in_values_and_gradients(
    make: Callable[[], Circuit], place: tuple[int, ...] | None
) -> None:
    circuit = make()
    inputs, weights = random_angles(circuit, 4)
    observables = (*z_on_each(circuit.n_qubits), ZProduct((0, circuit.n_qubits - 1)))
    found, wanted = (
        values_and_gradients(backend, circuit, observables, inputs, weights)
        for backend in (NoisyBackend(WUKONG, place, scale=0.0), get_backend("exact"))
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "circuit",
    [
        build_ansatz("reupload", 4, 1),
        build_ansatz("reupload", 2, 3),
        late_data_circuit(),
        chain_circuit(2),
    ],
    ids=lambda circuit: circuit.name,
)
def test_gradients_for_inputs_and_weights_are_those_of_finite_differences(circuit: Circuit) -> None:
    place = CHAIN if circuit.n_qubits == 5 else None
    backend, observables = NoisyBackend(WUKONG, place), z_on_each(circuit.n_qubits)
    inputs, weights = random_angles(circuit, 2)

    def evaluate(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return backend.bind(circuit, observables, weights)(inputs)

    arguments = (inputs.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(evaluate, arguments, fast_mode=True)


@pytest.mark.parametrize(
    "circuit", [build_ansatz("reupload", 4, 1), build_ansatz("reupload", 4, 2), chain_circuit(2)]
)
def test_entries_bound_together_are_those_bound_alone(circuit: Circuit) -> None:
    backend = NoisyBackend(WUKONG, CHAIN if circuit.n_qubits == 5 else None)
    observables = z_on_each(circuit.n_qubits)
    inputs, weights = random_angles(circuit, 3, blocks=(2, 3))
    weights = weights.requires_grad_()
    together = backend.bind_each(circuit, observables, weights)
    values = torch.stack([bound(inputs[0]) for bound in together])
    (grad,) = torch.autograd.grad(values.square().sum(), weights)
    for entry in range(2):
        alone = weights[entry].detach().requires_grad_()
        expected = backend.bind(circuit, observables, alone)(inputs[0])
        torch.testing.assert_close(values[entry], expected, rtol=0, atol=1e-12)
        (expected_grad,) = torch.autograd.grad(expected.square().sum(), alone)
        torch.testing.assert_close(grad[entry], expected_grad, rtol=0, atol=1e-12)


def test_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = build_ansatz("reupload", 4, 2)
    inputs, weights = random_angles(circuit, 7)
    whole = values_and_gradients(NoisyBackend(WUKONG), circuit, z_on_each(4), inputs, weights)
    monkeypatch.setattr(noisy_circuit, "_CHUNK", 3 * 256)
    parts = values_and_gradients(NoisyBackend(WUKONG), circuit, z_on_each(4), inputs, weights)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_memory_of_the_backward_pass_does_not_hold_the_states_of_all_rows() -> None:
    """What autograd keeps between the passes is less than one set of density matrices."""
    circuit = build_ansatz("reupload", 4, 2)
    inputs = torch.zeros(20_000, 4, requires_grad=True)
    weights = torch.zeros(circuit.n_weights, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        NoisyBackend(WUKONG).bind(circuit, z_on_each(4), weights)(inputs)
    assert sum(kept.values()) < 20_000 * 256 * 4


@pytest.mark.parametrize("n_layers", [1, 2])
def test_single_precision_is_close_to_double(n_layers: int) -> None:
    circuit = build_ansatz("reupload", 4, n_layers)
    inputs, weights = random_angles(circuit, 5)
    backend = NoisyBackend(WUKONG)
    double = backend.bind(circuit, z_on_each(4), weights)(inputs)
    single = backend.bind(circuit, z_on_each(4), weights.float())(inputs.float())
    assert (double.dtype, single.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_more_noise_leaves_less_signal() -> None:
    circuit = build_ansatz("reupload", 4, 1)
    inputs, weights = random_angles(circuit, 200)
    spreads = [
        float(
            NoisyBackend(WUKONG, scale=scale)
            .bind(circuit, z_on_each(4), weights)(inputs)
            .std(dim=0)
            .mean()
        )
        for scale in (0.0, 0.5, 1.0, 2.0)
    ]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 1.5 * spreads[2] > 0.05


def test_a_circuit_bound_in_inference_mode_can_be_trained_later() -> None:
    backend, circuit = NoisyBackend(WUKONG), build_ansatz("reupload", 4, 2)
    inputs, weights = random_angles(circuit, 2)
    with torch.inference_mode():
        first = backend.bind(circuit, z_on_each(4), weights)(inputs)
    values, *gradients = values_and_gradients(backend, circuit, z_on_each(4), inputs, weights)
    torch.testing.assert_close(values, first)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_no_place_given_takes_the_best_one_and_all_blocks_share_it() -> None:
    backend, circuit = NoisyBackend(WUKONG), build_ansatz("reupload", 4, 1)
    inputs, weights = random_angles(circuit, 3)
    blocks = backend.bind(circuit, z_on_each(4), weights.expand(2, -1))(inputs.expand(2, -1, -1))
    torch.testing.assert_close(blocks[0], blocks[1])
    place = backend.site_of(circuit).place
    given = NoisyBackend(WUKONG, place).bind(circuit, z_on_each(4), weights)(inputs)
    torch.testing.assert_close(blocks[0], given)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((0, 1, 13), r"4 different qubits; got \(0, 1, 13\)"),
        ((0, 1, 13, 13), r"4 different qubits"),
        ((0, 1, 13, 99), r"no living qubit 99"),
        ((0, 1, 2, 3), r"couples its qubits 0 and 3.*between 0 and 3"),
        ((14, 15, 27, 26), r"between 14 and 26"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(place: tuple[int, ...], message: str) -> None:
    circuit = build_ansatz("reupload", 4, 1)
    with pytest.raises(ConfigError, match=message):
        NoisyBackend(WUKONG, place).bind(circuit, z_on_each(4), torch.zeros(circuit.n_weights))


def test_a_circuit_of_seven_qubits_is_refused() -> None:
    circuit = build_ansatz("reupload", 7, 1)
    with pytest.raises(ConfigError, match="at most 6 qubits"):
        NoisyBackend(WUKONG).bind(circuit, z_on_each(7), torch.zeros(circuit.n_weights))
