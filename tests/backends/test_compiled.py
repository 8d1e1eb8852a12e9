"""The compiled engine gives the numbers of the others, the same ones whatever the threads."""

import json
import subprocess
import sys

import pytest
import torch
from comparison import (
    every_gate_circuit,
    layered_circuit,
    mixture_of,
    random_angles,
    random_circuits,
    values_and_gradients,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from qpeft import doctor
from qpeft.backends import compiled, get_backend, torch_sim
from qpeft.circuits import ANSATZE, Circuit, Gate, Input, Weight, ZProduct, build_ansatz, z_on_each

pytestmark = pytest.mark.skipif(not compiled.is_available(), reason="needs qpeft[fast]")


@pytest.fixture(autouse=True)
def always_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_sim, "choose_form", lambda n, **_: "compiled")


def in_form(form: str, circuit: Circuit, observables: tuple[ZProduct, ...], *angles: Tensor):
    """Return values and gradients of a form of the exact engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_sim, "choose_form", lambda n, **_: form)
        return values_and_gradients(get_backend("exact"), circuit, observables, *angles)


def assert_all_close(ones: tuple, twos: tuple, tolerance: float) -> None:
    for what, one, two in zip(("values", "for inputs", "for weights"), ones, twos, strict=True):
        assert one.shape == two.shape, what
        torch.testing.assert_close(
            one.double(),
            two.double(),
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, what=what: f"{what}: {text}",
        )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    circuit=random_circuits(max_qubits=9, max_gates=40),
    n_rows=st.sampled_from([0, 1, 3, 4, 5, 15, 16, 17]),
    seed=st.integers(0, 2**31),
)
def test_random_circuits_agree_with_the_blocks(circuit: Circuit, n_rows: int, seed: int) -> None:
    observables = (*z_on_each(circuit.n_qubits), ZProduct((0, circuit.n_qubits - 1)))
    angles = random_angles(circuit, n_rows, seed)
    assert_all_close(
        in_form("compiled", circuit, observables, *angles),
        in_form("blocks", circuit, observables, *angles),
        1e-10,
    )


@pytest.mark.parametrize("n_qubits", range(1, 10))
@pytest.mark.parametrize("n_rows", [1, 17])
def test_every_gate_agrees_with_the_reference(n_qubits: int, n_rows: int) -> None:
    for circuit in (every_gate_circuit(n_qubits), layered_circuit(n_qubits, 2)):
        observables, angles = z_on_each(n_qubits), random_angles(circuit, n_rows, seed=n_qubits)
        assert_all_close(
            in_form("compiled", circuit, observables, *angles),
            values_and_gradients(get_backend("reference"), circuit, observables, *angles),
            1e-10,
        )


@pytest.mark.parametrize("ansatz", ANSATZE)
@pytest.mark.parametrize("n_qubits", [2, 7, 8, 12])
def test_every_ansatz_agrees_with_the_blocks_in_several_blocks(ansatz: str, n_qubits: int) -> None:
    circuit = build_ansatz(ansatz, n_qubits, 1 if n_qubits == 12 else 3)
    observables, angles = z_on_each(n_qubits), random_angles(circuit, 21, blocks=(2, 2))
    assert_all_close(
        in_form("compiled", circuit, observables, *angles),
        in_form("blocks", circuit, observables, *angles),
        1e-10,
    )


@pytest.mark.parametrize("ansatz", ANSATZE)
def test_single_precision_keeps_five_digits(ansatz: str) -> None:
    circuit = build_ansatz(ansatz, 8, 8)
    observables, angles = z_on_each(8), random_angles(circuit, 100)
    exact = in_form("compiled", circuit, observables, *angles)
    single = in_form("compiled", circuit, observables, *(each.float() for each in angles))
    assert all(each.dtype == torch.float32 for each in single)
    for one, two in zip(single, exact, strict=True):
        assert (one - two).abs().max() < 1e-5 * two.abs().max().clamp(min=1)


def test_autograd_agrees_with_finite_differences() -> None:
    circuit, observables = every_gate_circuit(3), z_on_each(3)
    angles = [each.requires_grad_() for each in random_angles(circuit, 5, blocks=(2,))]
    backend = get_backend("exact")
    assert torch.autograd.gradcheck(lambda x, w: backend.bind(circuit, observables, w)(x), angles)


@pytest.mark.parametrize("which", [0, 1])
def test_one_gradient_alone_is_the_same(which: int) -> None:
    circuit, observables = build_ansatz("reupload", 5, 2), z_on_each(5)
    angles = random_angles(circuit, 9)
    expected = in_form("blocks", circuit, observables, *angles)[1 + which]
    angles[which].requires_grad_()
    values = get_backend("exact").bind(circuit, observables, angles[1])(angles[0])
    (gradient,) = torch.autograd.grad((values * mixture_of(values)).sum(), angles[which])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


def test_modules_bound_together_have_their_own_weights_and_gradients() -> None:
    circuit, observables = build_ansatz("reupload", 4, 2), z_on_each(4)
    inputs, _ = random_angles(circuit, 6)
    weights = torch.randn(3, circuit.n_weights, dtype=torch.double, requires_grad=True)
    bound = get_backend("exact").bind_each(circuit, observables, weights)
    values = [each(inputs) for each in bound]
    sum((value * mixture_of(value)).sum() for value in values).backward()
    for i in range(3):
        expected = in_form("blocks", circuit, observables, inputs, weights[i])
        torch.testing.assert_close(values[i], expected[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(weights.grad[i], expected[2], rtol=0, atol=1e-10)


def test_results_are_the_same_whatever_the_threads() -> None:
    circuit, observables = build_ansatz("reupload", 8, 4), z_on_each(8)
    angles = [each.float() for each in random_angles(circuit, 1000)]
    before, results = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3, 1):
            torch.set_num_threads(n_threads)
            results.append(in_form("compiled", circuit, observables, *angles))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_nan_stays_in_its_row() -> None:
    circuit, observables = build_ansatz("reupload", 4, 2), z_on_each(4)
    inputs, weights = random_angles(circuit, 10)
    clean, _, _ = in_form("compiled", circuit, observables, inputs, weights)
    inputs[3, 1] = torch.nan
    inputs[4, 0] = torch.inf
    values, _, for_weights = in_form("compiled", circuit, observables, inputs, weights)
    rows = torch.tensor([0, 1, 2, 5, 6, 7, 8, 9])
    assert values[3:5].isnan().all()
    assert torch.equal(values[rows], clean[rows])
    assert for_weights.isnan().any()


def test_any_strides_and_a_graph_that_is_computed_again_give_the_same() -> None:
    circuit, observables = build_ansatz("reupload", 5, 2), z_on_each(5)
    inputs, weights = random_angles(circuit, 12)
    strided = torch.empty(5, 24, dtype=torch.double).T[::2]
    strided.copy_(inputs)
    expected = in_form("compiled", circuit, observables, inputs, weights)
    for one, two in zip(
        in_form("compiled", circuit, observables, strided, weights), expected, strict=True
    ):
        assert torch.equal(one, two)
    inputs.requires_grad_()
    bound = get_backend("exact").bind(circuit, observables, weights)
    values = checkpoint(bound, inputs, use_reentrant=False)
    (gradient,) = torch.autograd.grad((values * mixture_of(values)).sum(), inputs)
    assert torch.equal(gradient, expected[1])


def test_it_runs_without_autograd_and_under_autocast() -> None:
    circuit, observables = build_ansatz("reupload", 4, 2), z_on_each(4)
    inputs, weights = (each.float() for each in random_angles(circuit, 12))
    expected = get_backend("exact").bind(circuit, observables, weights)(inputs)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        bound = get_backend("exact").bind(circuit, observables, weights)
        assert torch.equal(bound(inputs), expected)
        assert bound(inputs.bfloat16()).dtype == torch.float32


def test_a_second_derivative_is_an_error() -> None:
    circuit, observables = build_ansatz("reupload", 2, 2), z_on_each(2)
    inputs, weights = (each.requires_grad_() for each in random_angles(circuit, 3))
    values = get_backend("exact").bind(circuit, observables, weights)(inputs)
    (gradient,) = torch.autograd.grad(values.sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.sum().backward()


def test_torch_compile_takes_it_whole() -> None:
    circuit, observables = build_ansatz("reupload", 3, 2), z_on_each(3)
    inputs, weights = random_angles(circuit, 6)
    weights.requires_grad_()
    number = compiled.program_number(circuit, observables)

    def evaluate(inputs: Tensor, weights: Tensor) -> Tensor:
        return 2 * compiled.expectations(inputs[None], weights[None], number)[0]

    torch._dynamo.reset()
    whole = torch.compile(evaluate, backend="aot_eager", fullgraph=True)
    values, expected = whole(inputs, weights), evaluate(inputs, weights)
    assert torch.equal(values, expected)
    (one,) = torch.autograd.grad(values.sum(), weights)
    (two,) = torch.autograd.grad(expected.sum(), weights)
    assert torch.equal(one, two)


def test_only_inputs_and_weights_are_kept_for_backward() -> None:
    circuit, observables = build_ansatz("reupload", 8, 2), z_on_each(8)
    inputs, weights = (each.float().requires_grad_() for each in random_angles(circuit, 64))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        get_backend("exact").bind(circuit, observables, weights)(inputs)
    assert sorted(kept) == sorted([inputs.numel(), weights.numel()])


def test_a_turn_of_data_behind_one_of_a_weight_is_one_step() -> None:
    gates = (
        Gate("H", (0,)),
        Gate("CZ", (0, 1)),
        Gate("RY", (0,), Weight(0)),
        Gate("RY", (1,), Weight(1)),
        Gate("RY", (0,), Input(0)),
        Gate("RY", (1,), Input(1)),
    )
    program = compiled.compile_program(Circuit(2, gates), z_on_each(2))
    assert len(program.steps) == 2  # CZ, and both qubits at once


def test_without_numba_the_numbers_are_the_same() -> None:
    script = """
import sys
sys.modules["numba"] = None  # as if it were not installed
import torch
from qpeft.backends import compiled, get_backend
from qpeft.circuits import build_ansatz, z_on_each
assert not compiled.is_available()
circuit = build_ansatz("reupload", 7, 2)
inputs = torch.linspace(-2, 2, 21, dtype=torch.double).reshape(3, 7)
weights = torch.linspace(-3, 3, circuit.n_weights, dtype=torch.double)
print(get_backend("exact").bind(circuit, z_on_each(7), weights)(inputs).tolist())
"""
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    circuit = build_ansatz("reupload", 7, 2)
    inputs = torch.linspace(-2, 2, 21, dtype=torch.double).reshape(3, 7)
    weights = torch.linspace(-3, 3, circuit.n_weights, dtype=torch.double)
    ours = get_backend("exact").bind(circuit, z_on_each(7), weights)(inputs)
    other = torch.tensor(json.loads(answer.stdout), dtype=torch.double)
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-10)


def test_doctor_names_the_compiled_engine() -> None:
    (finding,) = (each for each in doctor.examine() if each.name == "compiled engine")
    assert finding.found == f"numba {compiled.numba_version()}"
    assert "qpeft[fast]" in finding.note
