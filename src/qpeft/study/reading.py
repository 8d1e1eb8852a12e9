"""Reading a study file: `--quick`, `--set`, shared data keys and paths, and every mistake at once."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qpeft.chips.calibration import PACKAGED, load_calibration
from qpeft.errors import ConfigError, RecipeError, did_you_mean
from qpeft.recipe import FileSplits
from qpeft.recipe_text import Key, apply_overrides, got, place, read_yaml
from qpeft.study.measures.spec import MeasureSpec
from qpeft.study.spec import StudySpec, TaskSpec, validate_study
from qpeft.study.spec_problems import arm_label
from qpeft.training.rows import nearest_file

_SHORT_FORMS = {"model": "name"}


def load_study(
    path: Path | str, overrides: Sequence[str] = (), *, is_quick: bool = False
) -> StudySpec:
    """Read a study file, apply its quick variant and the overrides, and check all of it.

    Relative paths of data, model and measures are taken from the study file's folder, `output_dir` from the
    current one; without `output_dir` it is `runs/<name of the study>`, with `-quick` behind it for the quick
    variant.

    Args:
        path: The YAML file.
        overrides: `key.path=value` each, the value written as in YAML; they have the last word.
        is_quick: Whether to put what stands below `quick` in place of other keys.

    Raises:
        RecipeError: The file is missing or not YAML, or keys or values are wrong; holds every problem found.

    Example:
        >>> load_study("studies/claims.yaml", is_quick=True).seeds  # doctest: +SKIP
        [0]
    """
    path = Path(path)
    raw = read_yaml(path, "study", "docs/study.md has one to start from")
    quick = raw.pop("quick", None)
    found: list[tuple[Key, str]] = []
    if is_quick:
        found += _apply_quick(raw, quick)
    sources, problems = apply_overrides(raw, overrides, _SHORT_FORMS)
    raw.setdefault("name", re.sub(r"[^\w.+-]+", "-", path.stem))
    folder = f"runs/{raw['name']}{'-quick' if is_quick else ''}"
    raw.setdefault("output_dir", folder)
    found += _share_data(raw)
    found += _measure_file_problems(raw, path.parent)
    spec, more = validate_study(raw)
    found += more
    problems += [f"{place(path, key, sources)}: {text}" for key, text in found]
    if problems or spec is None:
        raise RecipeError(dict.fromkeys(problems))
    return _resolve_paths(spec, path.parent)


def _apply_quick(raw: dict[str, Any], quick: Any) -> list[tuple[Key, str]]:
    """Put the quick variant in place; arms and tasks are chosen by name, mappings are merged."""
    if quick is None:
        return [(("quick",), "is not there; it holds the keys that --quick replaces")]
    if not isinstance(quick, Mapping):
        return [(("quick",), f"expected the keys that --quick replaces, got {got(quick)}")]
    found: list[tuple[Key, str]] = []
    for key, value in quick.items():
        if key not in ("arms", "tasks"):
            raw[key] = _merged(raw.get(key), value)
            continue
        if not isinstance(value, list):
            found.append((("quick", key), f"expected a list of names, got {got(value)}"))
            continue
        there = {arm_label(one): one for one in _listed(raw, key)}
        names = [str(name) for name in value]
        unknown = [name for name in names if name not in there]
        for name in unknown:
            hint = did_you_mean(name, map(str, there))
            found.append((("quick", key), f"none of the {key} is called '{name}'.{hint}"))
        if not unknown:  # else what is left would bring mistakes that are none
            raw[key] = [one for name, one in there.items() if name in names]
    return found


def _listed(raw: Mapping[str, Any], key: str) -> list[Any]:
    # What is no list is told by the check of the single key.
    found = raw.get(key)
    return found if isinstance(found, list) else []


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _share_data(raw: dict[str, Any]) -> list[tuple[Key, str]]:
    """Move the keys of the study's `data` into each task's, where the task does not say otherwise."""
    if "data" not in raw:
        return []
    shared = raw.pop("data")
    if not isinstance(shared, Mapping):
        return [(("data",), f"expected keys that all tasks share, got {got(shared)}")]
    for task in _listed(raw, "tasks"):
        if isinstance(task, dict) and isinstance(task.get("data"), Mapping):
            task["data"] = {**shared, **task["data"]}
    return []


def _measure_file_problems(raw: Mapping[str, Any], folder: Path) -> Iterator[tuple[Key, str]]:
    """Return what is wrong with the files of the measures, which are read only when the first run is trained."""
    measures = raw.get("measures")
    if not isinstance(measures, Mapping):
        return  # the check of the single key says so
    text, chip = measures.get("forgetting_file"), measures.get("noise_calibration")
    if isinstance(text, str):
        file = _in_folder(text, folder)
        if not file.is_file():
            yield ("measures", "forgetting_file"), f"no such file '{file}'.{nearest_file(file)}"
    if isinstance(chip, str) and chip not in PACKAGED:
        file, key = _in_folder(chip, folder), ("measures", "noise_calibration")
        if not file.is_file():
            hint = did_you_mean(chip, PACKAGED)
            yield key, f"neither a packaged calibration nor a file '{file}'.{hint}"
            return
        try:
            load_calibration(file)
        except (ConfigError, OSError, UnicodeDecodeError) as error:
            yield key, f"the file cannot be used. {error}"


def _in_folder(name: str | Path, folder: Path) -> Path:
    return Path(os.path.abspath(folder / Path(name).expanduser()))


def _resolve_paths(spec: StudySpec, folder: Path) -> StudySpec:
    name = spec.model.name
    local = folder / Path(name).expanduser()
    is_local = name.startswith((".", "~", "/")) or name.endswith(".gguf") or local.exists()
    model = {"name": os.path.abspath(local)} if is_local else {}
    template = spec.model.chat_template
    if template is not None and "{" not in template:  # not the template itself but its file
        model["chat_template"] = os.path.abspath(folder / template)
    jobs = spec.jobs
    if jobs is not None:
        jobs = jobs.model_copy(update={"journal": jobs.journal.expanduser().absolute()})
    return spec.model_copy(
        update={
            "model": spec.model.model_copy(update=model),
            "tasks": [_resolve_files(task, folder) for task in spec.tasks],
            "measures": _resolve_measures(spec.measures, folder),
            "jobs": jobs,
            "output_dir": Path(os.path.abspath(spec.output_dir)),
        }
    )


def _resolve_files(task: TaskSpec, folder: Path) -> TaskSpec:
    if task.data.files is None:
        return task
    files = {part: _in_folder(file, folder) for part, file in task.data.files if file is not None}
    data = task.data.model_copy(update={"files": FileSplits(**files)})
    return task.model_copy(update={"data": data})


def _resolve_measures(measures: MeasureSpec, folder: Path) -> MeasureSpec:
    paths: dict[str, Any] = {}
    if measures.forgetting_file is not None:
        paths["forgetting_file"] = _in_folder(measures.forgetting_file, folder)
    if measures.noise_calibration not in PACKAGED:
        paths["noise_calibration"] = str(_in_folder(measures.noise_calibration, folder))
    return measures.model_copy(update=paths)
