"""Rank of the update, forgetting and gradients of the angles are what their names say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from measured_runs import LORA, QTHA, TARGETS, logits, make_subject
from torch import Tensor

from qpeft.errors import StudyError
from qpeft.study.measures.angle_gradients import measure_angle_gradients, training_batch
from qpeft.study.measures.effective_rank import (
    compressed,
    effective_rank,
    measure_effective_rank,
)
from qpeft.study.measures.forgetting import base_texts, measure_forgetting
from qpeft.study.measures.subject import Subject, circuits_of, qtha_adapters
from qpeft.training.losses import completion_loss_sum


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def qtha(folder: Path) -> Subject:
    return make_subject(folder / "qtha", QTHA)


@pytest.fixture(scope="module")
def lora(folder: Path) -> Subject:
    return make_subject(folder / "lora", LORA)


def test_effective_rank_is_that_of_the_definition() -> None:
    matrix = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).double()
    values = torch.linalg.svdvals(matrix)
    shares = values / values.sum()
    wanted = math.exp(-float((shares * shares.log()).sum()))
    assert effective_rank(matrix) == pytest.approx(wanted, rel=1e-9)
    assert effective_rank(matrix.mT) == pytest.approx(wanted, rel=1e-9)
    assert effective_rank(torch.zeros(3, 4)) == 0
    assert effective_rank(torch.outer(torch.arange(1.0, 4), torch.ones(6))) == pytest.approx(1)


def test_lora_of_rank_one_has_effective_rank_one(folder: Path) -> None:
    found = measure_effective_rank(make_subject(folder / "one", {**LORA, "r": 1}))
    assert found["mean"] == pytest.approx(1, abs=1e-6)
    assert len(found["modules"]) == 4
    assert found["by_layer"].keys() == {"0", "1"}
    assert found["n_rows"] >= 60


def test_a_low_rank_update_has_at_most_its_rank(lora: Subject, qtha: Subject) -> None:
    for subject in (lora, qtha):
        assert all(1 < one["rank"] <= 2 for one in measure_effective_rank(subject)["modules"])


def test_effective_rank_is_that_of_lora_s_matrices_on_the_same_rows(lora: Subject) -> None:
    seen: dict[str, Tensor] = {}
    layers = {n: m for n, m in lora.model.named_modules() if n.split(".")[-1] in TARGETS}
    handles = [
        layer.register_forward_hook(lambda _m, args, _o, n=n: seen.__setitem__(n, args[0]))
        for n, layer in layers.items()
    ]
    found = measure_effective_rank(lora)
    for handle in handles:
        handle.remove()
    for one in found["modules"]:
        layer: Any = layers[one["module"]]
        x = seen[one["module"]].flatten(0, 1).double()
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        wanted = effective_rank((x @ down.double().mT @ up.double().mT).detach())
        assert one["rank"] == pytest.approx(wanted, abs=0.02)  # theirs has padding's rows too


def test_a_neutral_adapter_has_rank_zero(folder: Path) -> None:
    subject = make_subject(folder / "neutral", {**LORA, "init_lora_weights": True})
    assert measure_effective_rank(subject)["mean"] == 0


def test_scaling_and_prompt_methods_are_measured_or_left_out(folder: Path) -> None:
    factors = {"method": "ia3", "target_modules": TARGETS, "feedforward_modules": []}
    scaled = make_subject(folder / "ia3", {**factors, "init_ia3_weights": False})
    assert measure_effective_rank(scaled)["mean"] > 1
    prompt = make_subject(folder / "prompt", {"method": "prompt_tuning", "num_virtual_tokens": 2})
    assert "single layers" in measure_effective_rank(prompt)["left_out"]
    assert measure_forgetting(prompt)["divergence"] > 0


def test_a_neutral_adapter_forgets_nothing(folder: Path) -> None:
    found = measure_forgetting(
        make_subject(folder / "neutral_qtha", {**QTHA, "init_weights": True})
    )
    assert found["difference"] == found["divergence"] == found["standard_error"] == 0
    assert found["with_adapter"] == found["without_adapter"] > 0


def test_forgetting_is_the_difference_of_two_losses(qtha: Subject) -> None:
    found = measure_forgetting(qtha)
    rows = base_texts(qtha)

    def mean_loss() -> float:
        losses = []
        for read, scored in rows:
            labels = torch.tensor([[-100] * len(read) + scored])
            ids = torch.tensor([read + scored])
            with torch.no_grad():
                losses.append(float(qtha.model(input_ids=ids, labels=labels).loss) * len(scored))
        return sum(losses) / sum(len(scored) for _, scored in rows)

    with_adapter = mean_loss()
    with qtha.model.disable_adapter():
        without = mean_loss()
    assert found["with_adapter"] == pytest.approx(with_adapter, abs=1e-5)
    assert found["without_adapter"] == pytest.approx(without, abs=1e-5)
    assert found["difference"] == pytest.approx(with_adapter - without, abs=1e-5)
    assert found["difference"] > 0
    assert found["n_tokens"] == sum(len(scored) for _, scored in rows)


def test_the_base_model_s_texts_are_drawn_from_its_whole_distribution(folder: Path) -> None:
    subject = make_subject(folder / "many", QTHA, n_forgetting_texts=256, forgetting_tokens=16)
    found = measure_forgetting(subject)
    # Drawn so, the loss exceeds the other by the divergence, but for the luck of the draw.
    assert found["difference"] == pytest.approx(
        found["divergence"], abs=4 * found["standard_error"]
    )
    assert found["standard_error"] < 0.2 * found["difference"]


def test_all_arms_read_the_same_texts_from_the_cache(
    folder: Path, tmp_path: Path, qtha: Subject, lora: Subject
) -> None:
    texts = []
    for name, options in (("qtha", QTHA), ("lora", LORA)):
        subject = make_subject(folder / f"cached_{name}", options, cache_folder=tmp_path / "cache")
        texts.append(base_texts(subject))
    assert texts[0] == texts[1] == base_texts(qtha) == base_texts(lora)
    (file,) = (tmp_path / "cache").glob("*.json")
    assert [[read, scored] for read, scored in texts[0]] == json.loads(file.read_text())["rows"]


def test_a_text_file_can_take_their_place(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "general.txt"
    file.write_text("Question: 17 + 42\nAnswer: 59 and so on. " * 40)
    found = measure_forgetting(make_subject(folder / "file", QTHA, forgetting_file=file))
    assert (found["text"], found["n_texts"], found["n_tokens"]) == ("general.txt", 4, 48)
    short = tmp_path / "short.txt"
    short.write_text("a")
    with pytest.raises(StudyError, match="give at least 13"):
        measure_forgetting(make_subject(folder / "short", QTHA, forgetting_file=short))


def test_a_dead_ring_gets_no_gradient_and_the_rest_does(folder: Path) -> None:
    subject = make_subject(folder / "gradients", {**QTHA, "ansatz": "reupload_v1"})
    before = logits(subject)
    found = measure_angle_gradients(subject)
    assert torch.equal(logits(subject), before)
    trained = found["trained"]
    # Its last ring stands before nothing but the read-out.
    least = 1e-5 * trained["rms_angles"]
    gates = [(one["gate"], one["qubits"], one["rms"] > least) for one in trained["by_angle"]]
    assert gates[-2:] == [("CRZ", [0, 1], False), ("CRZ", [1, 0], False)]
    assert [is_alive for _, _, is_alive in gates[:-2]] == [True] * 6
    modules = trained["modules"]
    squares = sum(one["rms"] ** 2 * one["n_angles"] for one in modules)
    assert trained["norm_angles"] == pytest.approx(math.sqrt(squares))
    assert {(one["n_qubits"], one["n_angles"]) for one in modules} == {(2, 8)}
    assert trained["ratio"] == pytest.approx(trained["rms_angles"] / trained["rms_others"])
    # The fresh adapter of the same seed has other weights.
    assert found["fresh"]["loss"] != trained["loss"]
    assert found["fresh"]["norm_angles"] > 0


def test_the_norm_of_the_gradient_is_the_slope_along_it(folder: Path) -> None:
    subject = make_subject(folder / "slope", QTHA)
    found = measure_angle_gradients(subject)["trained"]
    cores = list(circuits_of(subject.model).values())
    ids, mask, labels = training_batch(subject)

    def loss() -> float:
        with torch.no_grad():
            total, n = completion_loss_sum(
                subject.model, {"input_ids": ids, "attention_mask": mask}, labels
            )
        return float(total / n)

    total, n = completion_loss_sum(
        subject.model, {"input_ids": ids, "attention_mask": mask}, labels
    )
    gradients = torch.autograd.grad(total / n, [core.angles for core in cores])
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    assert found["norm_angles"] == pytest.approx(norm, rel=1e-4)
    assert found["loss"] == pytest.approx(loss(), rel=1e-5)
    step = 0.05
    values = []
    for sign in (1, -2):
        for core, gradient in zip(cores, gradients, strict=True):
            core.angles.data.add_(sign * step / norm * gradient)
            core.run_on(core.evaluation)
        for adapter in qtha_adapters(subject.model).values():
            adapter.run_on(adapter.core.evaluation)
        values.append(loss())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=0.02)


def test_gradients_are_left_out_where_no_angle_is_trained(folder: Path, lora: Subject) -> None:
    assert "no circuits" in measure_angle_gradients(lora)["left_out"]
    frozen = make_subject(folder / "frozen", {**QTHA, "core": "frozen"})
    assert "does not train" in measure_angle_gradients(frozen)["left_out"]


@pytest.mark.parametrize("rank", [1, 8, 40])
def test_a_matrix_of_low_rank_keeps_its_singular_values_when_it_is_compressed(rank: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(300, rank).double() @ torch.randn(rank, 200).double()
    noisy = matrix + 1e-7 * torch.randn(300, 200)
    small = compressed(noisy, 1e-6 * math.sqrt(noisy.numel()))
    assert small.shape == (64, 200)
    assert effective_rank(small, 1e-5) == pytest.approx(effective_rank(noisy, 1e-5), rel=1e-6)


def test_a_matrix_of_many_directions_or_few_rows_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    for matrix in (torch.randn(300, 200).double(), torch.randn(100, 500).double()):
        assert compressed(matrix, 1e-6) is matrix
