"""Circuit angles can have a learning rate of their own, which the schedule and a resumed run keep."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_recipe, make_tiny_model
from torch import Tensor

from qpeft.recipe import Recipe
from qpeft.training import train
from qpeft.training.reporter import SilentReporter

ADAPTER = {"method": "qtha", "r": 4, "inner_width": 16, "bond_dim": 2, "target_modules": ["q_proj"]}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class InterruptsInStep(SilentReporter):
    def __init__(self, step: int) -> None:
        self._step = step

    def step(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        if step + 1 == self._step:
            signal.raise_signal(signal.SIGINT)


def recipe_in(folder: Path, model: Path, ratio: float | None) -> Recipe:
    folder.mkdir()
    training = {"steps": 6, "schedule": "cosine", "save_every": 2, "angle_rate_ratio": ratio}
    return make_recipe(folder, model, adapter=ADAPTER, training=training)


def weights_of(recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the trained angles, and all other weights."""
    found = load_file(recipe.output_dir / "qtha" / "adapter_model.safetensors")
    angles = {name: value for name, value in found.items() if "angles" in name}
    assert len(angles) == 2
    return angles, {name: value for name, value in found.items() if name not in angles}


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_ratio_moves_the_angles_so_much_more_or_less(tmp_path: Path, model_folder: Path) -> None:
    ratios = {"none": None, "one": 1.0, "still": 1e-9, "fast": 5.0}
    recipes = {name: recipe_in(tmp_path / name, model_folder, r) for name, r in ratios.items()}
    for recipe in recipes.values():
        train(recipe)
    angles = {name: weights_of(recipe)[0] for name, recipe in recipes.items()}
    others = {name: weights_of(recipe)[1] for name, recipe in recipes.items()}
    assert largest_difference(angles["one"], angles["none"]) < 1e-6
    assert largest_difference(others["one"], others["none"]) < 1e-6
    # Those that stand still are those of the start.
    moved = largest_difference(angles["none"], angles["still"])
    assert moved > 1e-4
    assert 3 < largest_difference(angles["fast"], angles["still"]) / moved < 7
    assert largest_difference(others["still"], others["none"]) < 0.5 * moved
    logged = [
        [json.loads(line)["learning_rate"] for line in lines if "learning_rate" in line]
        for name in ("none", "fast")
        for lines in [
            (recipes[name].output_dir / "qtha" / "metrics.jsonl").read_text().splitlines()
        ]
    ]
    assert logged[0] == logged[1]


def test_a_resumed_run_keeps_the_angles_rate(tmp_path: Path, model_folder: Path) -> None:
    whole = recipe_in(tmp_path / "whole", model_folder, 5.0)
    train(whole)
    parted = recipe_in(tmp_path / "parted", model_folder, 5.0)
    assert train(parted, reporter=InterruptsInStep(4)).is_interrupted
    train(parted, resume=True)
    for one, other in zip(weights_of(whole), weights_of(parted), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_adapter_without_circuits_trains_as_ever(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "lora").mkdir()
    training = {"steps": 2, "angle_rate_ratio": 5.0}
    recipe = make_recipe(tmp_path / "lora", model_folder, training=training)
    train(recipe)
    assert (recipe.output_dir / "lora" / "adapter_model.safetensors").exists()
