"""What holds for every exact backend and circuit: conventions, bounds, shapes, gradients."""

import math
import warnings

import pytest
import torch
from comparison import (
    every_gate_circuit,
    layered_circuit,
    mixture_of,
    random_angles,
    values_and_gradients,
)
from torch import Tensor

from qpeft.backends import get_backend
from qpeft.backends.reference_sim import kronecker_matrix
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, build_ansatz, z_on_each
from qpeft.errors import ConfigError

EXACT_BACKENDS = ("exact", "reference")
SIZES = [1, 2, 5, 9]  # both ways of the exact engine


def small_matrix(name: str) -> Tensor:
    return kronecker_matrix((name,)).to_dense()


def expectations(name: str, circuit: Circuit, inputs: Tensor, weights: Tensor) -> Tensor:
    return get_backend(name).bind(circuit, z_on_each(circuit.n_qubits), weights)(inputs)


def run(name: str, gates: tuple[Gate, ...], n_qubits: int, *angles: float) -> list[float]:
    """Return <Z> on each qubit for one row of trained angles."""
    weights = torch.tensor(angles, dtype=torch.float64)
    inputs = torch.zeros(1, 0, dtype=torch.float64)
    return expectations(name, Circuit(n_qubits, gates), inputs, weights)[0].tolist()


def test_the_reference_multiplies_qubit_zero_as_the_leftmost_factor() -> None:
    product = kronecker_matrix(("X", "Z", "H", "|1><1|")).to_dense()
    expected = small_matrix("X")
    for name in ("Z", "H", "|1><1|"):
        expected = torch.kron(expected, small_matrix(name))
    assert torch.equal(product, expected)


@pytest.mark.parametrize("name", ["X", "Y", "Z", "H"])
def test_the_matrices_of_the_reference_square_to_one(name: str) -> None:
    matrix = small_matrix(name)
    torch.testing.assert_close(matrix @ matrix, torch.eye(2, dtype=torch.complex128))
    torch.testing.assert_close(matrix, matrix.mH)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [3, 9])
