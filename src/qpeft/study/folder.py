"""A study's folder: what is in it, whose it is, and how each job in it ended.

    study.yaml                             the study file as it was read, defaults included
    study.json                             what was planned: arms on the real model, tasks, versions, commands
    <task>/data/                           training and validation examples, which is all that trials see
    <task>/base/                           the base model's answers
    <task>/<arm>/trials/lr<rate>/          a trial of a learning rate
    <task>/<arm>/seed<k>/                  a run, as `qpeft train` makes it
    .../job.json, status.json, log.txt     of each of these: what to do, how it ended, what it said
    .../measures.json                      of a run: what was measured of its adapter
    ansatzes.json, rows.csv, scores.csv    see `qpeft.study.record`
    method_comparison/                     see `qpeft.study.method_comparison`

Files are written whole, so a study that was stopped anywhere goes on from there.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from qpeft.errors import StudyError
from qpeft.study.plan import Job, StudyPlan
from qpeft.study.spec import StudySpec
from qpeft.training.record import describe_provenance, write_json, write_jsonl, write_text

State = Literal["waiting", "running", "succeeded", "failed", "cancelled"]

FINAL: tuple[State, ...] = ("succeeded", "failed")
"""States after which a job is not begun again by itself."""

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


def begin_job(folder: Path, content: Mapping[str, Any], *, retry_failed: bool) -> State:
    """Write down what a job is to do, and return how far it is.

    A job that was written down otherwise before (its learning rate, or its arm in the study file, has changed)
    begins anew.

    Args:
        folder: The job's own.
        content: What the worker reads.
        retry_failed: Whether a failed job is done again.
    """
    status = read_status(folder)
    file = folder / "job.json"
    if file.exists() and _job_key(read_json(file)) != _job_key(content):
        shutil.rmtree(folder)
    if not file.exists():  # also a run that failed because it had no learning rate
        status = {}
    write_json(file, content)
    state: State = status.get("status", "waiting")
    if state in FINAL and not (state == "failed" and retry_failed):
        return state
    return "waiting"


def take_over(source: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """Copy a job that another study has done, if it is the very same and this study has not begun it.

    Args:
        source: The job's folder in the other study; it may not be there.
        folder: The job's own.
        content: What the worker would read.
    """
    file = source / "job.json"
    if (folder / "job.json").exists() or not file.exists():
        return
    if read_status(source).get("status") != "succeeded":
        return
    if _job_key(read_json(file)) != _job_key(content):
        return
    partial = folder.with_name(f"{folder.name}.partial")
    for left_over in (partial, folder):
        shutil.rmtree(left_over, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(folder)


def take_training(trial: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """Let a run begin with the adapter of a trial that is its very training, if the run has not begun.

    Training is the same to the bit for the same recipe, so a run with the trials' seed would only do it again.
    Only the answers and the measures are left to do.

    Args:
        trial: Folder of the trial of the run's learning rate; it may not be there.
        folder: The run's own.
        content: What the worker would read.
    """
    file = trial / "job.json"
    if (folder / "job.json").exists() or not file.exists():
        return
    status = read_status(trial)
    if status.get("status") != "succeeded" or _training(read_json(file)) != _training(content):
        return
    arm = content["arm"]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trial / arm, folder / arm, ignore=shutil.ignore_patterns("checkpoints"))
    record = {**read_json(trial / "results.json")["arms"][arm], "evaluations": []}
    write_json(folder / "results.json", {"status": "running", "arms": {arm: record}})
    write_json(folder / "job.json", content)
    kept = {key: status[key] for key in ("peak_memory", "n_threads") if key in status}
    # The training's time is the run's too, though it was not spent twice.
    before = record["training"]["seconds"]
    write_json(
        folder / "status.json",
        {**kept, "status": "waiting", "seconds_before": before, "trained_in": trial.name},
    )


def read_status(folder: Path) -> dict[str, Any]:
    """Return how a job ended; nothing if it was never begun."""
    file = folder / "status.json"
    return read_json(file) if file.exists() else {}


def write_status(folder: Path, state: State, **more: Any) -> None:
    """Write how a job is; what was written before and is not named now stays."""
    old = read_status(folder)
    if state == "running":
        kept: dict[str, Any] = {
            key: old[key] for key in ("peak_memory", "trained_in") if key in old
        }
        old = {**kept, "seconds_before": seconds_of(old), "attempts": old.get("attempts", 0) + 1}
        more |= {"started": now(), "error": None}
    else:
        more |= {"ended": now()}
    write_json(folder / "status.json", {**old, "status": state, **more})


def note_peak_memory(folder: Path, n_bytes: int) -> None:
    """Write down the peak memory of a job's attempt; the largest of its attempts stays.

    An attempt that only had the measures left to do says little.
    """
    status = read_status(folder)
    peak = max(n_bytes, status.get("peak_memory") or 0)
    write_json(folder / "status.json", {**status, "peak_memory": peak})


def seconds_of(status: Mapping[str, Any]) -> float:
    """Return how long a job has worked, all its attempts together."""
    before = float(status.get("seconds_before", 0.0))
    if "ended" not in status or "started" not in status:
        return before
    times = [datetime.fromisoformat(status[key]) for key in ("started", "ended")]
    return before + max((times[1] - times[0]).total_seconds(), 0.0)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def now() -> str:
    """Return the time, with its zone, to a tenth of a second or so."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
                mode="json", exclude={"title": True, "name": True, "data": {"files"}}
            ),
            "hashes": sorted(plan.task(task.name).splits.hashes.values()),
        }
        for task in spec.tasks
    }
    seeds = {str(seed): {"seed": seed} for seed in spec.seeds}
    model = {**whole["model"], "name": _place_free(spec.model.name), "n_parameters": plan.n_base}
    return {
        **whole,
        "model": model,
        "is_quick": is_quick,
        "arms": arms,
        "tasks": tasks,
        "seeds": seeds,
    }


