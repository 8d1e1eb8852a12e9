"""A plan counts the arms on the real model and refuses what is not fair."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_study import LORA, QTHA, study_keys, write_study

from qpeft.errors import ConfigError, DataError, RecipeError, StudyError
from qpeft.recipe import AdapterSpec, ModelSpec
from qpeft.study.matching import match_lora
from qpeft.study.plan import StudyPlan, n_workers_for, plan_study
from qpeft.study.reading import load_study
from qpeft.training.methods import build_adapter_config
from qpeft.training.models import load_base
from qpeft.training.plan import count_adapter


def plan(folder: Path, **changes: Any) -> StudyPlan:
    return plan_study(load_study(write_study(folder, **changes)))


def test_the_parity_table_holds_what_every_arm_gets(tmp_path: Path) -> None:
    found = plan(tmp_path, tuning={"learning_rates": [0.01, 0.1]})
    lora, qtha = found.parity
    # q_proj is 32 -> 32 and v_proj 32 -> 16, on two layers.
    assert lora.parameters == 2 * 4 * (64 + 48)
    assert (lora.steps, lora.batch_size, lora.trials, lora.circuits) == (6, 4, 2, 0)
    assert (qtha.steps, qtha.batch_size, qtha.trials, qtha.tokens) == (6, 4, 2, lora.tokens)
    # One circuit for each of four adapted layers and each token of a step.
    assert qtha.circuits == 4 * qtha.tokens // 6


def test_jobs_are_the_base_the_trials_and_seed_after_seed_the_runs(tmp_path: Path) -> None:
    jobs = plan(tmp_path, tuning={"learning_rates": [0.01]}).jobs
    assert [str(job.folder) for job in jobs] == [
        "sums/base",
        "sums/lora/trials/lr0.01",
        "sums/qtha/trials/lr0.01",
        "sums/lora/seed0",
        "sums/qtha/seed0",
        "sums/lora/seed1",
        "sums/qtha/seed1",
    ]


def test_an_undeclared_difference_is_refused_with_both_numbers(tmp_path: Path) -> None:
    undeclared = {**QTHA, "differs": {}}
    slow = {**LORA, "name": "slow", "training": {"steps": 7, "schedule": "linear"}}
    with pytest.raises(StudyError) as caught:
        plan(tmp_path, arms=[LORA, undeclared, slow])
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "Arm 'qtha' has 480 trainable parameters on task 'sums', but 'lora', which it is compared "
        "with, has 896. Make them equal, or say why it may be so: "
        'differs: {parameters: "the reason"} in that arm.'
    )
    quantities = [line.split("differs: {")[1].split(":")[0] for line in lines]
    assert quantities == ["parameters", "tokens", "steps", "training"]


def test_a_declared_difference_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    same = {**LORA, "name": "same", "differs": {"steps": "it trains longer"}}
    with pytest.raises(StudyError, match="declares that its optimiser steps differ from those of"):
        plan(tmp_path, arms=[LORA, QTHA, same])


def test_a_control_has_the_subjects_size_or_is_refused(tmp_path: Path) -> None:
    control = {**QTHA, "name": "none", "core": "none", "control": True, "differs": {}}
    # Without its circuit the tiny subject has clearly fewer parameters.
    with pytest.raises(
        StudyError, match=r"Arm 'none' has .* but 'qtha', which it is compared with"
    ):
        plan(tmp_path, arms=[LORA, QTHA, control])
    frozen = {**QTHA, "name": "again", "control": True, "differs": {}}
    again = plan(tmp_path, arms=[LORA, QTHA, frozen]).parity[2]
    assert again.compared_with == "qtha"


def test_a_method_or_option_that_does_not_exist_is_named_with_its_arm(tmp_path: Path) -> None:
    wrong = [LORA, {**QTHA, "groupz": 2}, {"name": "x", "method": "lorra"}]
    with pytest.raises(RecipeError) as caught:
        plan(tmp_path, arms=wrong)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("arms.1.groupz")
    assert caught.value.problems[1].startswith("arms.2.method: no PEFT method is called 'lorra'.")


def test_matched_lora_has_the_number_of_parameters_and_even_strength(tmp_path: Path) -> None:
    write_study(tmp_path)
    model, _ = load_base(ModelSpec(name=str(tmp_path / "model")))
    adapter = AdapterSpec(method="lora", options={"target_modules": "all-linear"})
    cheapest = 32 + 16
    for target in (1100, 1733, 2500, 4001):
        matched = match_lora(model, adapter, target)
        config = build_adapter_config(matched)
        n = count_adapter(model, config).n_trainable
        assert target - cheapest < n <= target * 1.01
        assert matched.options["lora_alpha"] == matched.options["r"]
        assert matched.options.get("alpha_pattern") == matched.options.get("rank_pattern")


def test_ranks_that_are_left_over_are_spread_over_the_layers(tmp_path: Path) -> None:
    write_study(tmp_path)
    model, _ = load_base(ModelSpec(name=str(tmp_path / "model")))
    adapter = AdapterSpec(method="lora", options={"target_modules": ["k_proj", "v_proj"]})
    matched = match_lora(model, adapter, 6 * (32 + 16))
    raised = matched.options["rank_pattern"]
    assert {name.split(".")[2] for name in raised} == {"0", "1"}


def test_what_cannot_be_matched_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path)
    model, _ = load_base(ModelSpec(name=str(tmp_path / "model")))
    adapter = AdapterSpec(method="lora", options={"target_modules": ["q_proj"]})
    with pytest.raises(StudyError, match="LoRA of rank 1 has 128 parameters on these layers"):
        match_lora(model, adapter, 100)


def test_what_only_the_model_or_the_data_can_tell_is_told_with_the_arm_or_task(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match=r"^Arm 'qtha': target_modules: no module of the model"):
        plan(tmp_path, arms=[LORA, {**QTHA, "target_modules": ["nothing"]}])
    task = study_keys(tmp_path)["tasks"][0]
    for key, value in (("n_test", 10**6), ("prompt", "{nothing}")):
        with pytest.raises(DataError, match=r"^Task 'sums': data"):
            plan(tmp_path, tasks=[{**task, "data": {**task["data"], key: value}}])


def test_arms_that_match_each_other_are_refused(tmp_path: Path) -> None:
    pair = [
        {"name": a, "method": "lora", "target_modules": ["q_proj"], "match_parameters": b}
        for a, b in (("x", "y"), ("y", "x"))
    ]
    with pytest.raises(RecipeError, match="match each other's parameters"):
        plan(tmp_path, arms=[LORA, QTHA, *pair])


def test_workers_are_as_many_as_cores_and_memory_carry(tmp_path: Path) -> None:
    found = dataclasses.replace(plan(tmp_path), memory=2**30)
    assert n_workers_for(found, 8, 7 * 2**30) == 3
    assert n_workers_for(found, 2, 70 * 2**30) == 2
    assert n_workers_for(found, 2, 2**30) == 1


def test_the_type_of_the_weights_is_fixed_by_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is bf16 on one machine and fp32 on another: a study that moves must not mix them."""
    path = write_study(tmp_path, model={"dtype": "auto"})
    for has_bf16, dtype in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_bf16: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert plan_study(load_study(path)).spec.model.dtype == dtype
    assert plan_study(load_study(write_study(tmp_path))).spec.model.dtype == "fp32"
