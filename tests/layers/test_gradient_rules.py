"""Every way to a gradient gives the same one where it is exact, and the right one in expectation elsewhere."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qpeft.backends import Backend, Capabilities, get_backend
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, build_ansatz, z_on_each
from qpeft.layers import gradients
from qpeft.layers.evaluation import Evaluation
from qpeft.layers.gradients import RULES, Measurement, RowByRow, n_gradient_circuits
from qpeft.layers.surrogate import Surrogate, measure_surrogates, n_surrogate_circuits

CIRCUITS = {
    "reupload": build_ansatz("reupload", 3, 1),
    "reupload twice": build_ansatz("reupload", 2, 2),
    "encode_once": build_ansatz("encode_once", 3, 2),
    "every gate": Circuit(
        3,
        (
            Gate("RX", (0,), Input(0)),
            Gate("H", (1,)),
            Gate("CNOT", (0, 2)),
            Gate("RZ", (1,), Input(1)),
            Gate("RZZ", (1, 2), Weight(0)),
            Gate("CRZ", (2, 0), Weight(1)),
            Gate("RY", (2,), Weight(0)),
            Gate("CZ", (0, 1)),
            Gate("RX", (1,), Weight(2)),
        ),
        "every gate",
    ),
}


class Counting:
    """A backend without gradients that counts the circuits it is given."""

    name = "counting"
    capabilities = Capabilities(is_exact=True, is_differentiable=False, max_qubits=12)

    def __init__(self) -> None:
        self.n_circuits = 0

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> Callable[[Tensor], Tensor]:
        bound = get_backend("exact").bind(circuit, observables, weights)

        def evaluate(inputs: Tensor) -> Tensor:
            self.n_circuits += math.prod(inputs.shape[:-1])
            return bound(inputs).detach()

        return evaluate

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[Callable[[Tensor], Tensor]]:
        return [self.bind(circuit, observables, entry) for entry in weights]


def problem(circuit: Circuit, n_rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    weights = torch.randn(2, 2, circuit.n_weights, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(2, n_rows, circuit.n_inputs, dtype=torch.float64, requires_grad=True)
    return weights, inputs, torch.randn(2, n_rows, circuit.n_qubits, dtype=torch.float64)


def outputs_and_gradients(
    evaluation: Evaluation, circuit: Circuit
) -> tuple[Tensor, Tensor, Tensor]:
    weights, inputs, grad = problem(circuit)
    observables = z_on_each(circuit.n_qubits)
    outputs = evaluation.bind_each(circuit, observables, weights)[1](inputs)
    return outputs.detach(), *torch.autograd.grad((outputs * grad).sum(), [inputs, weights])


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(gradient="parameter_shift"),
        Evaluation(gradient="straight_through"),
        Evaluation(gradient="surrogate", angle_gradient="parameter_shift"),
        Evaluation(gradient="surrogate", angle_gradient="straight_through"),
        Evaluation("reference", gradient="surrogate"),
        Evaluation("reference", gradient="parameter_shift"),
        Evaluation(Counting(), gradient="surrogate"),
    ],
    ids=str,
)
def test_exact_ways_agree_with_autograd(evaluation: Evaluation, name: str) -> None:
    expected = outputs_and_gradients(Evaluation(), CIRCUITS[name])
    found = outputs_and_gradients(evaluation, CIRCUITS[name])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_spsa_is_the_gradient_in_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over all sign patterns, each once: what is left is the finite step's own error."""
    circuit = build_ansatz("reupload", 2, 1).untied()
    columns = tuple(range(circuit.n_inputs))
    torch.manual_seed(0)
    row = torch.randn(1, circuit.n_inputs, dtype=torch.float64)
    grad = torch.randn(1, 2, dtype=torch.float64)
    patterns = torch.tensor(list(product([0, 1], repeat=len(columns))))
    angles, grads = row.expand(len(patterns), -1), grad.expand(len(patterns), -1)
    monkeypatch.setattr(torch, "randint", lambda *args: patterns)
    run = Measurement(get_backend("exact"), circuit, z_on_each(2), "spsa", columns)
    exact = RULES["straight_through"](run, row, grad)[0]
    errors = []
    for step in (0.1, 0.05):
        monkeypatch.setattr(gradients, "SPSA_STEP", step)
        errors.append((RULES["spsa"](run, angles, grads).mean(dim=0) - exact).abs().max().item())
    assert errors[0] < 0.05
    assert errors[1] / errors[0] == pytest.approx(0.25, abs=0.02)


