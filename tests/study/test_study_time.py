"""A study's time is guessed from a pass of the base model, as long as no job of a kind is done."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_study import write_study

from qpeft.recipe import ModelSpec
from qpeft.study import pace
from qpeft.study.estimate import START_SECONDS, estimate_seconds, guess_seconds, guessed_kinds
from qpeft.study.pace import Pace, measure_pace
from qpeft.study.plan import Job, StudyPlan, plan_study
from qpeft.study.reading import load_study
from qpeft.study.running import done_so_far
from qpeft.training.models import load_base
from qpeft.training.record import write_json

PASS, TOKEN = 0.5, 0.01
"""Seconds that a pass and each of its tokens take in these tests."""


@pytest.fixture(scope="module")
def make_plan(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., StudyPlan]:
    def make(**changes: Any) -> StudyPlan:
        file = write_study(tmp_path_factory.mktemp("time"), **changes)
        return replace(plan_study(load_study(file)), pace=Pace(PASS, TOKEN))

    return make


def job(plan: StudyPlan, folder: str) -> Job:
    return next(one for one in plan.jobs if str(one.folder) == folder)


def test_a_guess_is_the_passes_of_a_job_at_the_pace_of_the_base_model(
    make_plan: Callable[..., StudyPlan],
) -> None:
    plan = make_plan(tuning={"learning_rates": [0.01], "steps": 3})
    tokens = plan.task("sums").tokens  # of an example
    step = 3 * (PASS + round(4 * tokens) * TOKEN)
    validation = PASS + 6 * tokens * TOKEN
    reading, writing = PASS + 10 * tokens * TOKEN, PASS + 10 * TOKEN
    answers = 2 * reading + 4 * writing
    assert guess_seconds(plan, job(plan, "sums/base")) == pytest.approx(START_SECONDS + answers)
    trial = START_SECONDS + 3 * step + validation
    assert guess_seconds(plan, job(plan, "sums/lora/trials/lr0.01")) == pytest.approx(trial)
    # Two texts of eight tokens with the adapter and without, and 32 rows for the ranks.
    forgetting_and_rows = PASS + (2 * 2 * 8 + 32) * TOKEN
    run = START_SECONDS + 6 * step + 2 * validation + answers + forgetting_and_rows
    assert guess_seconds(plan, job(plan, "sums/lora/seed0")) == pytest.approx(run)
    # The core is ablated on all ten test examples.
    assert guess_seconds(plan, job(plan, "sums/qtha/seed0")) == pytest.approx(run + 3 * answers)


def test_the_noise_picture_is_of_the_subject_and_every_number_of_shots_answers_anew(
    make_plan: Callable[..., StudyPlan],
) -> None:
    without = make_plan(evaluation={"n_shots": [0]})
    noisy = make_plan(
        evaluation={"n_shots": [0, 2]}, measures={"noise_error_scales": [0, 1], "noise_shots": [9]}
    )
    answers = guess_seconds(without, job(without, "sums/base")) - START_SECONDS
    for folder, n_more in (("sums/base", 1), ("sums/lora/seed0", 1), ("sums/qtha/seed0", 4)):
        more = guess_seconds(noisy, job(noisy, folder)) - guess_seconds(
            without, job(without, folder)
        )
        assert more == pytest.approx(n_more * answers)


def test_a_run_that_takes_over_a_trials_adapter_is_not_charged_for_its_training(
    make_plan: Callable[..., StudyPlan],
) -> None:
    plan = make_plan(tuning={"learning_rates": [0.01], "seed": 1})
    own, taken = (guess_seconds(plan, job(plan, f"sums/lora/seed{seed}")) for seed in (0, 1))
    trial = guess_seconds(plan, job(plan, "sums/lora/trials/lr0.01"))
    assert own - taken == pytest.approx(trial - START_SECONDS)
    untuned = make_plan()
    own, other = (guess_seconds(untuned, job(untuned, f"sums/lora/seed{seed}")) for seed in (0, 1))
    assert own == other


def test_the_guess_is_within_a_factor_of_two_of_what_was_measured(
    make_plan: Callable[..., StudyPlan],
) -> None:
    """SmolLM2-135M on one thread: 60 steps of 12 examples took about 85 s, 500 answers about 50 s."""
    plan = make_plan(
        training={"steps": 60, "batch_size": 12},
        evaluation={"max_new_tokens": 8, "batch_size": 100},
        measures={"n_forgetting_texts": 0, "n_rows": 0},
    )
    (task,) = plan.tasks
    splits = replace(task.splits, test=task.splits.test * 50, validation=[])
    parity = tuple(replace(row, tokens=11568) for row in plan.parity)
    measured = Pace(0.094, 0.0028)  # what `measure_pace` found there, beside two workers
    tasks = (replace(task, splits=splits, tokens=16.0),)
    plan = replace(plan, tasks=tasks, parity=parity, pace=measured)
    answers = guess_seconds(plan, job(plan, "sums/base")) - START_SECONDS
    training = guess_seconds(plan, job(plan, "sums/lora/seed0")) - START_SECONDS - answers
    assert 0.5 < answers / 50 < 2
    assert 0.5 < training / 85 < 2


def test_measured_times_take_the_place_of_the_guess_kind_by_kind(
    make_plan: Callable[..., StudyPlan],
) -> None:
    plan = make_plan(tuning={"learning_rates": [0.01]}, seeds=[0])
    folder = plan.spec.output_dir
    states = done_so_far(plan)
    assert guessed_kinds(folder, states) == ["base", "trial", "run"]
    guesses = {one: guess_seconds(plan, one) for one in plan.jobs}
    assert estimate_seconds(plan, folder, states, 1) == pytest.approx(sum(guesses.values()))
    # Workers beyond the number of jobs do nothing.
    for n_workers, n_busy in ((2, 2), (50, len(plan.jobs))):
        whole = estimate_seconds(plan, folder, states, n_workers)
        assert whole == pytest.approx(sum(guesses.values()) / n_busy)
    done = job(plan, "sums/lora/trials/lr0.01")
    (folder / done.folder).mkdir(parents=True)
    write_json(folder / done.folder / "status.json", {"status": "succeeded", "seconds_before": 7.0})
    states = done_so_far(plan)
    assert guessed_kinds(folder, states) == ["base", "run"]
    left = sum(guesses[one] for one in plan.jobs if one.kind != "trial")
    assert estimate_seconds(plan, folder, states, 1) == pytest.approx(left + 7.0)


class _FakeClock:
    """A clock that a model's passes move: a second each, a tenth a token, and a minute where memory is cold."""

    def __init__(self) -> None:
        self.now = 0.0
        self.n_tokens: list[int] = []
        self.n_threads: set[int] = set()

    def see(self, _model: Any, _args: Any, inputs: dict[str, Any]) -> None:
        n = inputs["input_ids"].numel()
        self.now += 1 + 0.1 * n + (0 if n in self.n_tokens else 60)
        self.n_tokens.append(n)
        self.n_threads.add(torch.get_num_threads())


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, _FakeClock]]:
    write_study(tmp_path)
    model, _ = load_base(ModelSpec(name=str(tmp_path / "model")))
    clock = _FakeClock()
    model.register_forward_pre_hook(clock.see, with_kwargs=True)
    monkeypatch.setattr(pace.time, "process_time", lambda: clock.now)
    monkeypatch.setattr(pace, "PATIENCE_SECONDS", math.inf)
    n_threads = torch.get_num_threads()
    yield model, clock
    torch.set_num_threads(n_threads)


