"""A study's folder: what is in it, and whose it is.

    study.yaml                             the study file as it was read, defaults included
    study.json                             what was planned: arms on the real model, tasks, versions, commands
    <task>/data/                           training and validation examples, which is all that trials see
    <task>/base/                           the base model's answers
    <task>/<arm>/trials/lr<rate>/          a trial of a learning rate
    <task>/<arm>/seed<k>/                  a run, as `qpeft train` makes it
    .../job.json, status.json, log.txt     of each of these, see `qpeft.study.job_folder`
    .../measures.json                      of a run: what was measured of its adapter
    ansatzes.json, rows.csv, scores.csv    see `qpeft.study.record`
    method_comparison/                     see `qpeft.study.method_comparison`

Files are written whole, so a study that was stopped anywhere goes on from there.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qpeft.errors import StudyError
from qpeft.study.job_folder import flat, place_free, place_free_measures, read_json
from qpeft.study.plan import Job, StudyPlan
from qpeft.study.spec import StudySpec
from qpeft.training.record import describe_provenance, write_json, write_jsonl, write_text

_LOCK = ".lock"
_ELSEWHERE = "Choose another folder with --set output_dir=..."
# Keys of a study that may change while it goes on: they change no number.
_FREE = ("evaluation.batch_size", "title")


def open_study(plan: StudyPlan, *, is_quick: bool) -> Path:
    """Make the folder of a study, or take it up again, and return it; `study_lock` comes before.

    Args:
        plan: What is to be done.
        is_quick: Whether it is the quick variant.

    Raises:
        StudyError: The folder holds another study, or something else.
    """
    folder = plan.spec.output_dir
    check_folder(plan, is_quick=is_quick)
    sessions: list[dict[str, Any]] = []
    if (folder / "study.json").exists():
        sessions = read_json(folder / "study.json")["sessions"]
    # The seed and the data belong to the single runs, which write them down themselves.
    recipe = plan.spec.recipe(
        plan.spec.tasks[0], plan.spec.arms[0], plan.arms[0].adapter, plan.spec.seeds[0], folder
    )
    session = describe_provenance(recipe, {})
    del session["n_threads"]  # of this process, which trains nothing
    sessions.append(session)
    write_text(folder / "study.yaml", plan.spec.to_yaml())
    write_json(
        folder / "study.json",
        {
            "is_quick": is_quick,
            "n_base": plan.n_base,
            "identity": _identity(plan, is_quick),
            "arms": {arm.name: _arm(plan, arm.name) for arm in plan.arms},
            "tasks": {task.name: _task(plan, task.name) for task in plan.tasks},
            "parity": [asdict(row) for row in plan.parity],
            "sessions": sessions,
        },
    )
    if plan.spec.tuning.learning_rates:
        for task in plan.tasks:
            _write_trial_data(folder / task.name / "data", plan, task.name)
    return folder


def check_folder(plan: StudyPlan, *, is_quick: bool) -> None:
    """Raise if the folder of a study cannot be its own; nothing is written.

    Args:
        plan: What is to be done.
        is_quick: Whether it is the quick variant.

    Raises:
        StudyError: The folder holds another study, or something else; names the keys that differ.
    """
    folder = plan.spec.output_dir
    if (folder / "study.json").exists():
        identity = json.loads(json.dumps(_identity(plan, is_quick)))
        _check_same(folder, read_json(folder / "study.json")["identity"], identity)
    elif folder.is_dir() and any(file.name != _LOCK for file in folder.iterdir()):
        raise StudyError(f"{folder} holds something, but no study. {_ELSEWHERE}")


def study_lock(folder: Path) -> FileLock:
    """Return the lock that keeps a second process from working on the same study, taken.

    Raises:
        StudyError: Another process has it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise StudyError(
            f"Another process is at work on the study in {folder}. Wait for it or stop it first."
        ) from None
    except OSError as error:
        raise StudyError(
            f"{folder} cannot be made or written to ({error.strerror}). {_ELSEWHERE}"
        ) from error
    return lock


def trial_data(folder: Path, job: Job) -> dict[str, Any]:
    """Return the `data` of a trial's recipe: the task's examples without those of the test.

    Args:
        folder: The study's.
        job: The trial.
    """
    data = folder / job.task / "data"
    files = {"train": str(data / "train.jsonl"), "validation": str(data / "validation.jsonl")}
    return {"files": files, "format": "prompt_completion"}