def test_spsa_draws_from_torchs_generator() -> None:
    """A checkpoint keeps that generator's state, so a resumed run draws the same signs."""
    evaluation = Evaluation(gradient="spsa")
    found = []
    for _ in range(2):
        weights, inputs, grad = problem(CIRCUITS["reupload"])
        outputs = evaluation.bind_each(CIRCUITS["reupload"], z_on_each(3), weights)[0](inputs)
        torch.manual_seed(11)
        (outputs * grad).sum().backward()
        found.append(weights.grad.clone())
    assert torch.equal(*found)


@pytest.mark.parametrize("n_rows", [1, 64, 1000])
def test_the_surrogates_circuits_do_not_grow_with_the_rows(n_rows: int) -> None:
    circuit = build_ansatz("reupload", 4, 1)
    backend = Counting()
    weights = torch.randn(1, 1, circuit.n_weights, requires_grad=True)
    bound = measure_surrogates(backend, circuit, z_on_each(4), weights, "parameter_shift")[0]
    outputs = bound(torch.randn(1, n_rows, 4, requires_grad=True))
    assert backend.n_circuits == 81
    outputs.sum().backward()
    assert backend.n_circuits == 81 + 81 * (8 * 2 + 8 * 4)


@pytest.mark.parametrize(("rule", "n_more"), [("parameter_shift", 20 + 48), ("spsa", 2)])
def test_row_by_row_takes_as_many_circuits_as_it_says(rule: str, n_more: int) -> None:
    circuit = CIRCUITS["reupload"]
    backend = Counting()
    weights, inputs, _ = problem(circuit, n_rows=7)
    outputs = RowByRow(backend, circuit, z_on_each(3), weights[0], rule)(inputs)
    assert backend.n_circuits == 2 * 7
    outputs.sum().backward()
    n_more = n_gradient_circuits(circuit, rule)
    assert backend.n_circuits == 2 * 7 * (1 + n_more)
    assert n_more == {"parameter_shift": 9 * 2 + 6 * 4, "spsa": 2}[rule]


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 4),
    n_layers=st.integers(1, 2),
    ansatz=st.sampled_from(["reupload", "reupload_v1", "encode_once"]),
    seed=st.integers(0, 99),
)
def test_a_whole_surrogate_is_its_circuit(n: int, n_layers: int, ansatz: str, seed: int) -> None:
    circuit = build_ansatz(ansatz, n, n_layers)
    if n_surrogate_circuits(n, circuit.n_uploads()) > 700:
        return
    generator = torch.Generator().manual_seed(seed)
    weights = 6 * torch.rand(1, 2, circuit.n_weights, dtype=torch.float64, generator=generator)
    inputs = 20 * torch.rand(2, 9, n, dtype=torch.float64, generator=generator) - 10
    exact = get_backend("exact")
    found = measure_surrogates(exact, circuit, z_on_each(n), weights, "spsa")[0](inputs)
    expected = exact.bind(circuit, z_on_each(n), weights[0])(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_gradcheck_through_a_surrogate() -> None:
    circuit = CIRCUITS["every gate"]
    torch.manual_seed(1)
    weights = torch.randn(1, circuit.n_weights, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(3, circuit.n_inputs, dtype=torch.float64, requires_grad=True)

    def outputs(weights: Tensor, inputs: Tensor) -> Tensor:
        found = measure_surrogates(Counting(), circuit, z_on_each(3), weights, "parameter_shift")
        return found[0](inputs)

    assert torch.autograd.gradcheck(outputs, (weights, inputs))


def as_backend(backend: Backend) -> Backend:
    return backend


def test_the_counting_backend_is_a_backend() -> None:
    assert isinstance(as_backend(Counting()), Backend)
    assert isinstance(Surrogate, type)
