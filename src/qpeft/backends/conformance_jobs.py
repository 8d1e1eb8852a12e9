"""The way of a job through a remote, as the conformance kit walks it."""

import itertools
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np

from qpeft.backends.conformance_checks import require
from qpeft.backends.remote import CircuitBatch, Distributions, JobRequest, JobState, Remote


@dataclass(frozen=True)
class Job:
    """A job on its way.

    Args:
        request: What was sent.
        job_id: The remote's id of it.
        tag: Name of the submission.
        raw: The raw result; None until it is fetched.
    """

    request: JobRequest
    job_id: str
    tag: str
    raw: Any = None


class Jobs:
    """Sends jobs to a remote and waits for them.

    Args:
        target: The remote.
        timeout_seconds: How long to wait for a job.
    """

    def __init__(self, target: Remote, timeout_seconds: float):
        self._target, self._timeout_seconds = target, timeout_seconds
        run = uuid.uuid4().hex[:12]
        self._tags = (f"conformance-{run}-{number}" for number in itertools.count())

    def run(self, batch: CircuitBatch) -> Distributions:
        """Run a batch; all its jobs are sent before the first is waited for, and the last is fetched first."""
        sent = [self.submit(request) for request in self._target.prepare(batch)]
        done = [self.finish(job) for job in reversed(sent)][::-1]
        return np.concatenate([self._target.read(job.request, job.raw) for job in done])

    def submit(self, request: JobRequest) -> Job:
        """Send a job under a tag of its own."""
        tag = next(self._tags)
        job_id = self._target.submit(request, tag)
        require(isinstance(job_id, str) and bool(job_id), f"submit returned {job_id!r}, no id.")
        return Job(request, job_id, tag)

    def finish(self, job: Job) -> Job:
        """Wait for a job and fetch its result."""
        end, pause = time.monotonic() + self._timeout_seconds, 0.01
        while not (status := self._target.status(job.job_id)).state.is_final:
            require(
                time.monotonic() < end,
                f"Job {job.job_id} is {status.state} after {self._timeout_seconds:.0f} s.",
            )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        is_finished = status.state is JobState.FINISHED
        require(is_finished, f"Job {job.job_id} is {status.state}: {status.message}")
        return Job(job.request, job.job_id, job.tag, self._target.fetch(job.job_id))


def reloaded(request: JobRequest) -> JobRequest:
    """Return a request as a later process reads it from its text."""
    payload = json.loads(request.text)
    return JobRequest(payload, request.n_circuits, request.n_programs, request.shots)