def _place_free(name: str) -> str:
    # A local model may be moved together with its study.
    return Path(name).name if Path(name).is_absolute() else name


_RATES = "tuning.learning_rates"

_MAX_SHOWN = 5
"""Differences between two study files that an error names."""


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = []
    for key in sorted({*_flat(old), *_flat(new)}):
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
        was, is_now = _flat(old).get(key), _flat(new).get(key)
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


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    return dict(_flat_pairs(data, prefix))


def _flat_pairs(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            yield from _flat_pairs(value, key)
        else:
            yield key, value


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
        "hashes": splits.hashes,
    }


def _write_trial_data(folder: Path, plan: StudyPlan, task: str) -> None:
    splits = plan.task(task).splits
    for part, examples in (("train", splits.train), ("validation", splits.validation)):
        rows = [{"prompt": e.prompt, "completion": e.completion} for e in examples]
        write_jsonl(folder / f"{part}.jsonl", rows)


def _job_key(content: Mapping[str, Any]) -> str:
    """Return what two jobs share if they come to the same numbers, wherever the study lies."""
    recipe = {key: v for key, v in content["recipe"].items() if key not in ("output_dir", "jobs")}
    recipe["evaluation"] = {k: v for k, v in recipe["evaluation"].items() if k != "batch_size"}
    recipe["model"] = {**recipe["model"], "name": _place_free(recipe["model"]["name"])}
    # What the files hold is part of the study's identity, where they lie is not.
    recipe["data"] = {key: v for key, v in recipe["data"].items() if key != "files"}
    if content["kind"] == "trial":
        recipe["data"] = None
    if content["kind"] == "base":  # it trains nothing
        recipe["adapter"] = recipe["training"] = None
    measures = dict(content["measures"] or {})
    measures.pop("cache_folder", None)
    whole = _flat({**content, "recipe": recipe, "measures": measures})
    # A key that a later version knows, and that is not set, makes no other job.
    is_set = {key: value for key, value in whole.items() if value is not None}
    return hashlib.sha256(json.dumps(is_set, sort_keys=True).encode()).hexdigest()


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the training of a job depends on, within one study."""
    parts = ("model", "adapter", "training", "seed")
    return {"task": content["task"], **{part: content["recipe"][part] for part in parts}}
