"""A recipe whose circuits run on a machine: planned before, recorded, capped, killed and resumed without loss."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import make_recipe, make_tiny_model

from qpeft.errors import BudgetError, QpeftError
from qpeft.jobs import Journal, State, totals
from qpeft.recipe import Recipe
from qpeft.training import train
from qpeft.training.hardware_plan import plan_hardware
from qpeft.training.reporter import SilentReporter

N_BLOCKS = 2 * 2  # query and value projections of two layers
POINTS = 9  # circuits of two qubits
TRAIN_AND_DIE = """
import os, signal, sys
from qpeft.recipe import load_recipe
from qpeft.training import train
from qpeft.training.reporter import SilentReporter

class DyingReporter(SilentReporter):
    n_calls = 0
    def jobs(self, done, total, text):
        DyingReporter.n_calls += 1
        if DyingReporter.n_calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

train(load_recipe(sys.argv[1]), resume=True, reporter=DyingReporter())
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


def hardware_recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    adapter = {
        "method": "qtha",
        "r": 2,
        "inner_width": 16,
        "bond_dim": 2,
        "target_modules": ["q_proj", "v_proj"],
        "backend": "fake_remote",
        "backend_options": {"folder": str(folder / "machine"), "max_programs": 16},
        "shots": 200,
        "angle_gradient": "spsa",
        **changes.pop("adapter", {}),
    }
    jobs = {"journal": str(folder / "jobs.sqlite"), **changes.pop("jobs", {})}
    return make_recipe(folder, model, adapter=adapter, jobs=jobs, **changes)


class JobsHeard(SilentReporter):
    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def jobs(self, done: int, total: int, text: str) -> None:
        self.heard.append((done, total))


def sent_by(folder: Path) -> dict[str, int]:
    journal = Journal(folder / "jobs.sqlite")
    (total,) = totals(journal)
    journal.close()
    return {"circuits": total.sent.n_circuits, "jobs": total.sent.n_jobs}


def test_a_run_sends_what_its_plan_says(tmp_path: Path, model_folder: Path) -> None:
    """Training, validations and the evaluation; neither tokens nor validations add circuits."""
    recipe = hardware_recipe(tmp_path, model_folder)
    (plan,) = plan_hardware(recipe)
    (chosen,) = [strategy for strategy in plan.strategies if strategy.is_chosen]
    assert (chosen.gradient, chosen.angle_gradient) == ("surrogate", "spsa")
    assert chosen.step.circuits == N_BLOCKS * POINTS * 3
    assert chosen.step.jobs == 3 + 5  # 36 circuits and 72, at most 16 a job
    reporter = JobsHeard()
    result = train(recipe, reporter=reporter)
    assert chosen.total.circuits == 6 * N_BLOCKS * POINTS * 3 + N_BLOCKS * POINTS
    # The last core starts at zero: the first step has no gradient for the angles and leaves them as they are.
    assert sent_by(tmp_path) == {
        "circuits": chosen.total.circuits - chosen.step.circuits,
        "jobs": chosen.total.jobs - chosen.step.jobs,
    }
    assert reporter.heard[-1][0] == reporter.heard[-1][1]
    results = json.loads((result.output_dir / "results.json").read_text())
    (recorded,) = results["arms"]["qtha"]["jobs"]
    assert recorded["sent"]["n_circuits"] == chosen.total.circuits - chosen.step.circuits


def test_the_plan_shows_every_gradient_side_by_side(tmp_path: Path, model_folder: Path) -> None:
    (plan,) = plan_hardware(hardware_recipe(tmp_path, model_folder))
    found = {(s.gradient, s.angle_gradient): s.step.circuits for s in plan.strategies}
    n_tokens = plan.n_tokens
    assert found == {
        ("surrogate", "parameter_shift"): N_BLOCKS * POINTS * (1 + 4 * 2 + 4 * 4),
        ("surrogate", "spsa"): N_BLOCKS * POINTS * 3,
        ("surrogate", "straight_through"): N_BLOCKS * POINTS,
        ("parameter_shift", None): N_BLOCKS * n_tokens * (1 + 6 * 2 + 4 * 4),
        ("spsa", None): N_BLOCKS * n_tokens * 3,
        ("straight_through", None): N_BLOCKS * n_tokens,
    }
    assert not (tmp_path / "jobs.sqlite").exists()  # nothing was sent


def test_a_plan_without_a_machine_says_so(tmp_path: Path, model_folder: Path) -> None:
    recipe = hardware_recipe(
        tmp_path,
        model_folder,
        adapter={"backend": "exact", "backend_options": None, "shots": None},
    )
    with pytest.raises(QpeftError, match="No adapter of this recipe sends anything"):
        plan_hardware(recipe)


def test_a_cap_ends_a_run_before_it_is_passed_and_raising_it_goes_on(
    tmp_path: Path, model_folder: Path
) -> None:
    cap = N_BLOCKS * POINTS * (1 + 2 + 3 + 3)  # steps one and two share a forward pass
    with pytest.raises(BudgetError, match=f"passes the cap max_circuits={cap}"):
        train(hardware_recipe(tmp_path, model_folder, jobs={"max_circuits": cap}))
    assert sent_by(tmp_path)["circuits"] == cap
    train(hardware_recipe(tmp_path, model_folder), resume=True)
    whole = 5 * N_BLOCKS * POINTS * 3 + N_BLOCKS * POINTS
    assert sent_by(tmp_path)["circuits"] == whole


@pytest.mark.parametrize(
    "dies_at",
    [30, pytest.param(7, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.slow)],
)
def test_a_killed_run_resumes_to_the_same_adapter_and_sends_nothing_twice(
    dies_at: int, tmp_path: Path, model_folder: Path
) -> None:
    """SIGKILL among the jobs of a step; the resumed run's numbers are those of one that was never killed."""
    whole = tmp_path / "whole"
    whole.mkdir()
    train(hardware_recipe(whole, model_folder))
    recipe = hardware_recipe(tmp_path, model_folder)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    words = [sys.executable, "-c", TRAIN_AND_DIE, str(path), str(dies_at)]
    killed = subprocess.run(words, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    train(recipe, resume=True)
    assert sent_by(tmp_path) == sent_by(whole)
    journal = Journal(tmp_path / "jobs.sqlite")
    assert {row.state for row in journal.rows()} == {State.FINISHED}
    journal.close()
    ours, theirs = (
        (folder / "run" / "qtha" / "adapter_model.safetensors").read_bytes()
        for folder in (tmp_path, whole)
    )
    assert ours == theirs


def test_a_machine_that_cannot_be_used_is_told_before_anything_is_loaded(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QPEFT_ORIGIN_API_KEY", "ORIGIN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    adapter = {"backend": "origin", "backend_options": None}
    recipe = hardware_recipe(tmp_path, model_folder, adapter=adapter)
    with pytest.raises(QpeftError, match="needs an API key, and none is set"):
        train(recipe)
    recipe = hardware_recipe(tmp_path, model_folder, adapter={"shots": None, **adapter})
    with pytest.raises(QpeftError, match="needs a number of shots"):
        train(recipe)
    assert not (tmp_path / "run").exists()
