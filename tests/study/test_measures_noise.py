"""Noise and shots act on a trained adapter as they should, and leave it as it was."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from measured_runs import LORA, QTHA, logits, make_subject

from qpeft.backends import get_backend
from qpeft.circuits import build_ansatz, z_on_each
from qpeft.layers import Evaluation
from qpeft.study.measures.noise import SampledBackend, circuits_on, measure_noise, sampled
from qpeft.study.measures.subject import Subject, circuits_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def qtha(folder: Path) -> Subject:
    return make_subject(folder / "qtha", QTHA)


def test_error_scale_zero_is_the_exact_simulator(folder: Path) -> None:
    subject = make_subject(folder / "noise", QTHA, noise_error_scales=(0, 1, 30))
    before = logits(subject)
    found = measure_noise(subject)
    exact, chip, worse = found["rows"]
    assert exact["test_loss"] == found["unchanged"]["test_loss"]
    assert exact["changed_answers"] == exact["accuracy_difference"] == 0
    assert 0 < abs(chip["test_loss_difference"]) < abs(worse["test_loss_difference"])
    assert [row["error_scale"] for row in found["rows"]] == [0, 1, 30]
    assert found["n_examples"] == 10
    assert torch.equal(logits(subject), before)


def test_the_noisy_simulator_without_errors_is_the_exact_one(qtha: Subject) -> None:
    before = logits(qtha)
    with circuits_on(qtha.model, Evaluation("noisy", {"scale": 0.0})):
        torch.testing.assert_close(logits(qtha), before, atol=1e-5, rtol=1e-5)
    with circuits_on(qtha.model, Evaluation("noisy", {"scale": 1.0})):
        assert not torch.allclose(logits(qtha), before, atol=1e-3)
    assert torch.equal(logits(qtha), before)


def test_sampled_expectations_scatter_as_a_binomial_distribution_says() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    weights = torch.linspace(-2, 2, circuit.n_weights).double()
    inputs = torch.tensor([[0.4, 1.1]]).double().expand(20_000, -1)
    exact = get_backend("exact")
    true = exact.bind(circuit, z_on_each(2), weights)(inputs)[0]
    seen = SampledBackend(exact, 50, seed=0).bind(circuit, z_on_each(2), weights)(inputs)
    deviation = ((1 - true**2) / 50).sqrt()
    error = (seen.mean(0) - true).abs()
    assert (error < 4 * deviation / math.sqrt(len(inputs))).all()
    torch.testing.assert_close(seen.std(0), deviation, rtol=0.03, atol=0)
    counts = (seen + 1) / 2 * 50
    torch.testing.assert_close(counts, counts.round(), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("options", "by"), [({}, "surrogate"), ({"n_layers": 16}, "token")])
def test_many_shots_are_nearly_exact_and_few_are_not(
    folder: Path, options: dict[str, Any], by: str
) -> None:
    few = (2, 4, 10)  # one of them alone may come out near the exact loss by luck
    subject = make_subject(
        folder / f"shots_{by}", {**QTHA, **options}, noise_shots=(*few, 10**9), n_noise_examples=4
    )
    found = measure_noise(subject)
    *noisy, many = found["rows"]
    assert (found["shots_of"], found["n_examples"]) == (by, 4)
    assert abs(many["test_loss_difference"]) < 1e-3
    assert max(abs(row["test_loss_difference"]) for row in noisy) > 1e-3
    assert [(row["shots"], row["error_scale"]) for row in noisy] == [(n, 0) for n in few]


def test_shots_of_a_surrogate_are_drawn_once(qtha: Subject) -> None:
    circuit = next(iter(circuits_of(qtha.model).values())).circuit
    chip = sampled(Evaluation("exact"), circuit, shots=20, seed=0)
    with circuits_on(qtha.model, chip):
        first = logits(qtha)
        assert torch.equal(logits(qtha), first)


def test_noise_of_an_arm_without_circuits_is_left_out(folder: Path, qtha: Subject) -> None:
    assert "no error scales" in measure_noise(qtha)["left_out"]
    subject = make_subject(folder / "no_circuits", LORA, noise_shots=(10,))
    assert "no circuits" in measure_noise(subject)["left_out"]
