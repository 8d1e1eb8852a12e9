"""Which learning rate an arm's runs on a task use: that of the trial with the least validation loss."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qpeft.study.job_folder import job_key, read_json, read_status
from qpeft.study.plan import trial_folder
from qpeft.study.results import Status, TrialRow
from qpeft.study.spec import StudySpec
from qpeft.study.taking import taken_row


def read_trials(folder: Path, spec: StudySpec, task: str, arm: str) -> tuple[TrialRow, ...]:
    """Return the trials of an arm on a task, by learning rate, the chosen one marked.

    Args:
        folder: The study's folder.
        spec: The study file.
        task: A task's name.
        arm: An arm's name.
    """
    trials = [
        _read_trial(folder / trial_folder(task, arm, rate), task, arm, rate)
        for rate in sorted(spec.tuning.learning_rates)
    ]
    rate = choose_rate(trials)
    return tuple(replace(trial, is_chosen=trial.learning_rate == rate) for trial in trials)


def choose_rate(trials: Sequence[TrialRow]) -> float | None:
    """Return the learning rate with the least validation loss, of equal ones the smaller; None without a loss."""
    done = [
        (trial.validation_loss, trial.learning_rate)
        for trial in trials
        if trial.status == "succeeded" and trial.validation_loss is not None
    ]
    return min(done)[1] if done else None


def _read_trial(folder: Path, task: str, arm: str, rate: float) -> TrialRow:
    taken = taken_row(folder, TrialRow)
    if taken is not None:
        return taken
    status = read_status(folder)
    loss = None
    if (folder / "results.json").exists():
        record = read_json(folder / "results.json")["arms"].get(arm, {})
        loss = record.get("training", {}).get("validation_loss")
    file = folder / "job.json"
    key = job_key(read_json(file)) if file.exists() else None
    return TrialRow(
        task, arm, rate, public_state(status), loss, error=status.get("error"), job_key=key
    )


def public_state(status: dict[str, str]) -> Status:
    """Return how a job ended, as results have it: what was begun and not ended is cancelled."""
    states: dict[str, Status] = {
        "succeeded": "succeeded",
        "failed": "failed",
        "cancelled": "cancelled",
        "running": "cancelled",
    }
    return states.get(status.get("status", ""), "missing")
