"""A trained run is measured whole, as JSON; what is not there or not wanted is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from measured_runs import LORA, QTHA, QUICK, make_run
from pydantic import ValidationError

import qpeft.study.measures
from qpeft.errors import StudyError
from qpeft.study.measures import MeasureSpec, measure_run
from qpeft.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


def test_a_trained_run_is_measured_as_json_with_the_keys_of_the_table(folder: Path) -> None:
    recipe = make_run(folder / "trained", {**QTHA, "init_weights": True})
    trained = recipe.model_copy(update={"output_dir": folder / "trained" / "again"})
    train(trained)
    spec = MeasureSpec(**QUICK, noise_error_scales=(1,), noise_shots=(100,))
    found = measure_run(trained.output_dir, trained, "qtha", spec)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    weights = trained.output_dir / "qtha" / "adapter_model.safetensors"
    assert found["adapter_bytes"] == weights.stat().st_size
    measures = ["forgetting", "branch", "effective_rank", "noise", "angle_gradients"]
    assert list(found["seconds"]) == measures
    assert not any("left_out" in found[name] for name in measures)
    results = json.loads((trained.output_dir / "results.json").read_text())
    (evaluation,) = results["arms"]["qtha"]["evaluations"]
    assert found["branch"]["unablated"] == {
        "accuracy": evaluation["accuracy"],
        "test_loss": pytest.approx(evaluation["loss"], abs=1e-6),
    }
    keys = {key for part in found.values() if isinstance(part, dict) for key in part}
    keys |= set(found["angle_gradients"]["trained"]) | set(found["branch"]["ablated"])
    assert not [key for key in keys - set(measures) if key not in str(qpeft.study.measures.__doc__)]


def test_what_is_not_wanted_costs_nothing(folder: Path) -> None:
    recipe = make_run(folder / "nothing", QTHA)
    spec = MeasureSpec(n_forgetting_texts=0, n_rows=0, n_branch_examples=0, has_gradients=False)
    found = measure_run(folder / "nothing" / "run", recipe, "qtha", spec)
    assert found["branch"] == {}
    names = ("forgetting", "effective_rank", "noise", "angle_gradients")
    assert all(found[name].keys() == {"left_out"} for name in names)


def test_a_missing_arm_or_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = make_run(folder / "missing", LORA)
    with pytest.raises(StudyError, match="no arm 'qtha'"):
        measure_run(folder / "missing" / "run", recipe, "qtha", MeasureSpec())
    with pytest.raises(StudyError, match="no finished adapter"):
        measure_run(tmp_path, recipe, "lora", MeasureSpec())


@pytest.mark.parametrize(
    "wrong", [{"n_row": 3}, {"noise_error_scales": (-1,)}, {"noise_shots": (0,)}]
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MeasureSpec(**wrong)
