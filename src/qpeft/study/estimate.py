"""How long the rest of a study may take: by the jobs that are done, and by a guess where none is.

The guess counts tokens and takes the pace of the base model, which the plan has timed on one batch. It is good
within a factor of two or so: what adapters and circuits cost is in it only as part of the third pass of a training
step, and what quantum machines and simulators of noise cost is left out.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from qpeft.adapters import QthaConfig
from qpeft.study.job_folder import FINAL, State, read_status, seconds_of
from qpeft.study.plan import Job, Kind, StudyPlan
from qpeft.study.spec import StudySpec

START_SECONDS = 20.0
"""Python, its libraries and a small model: what a job takes before its first step on a small machine."""
PASSES_PER_STEP = 3.0
"""A training step in forward passes: one forwards, about two backwards, through weights and adapter."""
N_ABLATIONS = 3
"""Times that the ablations of a core answer their examples: with it, without it, shuffled."""

_Times = Mapping[tuple[str, ...], list[float]]


def estimate_seconds(
    plan: StudyPlan, folder: Path, states: Mapping[Job, State], n_workers: int
) -> float:
    """Return how long the jobs that are left may take, from those that are done; a guess for kinds that have none.

    Args:
        plan: Of the study.
        folder: The study's folder.
        states: How far each job is.
        n_workers: Processes at once.
    """
    times = _measured(folder, states)
    left = 0.0
    for job, state in states.items():
        if state in FINAL:
            continue
        known = next((times[key] for key in _likenesses(job) if key in times), None)
        left += sum(known) / len(known) if known else guess_seconds(plan, job)
    return left / max(min(n_workers, len(plan.jobs)), 1)


def guessed_kinds(folder: Path, states: Mapping[Job, State]) -> list[Kind]:
    """Return the kinds of jobs whose time `estimate_seconds` has to guess, in the order of the plan.

    Args:
        folder: The study's folder.
        states: How far each job is.
    """
    times = _measured(folder, states)
    left = dict.fromkeys(job.kind for job, state in states.items() if state not in FINAL)
    return [kind for kind in left if (kind,) not in times]


def guess_seconds(plan: StudyPlan, job: Job) -> float:
    """Return about how long a job takes on one thread, before any has been done.

    Args:
        plan: With the pace of its base model.
        job: One of the plan's.
    """
    seconds = START_SECONDS
    if job.kind == "trial" or (job.kind == "run" and not _takes_a_trial(plan.spec, job)):
        seconds += _training_seconds(plan, job)
    if job.kind != "trial":
        n_shots = plan.spec.evaluation_of(plan.spec.task(job.task)).n_shots
        n_test = len(plan.task(job.task).splits.test)
        seconds += len(n_shots) * _test_seconds(plan, job.task, n_test)
    if job.kind == "run":
        seconds += _measures_seconds(plan, job)
    return seconds


def _takes_a_trial(spec: StudySpec, job: Job) -> bool:
    """Say whether a run begins with a trial's adapter, because the chosen trial was its very training."""
    training = spec.training_of(spec.task(job.task), spec.arm(job.arm))
    has_all_steps = spec.tuning.steps in (None, training.steps)
    return bool(spec.tuning.learning_rates) and has_all_steps and job.seed == spec.tuning.seed


def _training_seconds(plan: StudyPlan, job: Job) -> float:
    spec, task = plan.spec, plan.task(job.task)
    training = spec.training_of(spec.task(job.task), spec.arm(job.arm))
    (row,) = (row for row in plan.parity if (row.task, row.arm) == (job.task, job.arm))
    n_steps = row.steps
    if job.kind == "trial" and spec.tuning.steps is not None:
        n_steps = spec.tuning.steps
    n_tokens = n_steps * row.tokens / row.steps
    seconds = PASSES_PER_STEP * plan.pace.seconds(
        n_tokens, n_steps * training.gradient_accumulation
    )
    n_validation = len(task.splits.validation)
    if n_validation:  # every so many steps, and after the last
        n_times = math.ceil(n_steps / (training.evaluate_every or n_steps))
        n_batches = math.ceil(n_validation / spec.evaluation_of(spec.task(job.task)).batch_size)
        seconds += n_times * plan.pace.seconds(n_validation * task.tokens, n_batches)
    return seconds


def _test_seconds(plan: StudyPlan, name: str, n_examples: int) -> float:
    """Return about how long it takes to answer so many test examples, and to take their loss.

    Solved examples in front of a prompt are read once for all, so they are left out. Every answer is taken to be
    as long as it may be, as those of the base model mostly are; an adapter that has learned to stop is quicker.
    """
    evaluation = plan.spec.evaluation_of(plan.spec.task(name))
    n_batches = math.ceil(n_examples / evaluation.batch_size)
    # Each prompt is read to be answered, and again with the right answer.
    reading = 2 * plan.pace.seconds(n_examples * plan.task(name).tokens, n_batches)
    return reading + evaluation.max_new_tokens * plan.pace.seconds(n_examples, n_batches)


def _measures_seconds(plan: StudyPlan, job: Job) -> float:
    """Return about how long the passes of a run's measures take; what they compute beside them is left out."""
    measures, config = plan.spec.measures, plan.arm(job.arm).config
    n_test = len(plan.task(job.task).splits.test)
    n_tokens = 2 * measures.n_forgetting_texts * measures.forgetting_tokens + measures.n_rows
    n_scored = 0
    if isinstance(config, QthaConfig) and config.core != "none":
        n = measures.n_branch_examples
        n_scored += N_ABLATIONS * (n_test if n is None else min(n, n_test))
    if job.arm == plan.spec.subject:
        n_pictures = len(measures.noise_error_scales) + len(measures.noise_shots)
        n_scored += n_pictures * min(measures.n_noise_examples or n_test, n_test)
    return plan.pace.seconds(n_tokens) + _test_seconds(plan, job.task, n_scored)


def _measured(folder: Path, states: Mapping[Job, State]) -> _Times:
    """Return the times of the jobs that are done, by what jobs have in common that take as long."""
    times: dict[tuple[str, ...], list[float]] = {}
    for job, state in states.items():
        if state == "succeeded":
            seconds = seconds_of(read_status(folder / job.folder))
            if not seconds:
                continue  # taken from published rows
            for key in _likenesses(job):
                times.setdefault(key, []).append(seconds)
    return times


def _likenesses(job: Job) -> tuple[tuple[str, ...], ...]:
    """Return what jobs have in common that take as long, the most alike first."""
    return (
        (job.kind, job.task, job.arm),
        (job.kind, job.arm),
        (job.kind, "", job.task),
        (job.kind,),
    )