def test_a_pace_tells_the_cost_of_a_pass_from_that_of_its_tokens(
    timed: tuple[Any, _FakeClock],
) -> None:
    model, clock = timed
    torch.set_num_threads(2)
    model.train()
    found = measure_pace(model, [([5, 6, 7], [8, 9])] * 4, pad=0)
    assert found.seconds_per_pass == pytest.approx(1.0)
    assert found.seconds_per_token == pytest.approx(0.1)
    assert found.seconds(30, 2) == pytest.approx(5.0)
    assert clock.n_tokens == [2] * 4 + [20] * 4
    # As a worker has it, and then as it was.
    assert clock.n_threads == {1}
    assert torch.get_num_threads() == 2
    assert model.training


def test_padding_makes_the_tokens_of_a_batch_dearer(timed: tuple[Any, _FakeClock]) -> None:
    model, _ = timed
    uneven = measure_pace(model, [([5, 6, 7], [8, 9]), ([5], [6])], pad=0)
    assert uneven.seconds_per_token == pytest.approx(0.8 / 5)  # of 10 places 7 are tokens


def test_a_slow_model_is_timed_on_few_rows_and_once(
    timed: tuple[Any, _FakeClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clock = timed
    monkeypatch.setattr(pace, "MAX_WORK", 12 * model.num_parameters())
    monkeypatch.setattr(pace, "PATIENCE_SECONDS", 0.0)
    measure_pace(model, [([5, 6, 7], [8, 9])] * 4, pad=0)
    assert clock.n_tokens == [2, 10]
    # One row is always read, however long.
    monkeypatch.setattr(pace, "MAX_WORK", 1.0)
    measure_pace(model, [([5, 6, 7], [8, 9])] * 4, pad=0)
    assert clock.n_tokens[2:] == [2, 5]
