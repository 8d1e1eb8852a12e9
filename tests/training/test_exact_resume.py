"""A run that is stopped anywhere and resumed equals one that was never stopped, bit for bit on a CPU.

Dropout, shuffled data past the end of an epoch, gradient accumulation, warm-up and a schedule, validations in the
middle: all of it goes on where it was. `test_run.py` has Ctrl-C, `test_processes.py` has several processes.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_recipe, make_tiny_model

from qpeft.recipe import Recipe
from qpeft.training import train
from qpeft.training.reporter import SilentReporter

ADAPTER = {
    "method": "qtha",
    "r": 4,
    "inner_width": 16,
    "bond_dim": 2,
    "dropout": 0.2,
    "target_modules": ["q_proj", "v_proj"],
}
# 14 steps of 8 rows: the order of the 44 rows is drawn three times.
TRAINING = {
    "steps": 14,
    "gradient_accumulation": 2,
    "schedule": "cosine",
    "warmup_steps": 3,
    "evaluate_every": 3,
    "save_every": 4,
}
TRAIN_AND_DIE = """
import os, signal, sys
from qpeft.recipe import load_recipe
from qpeft.training import train
from qpeft.training.reporter import SilentReporter

class Dying(SilentReporter):
    def step(self, step, n_steps, loss, learning_rate):
        if step == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

train(load_recipe(sys.argv[1]), reporter=Dying())
"""


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class Steps(SilentReporter):
    """Remembers the steps, and interrupts in the one after a certain one."""

    def __init__(self, interrupts_in: int = 0) -> None:
        self.steps: list[int] = []
        self._last = interrupts_in

    def step(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        self.steps.append(step)
        if step + 1 == self._last:
            signal.raise_signal(signal.SIGINT)


def recipe_in(folder: Path, model: Path, training: dict[str, Any]) -> Recipe:
    folder.mkdir()
    return make_recipe(folder, model, adapter=ADAPTER, training=training)


def metrics(recipe: Recipe) -> list[dict[str, Any]]:
    lines = (recipe.output_dir / "qtha" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same(one: Recipe, other: Recipe) -> None:
    assert metrics(one) == metrics(other)
    found, expected = (
        load_file(recipe.output_dir / "qtha" / "adapter_model.safetensors")
        for recipe in (one, other)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_a_run_that_was_killed_ends_like_one_that_was_not(
    tmp_path: Path, model_folder: Path
) -> None:
    whole = recipe_in(tmp_path / "whole", model_folder, TRAINING)
    train(whole)
    killed = recipe_in(tmp_path / "killed", model_folder, TRAINING)
    path = tmp_path / "recipe.yaml"
    path.write_text(killed.to_yaml(), encoding="utf-8")
    words = [sys.executable, "-c", TRAIN_AND_DIE, str(path), "11"]
    done = subprocess.run(words, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    steps = Steps()
    train(killed, resume=True, reporter=steps)
    assert steps.steps == [9, 10, 11, 12, 13, 14]
    assert_same(killed, whole)


@pytest.mark.parametrize("step", [2, 6])
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    step: int, tmp_path: Path, model_folder: Path
) -> None:
    """In the warm-up, and in a step that a validation follows."""
    whole = recipe_in(tmp_path / "whole", model_folder, TRAINING)
    train(whole)
    parted = recipe_in(tmp_path / "parted", model_folder, TRAINING)
    assert train(parted, reporter=Steps(interrupts_in=step)).is_interrupted
    assert not train(parted, resume=True).is_interrupted
    assert_same(parted, whole)


@pytest.mark.parametrize("n_after_best", [2, 3, 4])
def test_early_stopping_goes_on_counting_where_it_was(
    n_after_best: int, tmp_path: Path, model_folder: Path
) -> None:
    """At the first validation that is no better, between it and the second, and at that, which ends the run."""
    stopping = {
        **TRAINING,
        "steps": 40,
        "learning_rate": 0.3,
        "schedule": "constant",
        "evaluate_every": 2,
        "early_stopping": 2,
    }
    whole = recipe_in(tmp_path / "whole", model_folder, stopping)
    train(whole)
    checked = {
        row["step"]: row["validation_loss"] for row in metrics(whole) if "validation_loss" in row
    }
    best = min(checked, key=lambda step: checked[step])
    assert max(checked) == best + 4 < 40
    parted = recipe_in(tmp_path / "parted", model_folder, stopping)
    assert train(parted, reporter=Steps(interrupts_in=best + n_after_best)).is_interrupted
    assert not train(parted, resume=True).is_interrupted
    assert_same(parted, whole)