def test_an_asymmetric_circuit_fixes_the_order_of_qubits(name: str, n_qubits: int) -> None:
    gates = (
        Gate("RX", (0,), Weight(0)),
        Gate("CNOT", (0, 2)),
        Gate("RY", (1,), Weight(1)),
    )
    cos0, cos1 = math.cos(0.4), math.cos(1.1)
    expected = [cos0, cos1, cos0] + [1.0] * (n_qubits - 3)
    assert run(name, gates, n_qubits, 0.4, 1.1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_rotations_turn_the_bloch_vector_counter_clockwise(name: str) -> None:
    """RY(a) leads z to (sin a, 0, cos a), RZ(b) turns x to y, RX(c) turns y to z."""
    gates = tuple(Gate(axis, (0,), Weight(i)) for i, axis in enumerate(("RY", "RZ", "RX")))
    y, z = math.sin(0.7) * math.sin(0.3), math.cos(0.7)
    expected = z * math.cos(0.5) + y * math.sin(0.5)
    assert run(name, gates, 1, 0.7, 0.3, 0.5) == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_crz_turns_its_target_only_where_the_control_is_one(name: str) -> None:
    def value(flip: float) -> float:
        gates = (
            Gate("RY", (0,), Weight(0)),
            Gate("H", (1,)),
            Gate("CRZ", (0, 1), Weight(1)),
            Gate("H", (1,)),
        )
        return run(name, gates, 2, flip, 0.9)[1]

    assert value(0.0) == pytest.approx(1.0, abs=1e-12)
    assert value(math.pi) == pytest.approx(math.cos(0.9), abs=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", SIZES)
def test_expectations_lie_between_minus_one_and_one(name: str, n_qubits: int) -> None:
    circuit = every_gate_circuit(n_qubits)
    inputs, weights = random_angles(circuit, 16)
    values = expectations(name, circuit, 10 * inputs, 10 * weights)
    assert values.abs().max() <= 1 + 1e-12
    assert values.std() > 0.05


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", SIZES)
def test_the_norm_stays_one(name: str, n_qubits: int) -> None:
    circuit = every_gate_circuit(n_qubits)
    inputs, weights = random_angles(circuit, 4)
    norm = get_backend(name).bind(circuit, (ZProduct(()),), weights)(inputs)
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [1, 4, 9])
def test_a_circuit_and_its_inverse_give_the_start_back(name: str, n_qubits: int) -> None:
    forward = every_gate_circuit(n_qubits)
    n_inputs, n_weights = forward.n_inputs, forward.n_weights
    backward = []
    for gate in reversed(forward.gates):
        match gate.angle:
            case Input(index):
                angle: Input | Weight | None = Input(n_inputs + index)
            case Weight(index):
                angle = Weight(n_weights + index)
            case _:
                angle = None
        backward.append(Gate(gate.name, gate.qubits, angle))
    circuit = Circuit(n_qubits, forward.gates + tuple(backward))
    inputs, weights = random_angles(forward, 3)
    values = expectations(
        name, circuit, torch.cat([inputs, -inputs], -1), torch.cat([weights, -weights], -1)
    )
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [1, 3, 9])
@pytest.mark.parametrize("blocks", [(3,), (2, 2)])
def test_blocks_are_evaluated_as_if_alone(
    name: str, n_qubits: int, blocks: tuple[int, ...]
) -> None:
    circuit = every_gate_circuit(n_qubits)
    observables = z_on_each(n_qubits)
    backend = get_backend(name)
    inputs, weights = random_angles(circuit, 3, blocks=blocks)
    together = values_and_gradients(backend, circuit, observables, inputs, weights)
    assert together[0].shape == (*blocks, 3, n_qubits)
    mixture = mixture_of(together[0])
    for place in torch.cartesian_prod(*(torch.arange(size) for size in blocks)):
        at = tuple(place.reshape(-1).tolist())
        alone_inputs = inputs[at].clone().requires_grad_()
        alone_weights = weights[at].clone().requires_grad_()
        alone = backend.bind(circuit, observables, alone_weights)(alone_inputs)
        (alone * mixture[at]).sum().backward()
        for one, two in zip(together, (alone, alone_inputs.grad, alone_weights.grad), strict=True):
            torch.testing.assert_close(one[at], two, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [1, 2, 4, 7])
