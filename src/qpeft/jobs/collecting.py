"""Collects one submitted row: where it stands, its raw result, and what the result says."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from qpeft.backends.remote import Distributions, JobRequest, JobState, JobStatus
from qpeft.errors import (
    ConfigError,
    CorruptResultError,
    JobFailedError,
    RemoteError,
    UnknownJobError,
)
from qpeft.jobs.calls import Calls
from qpeft.jobs.journal import Journal
from qpeft.jobs.rows import Row, State

CALIBRATION_SECONDS = 600.0
"""A chip's calibration is asked for again after this time."""
LOST = "the process that ran it ended before its result was fetched"
"""Why a job of a simulator is cancelled: it lived in the process that had submitted it."""
_SUM_TOLERANCE = 1e-6


class Collector:
    """Brings submitted rows to `finished` or `failed`.

    Args:
        calls: The remote.
        journal: The journal.
        owner: Who holds the rows.
        clock: Seconds, for the age of a calibration.
    """

    def __init__(
        self,
        calls: Calls,
        journal: Journal,
        owner: str,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.calls, self.journal, self.owner = calls, journal, owner
        self._clock = clock
        self._calibration: Any = None
        self._asked_at: float | None = None

    def status(self, row: Row) -> JobStatus:
        """Say where a row stands; one whose result is here already is finished."""
        if row.state is State.FETCHED:
            return JobStatus(JobState.FINISHED)
        assert row.job_id is not None
        try:
            return self.calls.status(row.job_id)
        except UnknownJobError:
            if self.calls.remote.limits.is_repeatable:
                return JobStatus(JobState.CANCELLED, LOST)
            raise

    def finish(self, row: Row, status: JobStatus) -> tuple[Row, Distributions | None]:
        """Store, then interpret, the result of a job that is at its end.

        Args:
            row: A submitted or fetched row.
            status: Its final status.

        Returns:
            The row as finished and its distributions, or the row as failed or cancelled and None.
        """
        if status.state is JobState.FAILED:
            text = status.message or "the machine says that it failed"
            return self.journal.set_failed(row, self.owner, text), None
        if status.state is JobState.CANCELLED:
            text = status.message or "it was cancelled at the machine"
            return self.journal.set_cancelled(row, self.owner, text), None
        request = self.journal.request(row)
        try:
            return self._read_or_fetch(row, request)
        except CorruptResultError:
            # Once more: what was damaged may have been the way here.
            row = self.journal.row(row.id)
        try:
            return self._read(self._fetch(row), request)
        except (CorruptResultError, JobFailedError) as error:
            row = self.journal.row(row.id)
            return self.journal.set_failed(row, self.owner, str(error)), None

    def _read_or_fetch(self, row: Row, request: JobRequest) -> tuple[Row, Distributions | None]:
        if row.state is State.SUBMITTED:
            try:
                row = self._fetch(row)
            except JobFailedError as error:
                return self.journal.set_failed(row, self.owner, str(error)), None
        return self._read(row, request)

    def _fetch(self, row: Row) -> Row:
        assert row.job_id is not None
        calibration = self._snapshot()
        raw = self.calls.fetch(row.job_id)
        return self.journal.set_fetched(row, self.owner, raw, calibration)

    def _read(self, row: Row, request: JobRequest) -> tuple[Row, Distributions]:
        result = read_checked(self.calls, request, self.journal.raw(row))
        return self.journal.set_finished(row, self.owner), result

    def _snapshot(self) -> Any:
        """Return the chip's calibration as JSON data; a result never waits for it."""
        now = self._clock()
        if self._asked_at is None or now - self._asked_at > CALIBRATION_SECONDS:
            self._asked_at = now
            try:
                calibration = self.calls.remote.calibration()
            except (RemoteError, ConfigError):
                calibration = None
            self._calibration = None if calibration is None else calibration.to_json()
        return self._calibration


def read_checked(calls: Calls, request: JobRequest, raw: Any) -> Distributions:
    """Interpret a raw result and hold it to what was asked for.

    Raises:
        CorruptResultError: Circuits or shots do not add up.
    """
    result = calls.remote.read(request, raw)
    if result.ndim != 2 or len(result) != request.n_circuits:
        raise CorruptResultError(
            f"{request.n_circuits} circuits were sent; the result has shape {result.shape}."
        )
    total = 1.0 if request.shots is None else float(request.shots)
    sums = result.sum(axis=1)
    is_wrong = ~(np.abs(sums - total) <= _SUM_TOLERANCE * total) | (result < 0).any(axis=1)
    if is_wrong.any():
        first = int(np.argmax(is_wrong))
        raise CorruptResultError(
            f"Circuit {first} of the result sums to {sums[first]:g}; expected {total:g} and no "
            f"negative entry."
        )
    return result
