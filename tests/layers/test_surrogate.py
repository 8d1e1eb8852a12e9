"""What a surrogate takes, refuses, and loses where it is truncated."""

import pytest
import torch

from qpeft.backends import get_backend
from qpeft.circuits import Circuit, Gate, Input, build_ansatz, z_on_each
from qpeft.errors import ConfigError
from qpeft.layers.evaluation import Evaluation
from qpeft.layers.surrogate import (
    measure_surrogates,
    n_surrogate_circuits,
    surrogate_design,
    truncation_error,
)


@pytest.mark.parametrize(
    ("n", "n_uploads", "max_weight", "n_circuits"),
    [(4, 1, None, 81), (4, 2, None, 625), (8, 1, None, 6561), (8, 1, 2, 258), (3, 1, 1, 14)],
)
def test_number_of_circuits(
    n: int, n_uploads: int, max_weight: int | None, n_circuits: int
) -> None:
    assert n_surrogate_circuits(n, n_uploads, max_weight) == n_circuits
    assert len(surrogate_design(build_ansatz("reupload", n, n_uploads), max_weight).points) == (
        n_circuits
    )


@pytest.mark.parametrize("n", [7, 8])
def test_truncation_loses_less_with_more_terms_and_says_how_much(n: int) -> None:
    circuit = build_ansatz("reupload", n, 1)
    torch.manual_seed(0)
    weights = 6.28 * torch.rand(1, 1, circuit.n_weights, dtype=torch.float64)
    exact, observables = get_backend("exact"), z_on_each(n)
    errors = []
    for weight in (1, 2, 3, 4):
        (found,) = measure_surrogates(exact, circuit, observables, weights, "spsa", weight)
        errors.append(truncation_error(circuit, observables, found, exact, weights[0]))
        points = torch.rand(1, 300, n, dtype=torch.float64) * 6.283
        difference = found(points) - exact.bind(circuit, observables, weights[0])(points)
        assert difference.square().mean().sqrt().item() == pytest.approx(errors[-1], rel=0.5)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("max_weight", [2, 3])
def test_as_many_circuits_as_there_are_terms_leave_nothing_out(max_weight: int) -> None:
    design = surrogate_design(build_ansatz("reupload", 3, 1), max_weight)
    assert design.is_exact
    assert len(design.points) == 27


def test_too_many_circuits_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"would take 390625 circuits.*surrogate_weight=2"):
        surrogate_design(build_ansatz("reupload", 8, 2))


def test_data_that_enter_by_a_controlled_gate_are_refused() -> None:
    circuit = Circuit(2, (Gate("CRZ", (0, 1), Input(0)),))
    with pytest.raises(ConfigError, match=r"by CRZ\. Use gradient='parameter_shift'"):
        surrogate_design(circuit)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "surogate"}, "Unknown gradient 'surogate'. Did you mean 'surrogate'?"),
        ({"angle_gradient": "auto"}, "Unknown angle_gradient 'auto'."),
        ({"backend": "emulater"}, "Unknown backend 'emulater'. Did you mean 'emulator'?"),
        ({"shots": 0}, "shots must be a whole number of at least 1; got 0."),
        ({"shots": 10}, "shots=10: backend 'exact' computes expectation values without shots"),
        ({"surrogate_weight": 2}, "surrogate_weight=2 is for gradient='surrogate'"),
        ({"backend": "emulator", "gradient": "autograd"}, "cannot look into backend 'emulator'"),
    ],
)
def test_a_wrong_evaluation_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Evaluation(**options)
    assert message in str(caught.value)