@pytest.mark.parametrize("make", [every_gate_circuit, lambda n: build_ansatz("reupload", n, 1)])
def test_gradients_are_those_of_finite_differences(name: str, n_qubits: int, make: object) -> None:
    circuit = make(n_qubits)  # type: ignore[operator]
    inputs, weights = random_angles(circuit, 1 if n_qubits > 3 else 2)
    assert torch.autograd.gradcheck(
        lambda x, w: expectations(name, circuit, x, w),
        (inputs.requires_grad_(), weights.requires_grad_()),
        fast_mode=n_qubits > 3,
    )


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_qubits", [2, 6, 9])
def test_low_precision_inputs_give_float32_results(
    name: str, dtype: torch.dtype, n_qubits: int
) -> None:
    circuit = build_ansatz("reupload", n_qubits, 2)
    inputs, weights = random_angles(circuit, 4)
    inputs = inputs.to(dtype)
    exact = values_and_gradients(
        get_backend("reference"), circuit, z_on_each(n_qubits), inputs.double(), weights
    )
    ours = values_and_gradients(
        get_backend(name), circuit, z_on_each(n_qubits), inputs, weights.float()
    )
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == dtype
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=0, atol=1e-5)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=0, atol=tolerance)
    torch.testing.assert_close(ours[2].double(), exact[2], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_low_precision_weights_get_their_gradient_in_their_own_type(name: str) -> None:
    circuit = build_ansatz("reupload", 3, 1)
    inputs, weights = random_angles(circuit, 4)
    values, _, gradient = values_and_gradients(
        get_backend(name), circuit, z_on_each(3), inputs.bfloat16(), weights.bfloat16()
    )
    assert (values.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [4, 9])
def test_autocast_does_not_lower_the_precision(name: str, n_qubits: int) -> None:
    circuit = build_ansatz("reupload", n_qubits, 2)
    inputs, weights = (angles.float() for angles in random_angles(circuit, 8))
    observables = z_on_each(n_qubits)
    plain = values_and_gradients(get_backend(name), circuit, observables, inputs, weights)
    leaves = [inputs.requires_grad_(), weights.requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = expectations(name, circuit, inputs, weights)
    gradients = torch.autograd.grad((values * mixture_of(values)).sum(), leaves)
    for one, two in zip(plain, (values, *gradients), strict=True):
        assert two.dtype == torch.float32
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [2, 6, 8])
def test_a_row_does_not_depend_on_the_other_rows(name: str, n_qubits: int) -> None:
    circuit = layered_circuit(n_qubits, 1)
    inputs, weights = random_angles(circuit, 40)
    values = expectations(name, circuit, inputs, weights)
    for rows in ([17], [3, 39], list(range(5, 30))):
        alone = expectations(name, circuit, inputs[rows], weights)
        torch.testing.assert_close(alone, values[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("blocks", [(), (2,)])
@pytest.mark.parametrize("n_qubits", [3, 9])
def test_zero_rows_give_zero_rows_and_a_zero_gradient(
    name: str, blocks: tuple[int, ...], n_qubits: int
) -> None:
    circuit = build_ansatz("reupload", n_qubits, 2)
    inputs, weights = random_angles(circuit, 0, blocks=blocks)
    values, for_inputs, for_weights = values_and_gradients(
        get_backend(name), circuit, z_on_each(n_qubits), inputs, weights
    )
    assert values.shape == (*blocks, 0, n_qubits)
    assert for_inputs.shape == (*blocks, 0, n_qubits)
    assert torch.equal(for_weights, torch.zeros_like(weights))


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [3, 9])
def test_non_contiguous_tensors_give_the_same_result(name: str, n_qubits: int) -> None:
    circuit = build_ansatz("reupload", n_qubits, 1)
    inputs, weights = random_angles(circuit, 6, blocks=(2,))
    strided_inputs = inputs.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    strided_weights = weights.T.contiguous().T
    assert not strided_inputs.is_contiguous()
    assert not strided_weights.is_contiguous()
    backend, observables = get_backend(name), z_on_each(n_qubits)
    plain = values_and_gradients(backend, circuit, observables, inputs, weights)
    strided = values_and_gradients(backend, circuit, observables, strided_inputs, strided_weights)
    for one, two in zip(plain, strided, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [3, 9])
@pytest.mark.parametrize("which", ["inputs", "weights"])
def test_one_gradient_is_the_same_without_the_other(name: str, n_qubits: int, which: str) -> None:
    circuit = every_gate_circuit(n_qubits)
    inputs, weights = random_angles(circuit, 3)
    _, *both = values_and_gradients(
        get_backend(name), circuit, z_on_each(n_qubits), inputs, weights
    )
    leaf = (inputs if which == "inputs" else weights).requires_grad_()
    values = expectations(name, circuit, inputs, weights)
    (values * mixture_of(values)).sum().backward()
    torch.testing.assert_close(leaf.grad, both[0 if which == "inputs" else 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_no_graph_is_kept_where_nothing_is_trained(name: str) -> None:
    circuit = build_ansatz("reupload", 3, 1)
    inputs, weights = random_angles(circuit, 3)
    assert not expectations(name, circuit, inputs, weights).requires_grad
    with torch.no_grad():
        frozen = expectations(name, circuit, inputs.requires_grad_(), weights.requires_grad_())
    assert not frozen.requires_grad


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_a_linear_layer_in_front_gets_its_gradient(name: str) -> None:
    torch.manual_seed(0)
    circuit = build_ansatz("reupload", 4, 1)
    layer = torch.nn.Linear(5, 4, bias=False)
    weights = torch.nn.Parameter(torch.randn(circuit.n_weights))
    rows = torch.randn(7, 5)
    loss = get_backend(name).bind(circuit, z_on_each(4), weights)(layer(rows)).square().sum()
    loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().min() > 0
    assert weights.grad is not None
    assert weights.grad.abs().max() > 0


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [3, 4, 9])
def test_a_bound_circuit_trains_after_a_call_without_gradients(name: str, n_qubits: int) -> None:
    circuit = build_ansatz("reupload", n_qubits, 1)
    inputs, weights = random_angles(circuit, 4)
    observables = z_on_each(n_qubits)
    once = values_and_gradients(get_backend(name), circuit, observables, inputs, weights)
    bound = get_backend(name).bind(circuit, observables, weights.requires_grad_())
    with torch.no_grad():
        bound(inputs)
    halves = [bound(rows.clone().requires_grad_()) for rows in inputs.split(2)]
    (torch.cat(halves) * mixture_of(once[0])).sum().backward()
    assert weights.grad is not None
    torch.testing.assert_close(weights.grad, once[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
@pytest.mark.parametrize("n_qubits", [1, 3, 4, 9])
@pytest.mark.parametrize("blocks", [(), (2,)])
def test_entries_bound_together_are_those_bound_alone(
    name: str, n_qubits: int, blocks: tuple[int, ...]
) -> None:
    circuit = build_ansatz("reupload", n_qubits, 1)
    observables, backend = z_on_each(n_qubits), get_backend(name)
    inputs, weights = random_angles(circuit, 3, blocks=(4, *blocks))
    alone = [
        values_and_gradients(backend, circuit, observables, inputs[i], weights[i]) for i in range(4)
    ]
    leaves = inputs.requires_grad_(), weights.requires_grad_()
    together = backend.bind_each(circuit, observables, weights)
    values = [bound(inputs[i]) for i, bound in enumerate(together)]
    loss = sum(((each * mixture_of(each)).sum() for each in values), start=torch.tensor(0.0))
    gradients = torch.autograd.grad(loss, leaves)
    for i, expected in enumerate(alone):
        for one, two in zip((values[i], gradients[0][i], gradients[1][i]), expected, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_training_is_possible_after_inference_mode(name: str) -> None:
    circuit = layered_circuit(2, 3)
    inputs, weights = random_angles(circuit, 3)
    kronecker_matrix.cache_clear()
    with torch.inference_mode():
        before = expectations(name, circuit, inputs, weights)
    values, _, gradient = values_and_gradients(
        get_backend(name), circuit, z_on_each(2), inputs, weights
    )
    torch.testing.assert_close(values, before)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_a_circuit_without_angles_has_the_same_value_in_every_row(name: str) -> None:
    inputs, weights = torch.zeros(4, 0), torch.zeros(0)
    empty = expectations(name, Circuit(2, ()), inputs, weights)
    assert torch.equal(empty, torch.ones(4, 2))
    bell = Circuit(2, (Gate("H", (0,)), Gate("CNOT", (0, 1))))
    both = get_backend(name).bind(bell, (ZProduct((0, 1)), ZProduct((0,))), weights)(inputs)
    torch.testing.assert_close(both, torch.tensor([[1.0, 0.0]]).expand(4, 2))


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_a_circuit_that_is_too_large_is_refused(name: str) -> None:
    limit = get_backend(name).capabilities.max_qubits
    circuit = build_ansatz("reupload", limit + 1, 1)
    with pytest.raises(ConfigError, match=rf"at most {limit} qubits; .* has {limit + 1}\."):
        get_backend(name).bind(circuit, z_on_each(limit + 1), torch.zeros(circuit.n_weights))


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    circuit = build_ansatz("reupload", 3, 1)
    with pytest.raises(ConfigError, match=r"has 12 weights; got a tensor of shape \(11,\)"):
        get_backend(name).bind(circuit, z_on_each(3), torch.zeros(11))
    bound = get_backend(name).bind(circuit, z_on_each(3), torch.zeros(12))
    with pytest.raises(ConfigError, match=r"reads 3 inputs a row; got a tensor of shape \(5, 4\)"):
        bound(torch.zeros(5, 4))


@pytest.mark.parametrize("name", EXACT_BACKENDS)
def test_no_warning_is_given(name: str) -> None:
    circuit = every_gate_circuit(3)
    inputs, weights = random_angles(circuit, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values_and_gradients(get_backend(name), circuit, z_on_each(3), inputs, weights)


def test_an_unknown_backend_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"Unknown backend 'exakt'. Did you mean 'exact'\?"):
        get_backend("exakt")
