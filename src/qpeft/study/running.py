"""Doing what a study has planned: each job in a process of its own, as many at once as the machine carries.

A job is done when its status says so. Ctrl-C lets every worker write a checkpoint; the same command goes on from
there, also after a crash of a worker, of this process or of the machine. A failed job stays and stops nothing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpeft.study.estimate import estimate_seconds
from qpeft.study.folder import open_study, study_lock, trial_data
from qpeft.study.job_folder import (
    FINAL,
    State,
    begin_job,
    read_status,
    take_training,
    write_status,
)
from qpeft.study.plan import Job, StudyPlan, trial_folder
from qpeft.study.progress import Progress, SilentProgress
from qpeft.study.taking import Source, open_sources, take
from qpeft.study.tuning import choose_rate, read_trials

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
"""How long workers may take to write their checkpoints after Ctrl-C."""


@dataclass(frozen=True)
class StudyOutcome:
    """How a session of a study ended.

    Args:
        folder: The study's folder.
        n_jobs: Planned jobs.
        n_succeeded: Of them, those that are done.
        n_failed: Of them, those that failed.
        is_interrupted: Whether Ctrl-C ended the session.
    """

    folder: Path
    n_jobs: int
    n_succeeded: int
    n_failed: int
    is_interrupted: bool


def run_study(
    plan: StudyPlan,
    *,
    n_workers: int,
    n_threads: int = 1,
    is_quick: bool = False,
    retry_failed: bool = False,
    take_from: Sequence[Path] = (),
    progress: Progress | None = None,
) -> StudyOutcome:
    """Do all of a study that is not done yet.

    Args:
        plan: From `plan_study`.
        n_workers: Processes at once.
        n_threads: Threads of each; a job that was begun before keeps those that it had.
        is_quick: Whether the plan is the quick variant.
        retry_failed: Whether failed jobs are done again.
        take_from: Folders of other studies, or with published results; jobs that one of them has done and that
            are the same are taken from there.
        progress: Told how it goes; nobody by default.

    Returns:
        How far the study is, also when Ctrl-C ended the session (`is_interrupted`).

    Raises:
        StudyError: The folder holds another study, another process works on this one, or `take_from` holds none or
            one with other weights of the base model or another margin.
    """
    sources = open_sources(take_from, weights=plan.weights, margin=plan.spec.margin)
    progress = progress or SilentProgress()
    lock = study_lock(plan.spec.output_dir)
    try:
        folder = open_study(plan, is_quick=is_quick)
        session = _Session(plan, folder, n_workers, n_threads, retry_failed, progress, sources)
        is_interrupted = session.go()
        states = [session.states[job] for job in plan.jobs]
    finally:
        lock.release()
        progress.close()
    n_failed = states.count("failed")
    return StudyOutcome(folder, len(states), states.count("succeeded"), n_failed, is_interrupted)


def start_worker(command: list[str], log: Path, n_threads: int) -> subprocess.Popen[bytes]:
    """Start a process that ends with this one, and does not hear the terminal's Ctrl-C.

    Args:
        command: What to start; the worker gets this process's id as its last argument.
        log: Where its output is added.
        n_threads: Of torch.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            [*command, str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
            # Ctrl-C in the terminal shall reach the workers once, through this process.
            start_new_session=True,
        )


def done_so_far(plan: StudyPlan) -> dict[Job, State]:
    """Return how far each job of a plan is in the study's folder, without doing anything."""
    return {
        job: read_status(plan.spec.output_dir / job.folder).get("status", "waiting")
        for job in plan.jobs
    }


