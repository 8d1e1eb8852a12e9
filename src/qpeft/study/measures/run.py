"""All measures of one trained adapter."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qpeft.recipe import Recipe
from qpeft.study.measures.angle_gradients import measure_angle_gradients
from qpeft.study.measures.branch import measure_branch
from qpeft.study.measures.effective_rank import measure_effective_rank
from qpeft.study.measures.forgetting import measure_forgetting
from qpeft.study.measures.noise import measure_noise
from qpeft.study.measures.spec import MeasureSpec
from qpeft.study.measures.subject import Subject, left_out, load_subject


def measure_run(run_folder: Path, recipe: Recipe, arm: str, spec: MeasureSpec) -> dict[str, Any]:
    """Measure a trained adapter.

    Args:
        run_folder: The folder of a finished run.
        recipe: Its resolved recipe.
        arm: The label of the adapter in it.
        spec: What to measure, and how thoroughly.

    Returns:
        JSON data; the table in `qpeft.study.measures` says what each key is. Numbers that are not finite are None.

    Raises:
        StudyError: There is no such finished adapter, or a text file of the spec cannot be used.
    """
    subject = load_subject(run_folder, recipe, arm, spec)
    weights = [*subject.folder.glob("adapter_model.*")]
    found: dict[str, Any] = {"adapter_bytes": sum(file.stat().st_size for file in weights)}
    seconds: dict[str, float] = {}
    for name, measure in _MEASURES.items():
        began = time.monotonic()
        found[name] = measure(subject)
        seconds[name] = round(time.monotonic() - began, 3)
    result: dict[str, Any] = _finite({**found, "seconds": seconds})
    return result


def _rank_of(subject: Subject) -> dict[str, Any]:
    return measure_effective_rank(subject) if subject.spec.n_rows else left_out("n_rows is 0")


# The gradients come last: they take the adapter off and put it on again.
_MEASURES: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "forgetting": measure_forgetting,
    "branch": measure_branch,
    "effective_rank": _rank_of,
    "noise": measure_noise,
    "angle_gradients": measure_angle_gradients,
}


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