def _identity(plan: StudyPlan, is_quick: bool) -> dict[str, Any]:
    """Return what makes the study this one and no other."""
    spec: StudySpec = plan.spec
    whole = spec.model_dump(mode="json", exclude={"output_dir", "name", "jobs"})
    arms = {
        arm.label: {
            **{k: v for k, v in arm.model_dump(mode="json").items() if k != "differs"},
            **plan.arm(arm.label).adapter.model_dump(mode="json"),
        }
        for arm in spec.arms
    }
    tasks = {
        task.name: {
            **task.model_dump(
                mode="json",
                exclude={"title": True, "name": True, "data": {"files"}},
            ),
            "hashes": sorted(plan.task(task.name).splits.hashes.values()),
        }
        for task in spec.tasks
    }
    seeds = {str(seed): {"seed": seed} for seed in spec.seeds}
    model = {
        **whole["model"],
        "name": place_free(spec.model.name),
        "n_parameters": plan.n_base,
        "weights": plan.weights,
    }
    return {
        **whole,
        "model": model,
        "measures": place_free_measures(whole["measures"]),
        "is_quick": is_quick,
        "arms": arms,
        "tasks": tasks,
        "seeds": seeds,
    }


_RATES = "tuning.learning_rates"
_WEIGHTS, _REASONING = "model.weights", ".reasoning"

_MAX_SHOWN = 5
"""Differences between two study files that an error names."""


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = []
    for key in sorted({*flat(old), *flat(new)}):
        part, _, rest = key.partition(".")
        if key in _FREE:
            continue
        if part in ("arms", "tasks", "seeds"):
            name = _first_name(rest, old[part], new[part])
            is_new = name not in old[part]
            if is_new or not _has_succeeded(folder, part, name):
                continue
            if name not in new[part]:
                changed.append(f"{part}: '{name}' is not there any more")
                continue
        was, is_now = flat(old).get(key), flat(new).get(key)
        if was is None and (key == _WEIGHTS or key.endswith(_REASONING)):
            continue  # begun by a version that did not write it down
        is_added = key == _RATES and {*(was or ())} <= {*(is_now or ())}
        if is_added and not any(folder.glob("*/*/seed*")):
            continue  # no run has begun, so no answer to a test example has been seen
        if was != is_now:
            changed.append(f"{key}: is {is_now!r}, was {was!r}")
    if changed:
        different = list(dict.fromkeys(changed))
        found = "; ".join(different[:_MAX_SHOWN])
        if len(different) > _MAX_SHOWN:
            found += f"; and {len(different) - _MAX_SHOWN} more"
        raise StudyError(
            f"The study in {folder} was made with another study file: {found}. Change it back (arms, tasks and "
            f"seeds may be added), or choose another folder with --set output_dir=..."
        )


def _first_name(rest: str, *tables: Mapping[str, Any]) -> str:
    """Return the arm, task or seed that a flat key is about; names may hold dots."""
    names = {name for table in tables for name in table}
    return max((n for n in names if rest == n or rest.startswith(n + ".")), key=len)


def _has_succeeded(folder: Path, part: str, name: str) -> bool:
    pattern = {
        "arms": f"*/{name}/**/status.json",
        "tasks": f"{name}/**/status.json",
        "seeds": f"*/*/seed{name}/status.json",
    }[part]
    return any(read_json(file)["status"] == "succeeded" for file in folder.glob(pattern))


def _arm(plan: StudyPlan, name: str) -> dict[str, Any]:
    arm, own = plan.arm(name), plan.spec.arm(name)
    return {
        "role": arm.role,
        "method": arm.adapter.method,
        "options": dict(arm.adapter.options),
        "differs": dict(own.differs),
        "compared_with": plan.spec.compared_with(own),
        "count": asdict(arm.count),
    }


def _task(plan: StudyPlan, name: str) -> dict[str, Any]:
    task = plan.task(name)
    splits = task.splits
    return {
        "title": plan.spec.task(name).title,
        "n_train": len(splits.train),
        "n_validation": len(splits.validation),
        "n_test": len(splits.test),
        "verifier": splits.verifier.name,
        "is_reasoning": plan.spec.task(name).reasoning,
        "commonest": _commonest([str(example.completion) for example in splits.test]),
        "hashes": splits.hashes,
    }


def _commonest(answers: Sequence[str]) -> float | None:
    """Return the share of the commonest answer."""
    counts = Counter(answer.strip() for answer in answers)
    return max(counts.values()) / len(answers) if answers else None


def _write_trial_data(folder: Path, plan: StudyPlan, task: str) -> None:
    splits = plan.task(task).splits
    for part, examples in (("train", splits.train), ("validation", splits.validation)):
        rows = [{"prompt": e.prompt, "completion": e.completion} for e in examples]
        write_jsonl(folder / f"{part}.jsonl", rows)