@dataclass
class _Session:
    """One call of `run_study`: which jobs are done, and which processes are at work."""

    plan: StudyPlan
    folder: Path
    n_workers: int
    n_threads: int
    retry_failed: bool
    progress: Progress
    sources: Sequence[Source] = ()
    states: dict[Job, State] = field(default_factory=dict)
    workers: dict[Job, subprocess.Popen[bytes]] = field(default_factory=dict)

    def go(self) -> bool:
        """Start and await workers until nothing is left; True if Ctrl-C ended it."""
        self.states = dict.fromkeys(self.plan.jobs, "waiting")
        try:
            while self._start() or self.workers:
                time.sleep(POLL_SECONDS)
                self._collect(is_stopping=False)
        except KeyboardInterrupt:
            self._stop()
            return True
        finally:
            self._kill()
        return False

    def _start(self) -> bool:
        """Start jobs while there is room; False if none is left to be started."""
        is_left = False
        for job in self.plan.jobs:
            if self.states[job] != "waiting":
                continue
            trials = self._trials_of(job)
            if "cancelled" in trials:  # the choice of the learning rate waits for the next session
                continue
            if len(self.workers) < self.n_workers and all(state in FINAL for state in trials):
                self._begin(job)
            else:
                is_left = True
        return is_left

    def _has_run(self, trial: Job) -> bool:
        """Say whether a run with the rate that the trials of an arm have chosen is done."""
        arm = self.folder / trial.task / trial.arm
        return any(read_status(run).get("status") == "succeeded" for run in arm.glob("seed*"))

    def _trials_of(self, job: Job) -> list[State]:
        """Return how far the trials are that a run waits for; none for other jobs."""
        return [
            state
            for other, state in self.states.items()
            if (other.kind, other.task, other.arm) == ("trial", job.task, job.arm)
            and job.kind == "run"
        ]

    def _begin(self, job: Job) -> None:
        path = self.folder / job.folder
        content = self._content(job)
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            write_status(path, "failed", error="no trial of its learning rate succeeded")
            self.states[job] = "failed"
            self._tell()
            return
        take(self.sources, job.folder, path, content)
        if job.kind == "run":
            rate = content["recipe"]["training"]["learning_rate"]
            take_training(self.folder / trial_folder(job.task, job.arm, rate), path, content)
        # A run's rate was chosen without this trial; another choice, once answers were seen, would not be fair.
        is_settled = job.kind == "trial" and self._has_run(job)
        is_again = self.retry_failed and not is_settled
        self.states[job] = begin_job(path, content, retry_failed=is_again)
        if self.states[job] != "waiting":
            self._tell()
            return
        command = [sys.executable, "-m", "qpeft.study.worker", str(path)]
        # Another number of threads adds up in another order: a job that goes on keeps its own.
        n_threads = read_status(path).get("n_threads", self.n_threads)
        write_status(path, "running", command=command, n_threads=n_threads)
        self.workers[job] = start_worker(command, path / "log.txt", n_threads)
        self.states[job] = "running"
        self._tell()

    def _content(self, job: Job) -> dict[str, Any] | None:
        """Return what a job's process has to know; None for a run without a learning rate."""
        spec = self.plan.spec
        task, path = spec.task(job.task), self.folder / job.folder
        arm = spec.arm(spec.subject if job.kind == "base" else job.arm)
        recipe = spec.recipe(task, arm, self.plan.arm(arm.label).adapter, job.seed, path)
        raw = recipe.model_dump(mode="json")
        measures = None
        if job.kind == "base" and spec.base_shots:
            first = raw["evaluation"]["n_shots"][0]
            raw["evaluation"]["n_shots"] = list(dict.fromkeys((first, spec.base_shots)))
        if job.kind == "trial":
            raw["data"] = trial_data(self.folder, job)
            steps = spec.tuning.steps or raw["training"]["steps"]
            if steps is not None:
                raw["training"] |= {"steps": steps, "epochs": None}
            raw["training"]["learning_rate"] = job.learning_rate
        elif job.kind == "run":
            if spec.tuning.learning_rates:
                rate = choose_rate(read_trials(self.folder, spec, job.task, job.arm))
                if rate is None:
                    return None
                raw["training"]["learning_rate"] = rate
            measures = self._measures(job.arm)
        return {
            "kind": job.kind,
            "task": job.task,
            "arm": job.arm,
            "seed": job.seed,
            # By content: where files lie changes nothing, what they hold does.
            "data_hashes": sorted(self.plan.task(job.task).splits.hashes.values()),
            "recipe": raw,
            "measures": measures,
        }

    def _measures(self, arm: str) -> dict[str, Any]:
        spec = self.plan.spec
        changes: dict[str, Any] = {"cache_folder": self.folder / "samples"}
        if arm != spec.subject:  # the noise picture is of the arm on trial
            changes |= {"noise_error_scales": (), "noise_shots": ()}
        return spec.measures.model_copy(update=changes).model_dump(mode="json")

    def _collect(self, *, is_stopping: bool) -> None:
        """Note the workers that have ended."""
        for job, worker in list(self.workers.items()):
            code = worker.poll()
            if code is None:
                continue
            del self.workers[job]
            path = self.folder / job.folder
            status = read_status(path)
            if status["status"] == "running":  # it could not say so itself
                state, error = _how_it_ended(code, is_stopping, path / "log.txt")
                write_status(path, state, error=error)
            self.states[job] = read_status(path)["status"]
            self._tell()

    def _stop(self) -> None:
        """Ask the workers to write a checkpoint and end; a second Ctrl-C ends them at once."""
        self.progress.stopping(len(self.workers))
        for worker in self.workers.values():
            worker.send_signal(signal.SIGINT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            while self.workers and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                self._collect(is_stopping=True)
        except KeyboardInterrupt:
            pass
        self._kill()

    def _kill(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.wait()
        self._collect(is_stopping=True)

    def _tell(self) -> None:
        left = estimate_seconds(self.plan, self.folder, self.states, self.n_workers)
        self.progress.update(self.states, left)


def _how_it_ended(code: int, is_stopping: bool, log: Path) -> tuple[State, str]:
    """Return the state and the error of a worker that wrote neither."""
    if is_stopping:
        return "cancelled", "interrupted; the same command goes on"
    if code < 0:
        name = signal.Signals(-code).name
        return "cancelled", (
            f"the process was ended by {name}; the same command goes on. If memory ran out, use fewer --workers"
        )
    lines = [
        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line
    ]
    return "failed", lines[-1] if lines else f"the process ended with exit code {code}"
