"""A job's folder in a study's: what the job is to do, how far it is, and whether a trial has done its training."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from qpeft.study.spec import JOURNAL
from qpeft.training.record import write_json

State = Literal["waiting", "running", "succeeded", "failed", "cancelled"]

FINAL: tuple[State, ...] = ("succeeded", "failed")
"""States after which a job is not begun again by itself."""

JOBS_BEFORE = "jobs_before"
"""What a run calls in its results.json the jobs of the trial whose training it took over."""


def begin_job(folder: Path, content: Mapping[str, Any], *, retry_failed: bool) -> State:
    """Write down what a job is to do, and return how far it is.

    A job that was written down otherwise before (its learning rate, or its arm in the study file, has changed)
    begins anew. What it had done goes into `replaced/` beside it, if it was done or has sent jobs to a machine.
    One whose study lies elsewhere now goes on.

    Args:
        folder: The job's own.
        content: What the worker reads.
        retry_failed: Whether a failed job is done again.
    """
    status = read_status(folder)
    file = folder / "job.json"
    old = read_json(file) if file.exists() else None
    if old is not None and job_key(old) != job_key(content):
        # What a quantum machine has answered was paid for.
        is_kept = status.get("status") == "succeeded" or (folder / JOURNAL).exists()
        _put_aside(folder, is_kept=is_kept)
    if not file.exists():  # also a run that failed because it had no learning rate
        status = {}
    write_json(file, content)
    state: State = status.get("status", "waiting")
    if state in FINAL and not (state == "failed" and retry_failed):
        return state
    if old != content:
        # The same to do, but elsewhere: the paths in it would pass for another recipe.
        (folder / "recipe.yaml").unlink(missing_ok=True)
    return "waiting"


def _put_aside(folder: Path, *, is_kept: bool) -> None:
    if not is_kept:
        shutil.rmtree(folder)
        return
    aside = folder.parent / "replaced"
    aside.mkdir(exist_ok=True)
    folder.rename(aside / f"{folder.name}-{now().replace(':', '')}")


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
    if not (trial / content["arm"]).is_dir():
        return  # of published rows: there is a loss, but no adapter
    arm = content["arm"]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trial / arm, folder / arm, ignore=shutil.ignore_patterns("checkpoints"))
    if (trial / JOURNAL).exists():  # whose circuits the answers may need again
        _copy_database(trial / JOURNAL, folder / JOURNAL)
    record = {**read_json(trial / "results.json")["arms"][arm], "evaluations": []}
    record[JOBS_BEFORE] = record.pop("jobs", [])
    write_json(folder / "results.json", {"status": "running", "arms": {arm: record}})
    write_json(folder / "job.json", content)
    kept = {key: status[key] for key in ("peak_memory", "n_threads") if key in status}
    # The training's time is the run's too, though it was not spent twice.
    before = record["training"]["seconds"]
    write_json(
        folder / "status.json",
        {**kept, "status": "waiting", "seconds_before": before, "trained_in": trial.name},
    )


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


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


def job_key(content: Mapping[str, Any]) -> str:
    """Return what two jobs share if they come to the same numbers, wherever the study lies, as SHA-256.

    Args:
        content: What the worker reads: job.json.
    """
    recipe = {key: v for key, v in content["recipe"].items() if key not in ("output_dir", "jobs")}
    recipe["evaluation"] = {k: v for k, v in recipe["evaluation"].items() if k != "batch_size"}
    recipe["model"] = {**recipe["model"], "name": place_free(recipe["model"]["name"])}
    # What the files hold is part of the study's identity, where they lie is not.
    recipe["data"] = {key: v for key, v in recipe["data"].items() if key != "files"}
    if content["kind"] == "trial":
        recipe["data"] = None
    if content["kind"] == "base":  # it trains nothing
        recipe["adapter"] = recipe["training"] = None
    measures = place_free_measures(content["measures"] or {})
    measures.pop("cache_folder", None)
    whole = flat({**content, "recipe": recipe, "measures": measures})
    # A key that a later version knows, and that is not set, makes no other job.
    is_set = {key: value for key, value in whole.items() if value is not None}
    return hashlib.sha256(json.dumps(is_set, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def now() -> str:
    """Return the time, with its zone, to a tenth of a second or so."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by the path of their keys, joined by dots."""
    return dict(_flat_pairs(data, prefix))


def place_free(name: str) -> str:
    """Return a model's name without its place: a local model may be moved together with its study."""
    return Path(name).name if Path(name).is_absolute() else name


def place_free_measures(measures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measures of a study without the places of the files that they read."""
    found = dict(measures)
    for key in ("forgetting_file", "noise_calibration"):
        if found.get(key):
            found[key] = place_free(str(found[key]))
    return found


def _flat_pairs(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            yield from _flat_pairs(value, key)
        else:
            yield key, value


def _training(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the training of a job depends on, within one study."""
    parts = ("model", "adapter", "training", "seed")
    return {"task": content["task"], **{part: content["recipe"][part] for part in parts}}
