"""Runs batches of circuits on a remote: each request is sent once, whatever happens, and its result is kept.

    prepare -> claim rows -> send what is new -> one poller for all that is open -> store, interpret, finish

A batch that is run again, in this process or a later one, goes on from what the journal says; a request that has a
finished row is answered from it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qpeft.backends.remote import CircuitBatch, Distributions, JobRequest, Remote
from qpeft.errors import ConfigError, CorruptResultError, JobFailedError, JobsError
from qpeft.jobs.budget import Budget
from qpeft.jobs.calls import Calls
from qpeft.jobs.claims import Role, Worker, claim, count_failures, plan_again
from qpeft.jobs.collecting import LOST, Collector, read_checked
from qpeft.jobs.journal import Journal
from qpeft.jobs.owners import at_work
from qpeft.jobs.rows import Row, State, Tally
from qpeft.jobs.sending import Sender

Progress = Callable[[int, int, str], None]
"""(n_done, n_total, text): circuits that are done, circuits of the batch, and a line for a person."""

_OTHERS_POLL_SECONDS = 2.0


@dataclass
class Counts:
    """What a runner did.

    Args:
        sent: What it sent, retries included.
        reused: What others had sent, or it itself before: taken from the journal.
    """

    sent: Tally = field(default_factory=Tally)
    reused: Tally = field(default_factory=Tally)


class Runner:
    """Evaluates batches on one remote.

    Args:
        remote: The machine, cloud or simulator.
        journal: Where every submission is written down.
        budget: What may be sent under this label; None for no cap.
        label: Which run or purpose it is for.
        on_progress: Called whenever something has changed.
        max_retries: How often a request is sent again, as a new row, after the machine failed it.
        clock: Seconds that only run forwards.
        sleep: Waits some seconds.
        first_poll_seconds: The first wait for results; 0 for a machine in this process.
        max_poll_seconds: The longest wait; each is twice the one before, until something happens.
    """

    def __init__(
        self,
        remote: Remote,
        journal: Journal,
        budget: Budget | None = None,
        *,
        label: str = "",
        on_progress: Progress | None = None,
        max_retries: int = 1,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        first_poll_seconds: float = 2.0,
        max_poll_seconds: float = 60.0,
    ):
        self.remote, self.journal, self.label = remote, journal, label
        self.budget = budget or Budget()
        self.counts = Counts()
        self._on_progress = on_progress
        self._max_retries = max_retries
        self._clock = clock
        self._calls = Calls(remote, sleep)
        self._first_poll_seconds, self._max_poll_seconds = first_poll_seconds, max_poll_seconds

    def run(self, batch: CircuitBatch) -> Distributions:
        """Evaluate a batch.

        Returns:
            (n_circuits, 2^n_qubits): counts that sum to the shots, or probabilities where shots is None.

        Raises:
            ConfigError: The remote does not take the batch; nothing was sent.
            BudgetError: It would pass a cap; nothing was sent.
            UncertainJobError: A request may have arrived, and only the owner of the account can tell.
            JobFailedError: The machine failed a request again after the retries.
            RemoteError: The machine refused or stayed out of reach; what was sent is in the journal.
            JobsError: The journal cannot be written.
        """
        requests = self.remote.prepare(batch)
        check_requests(self.remote, batch, requests)
        if not requests:
            return np.zeros((0, 2**batch.circuit.n_qubits))
        unique = {request.key: request for request in requests}
        done = self._known(unique)
        if len(done) < len(unique):
            with at_work() as owner:
                try:
                    _Work(self, owner, unique, done).finish()
                finally:
                    self._let_go(owner)
        return np.concatenate([done[request.key] for request in requests])

    def _known(self, requests: Mapping[str, JobRequest]) -> dict[str, Distributions]:
        """Return what the journal can answer by itself."""
        rows = self.journal.finished(self.remote.name, requests)
        return {key: self.reuse(row, requests[key]) for key, row in rows.items()}

    def reuse(self, row: Row, request: JobRequest) -> Distributions:
        """Return the result of a finished row."""
        try:
            result = read_checked(self._calls, request, self.journal.raw(row))
        except CorruptResultError as error:
            raise CorruptResultError(
                f"Row {row.id} of the journal was read before and cannot be read now: {error} "
                f"Is this the version of qpeft that wrote it?"
            ) from error
        self.counts.reused += Tally.of([row])
        return result

    def _let_go(self, owner: str) -> None:
        try:
            self.journal.release(owner)
        except JobsError:
            # The disk that stopped the run stops this too; rows of a run that has ended are taken over anyway.
            return


@dataclass
class Pause:
    """Waits that double from `first` to `longest` seconds until something happens.

    Args:
        first: The first wait; 0 begins at once and goes on with hundredths of a second.
        longest: No wait is longer.
    """

    first: float
    longest: float

    def __post_init__(self) -> None:
        self._next = self.first

    def reset(self) -> None:
        """Begin again with the first wait."""
        self._next = self.first

    def next(self) -> float:
        """Return the next wait, in seconds."""
        wait = min(self._next, self.longest)
        self._next = max(2 * self._next, 0.01)
        return wait


class _Work:
    """One batch in the hands of one worker."""

    def __init__(
        self,
        runner: Runner,
        owner: str,
        requests: Mapping[str, JobRequest],
        done: dict[str, Distributions],
    ):
        limits = runner.remote.limits
        can_settle = limits.can_find or limits.is_repeatable
        self.runner, self.requests, self.done = runner, requests, done
        self.n_circuits = sum(request.n_circuits for request in requests.values())
        self.pause = Pause(runner._first_poll_seconds, runner._max_poll_seconds)
        self.worker = Worker(owner, runner.remote.name, runner.label, runner.budget, can_settle)
        self.sender = Sender(runner._calls, runner.journal, self.worker)
        self.collector = Collector(runner._calls, runner.journal, owner, runner._clock)
        self.open: dict[str, Row] = {}
        self.n_theirs = 0

    def finish(self) -> None:
        """Fill `done` for every request."""
        runner = self.runner
        self._read_again()
        try:
            while len(self.done) < len(self.requests):
                has_moved = self._claim()
                has_moved |= self._collect()
                if has_moved:
                    self.pause.reset()
                if len(self.done) == len(self.requests):
                    return
                wait = self.pause.next()
                if self.n_theirs:
                    wait = min(max(wait, 0.01), _OTHERS_POLL_SECONDS)
                runner._calls.sleep(wait)
        finally:
            runner.counts.sent += Tally.of(self.sender.sent)

    def _read_again(self) -> None:
        """Read stored results once more that could not be read before: a reader may be mended since."""
        journal = self.runner.journal
        for key, request in self.requests.items():
            row = None if key in self.done else journal.unread(self.worker.backend, key)
            if row is None:
                continue
            try:
                result = read_checked(self.runner._calls, request, journal.raw(row))
            except CorruptResultError:
                continue
            journal.set_read_after_all(row)
            self.runner.counts.reused += Tally.of([row])
            self._finished(key, result)

    def _claim(self) -> bool:
        """Take the requests that nobody works on, and send what has not been sent."""
        missing = {
            key: request
            for key, request in self.requests.items()
            if key not in self.done and key not in self.open
        }
        if not missing:
            return False
        claims = claim(self.runner.journal, self.worker, missing)
        self.n_theirs = sum(role is Role.THEIRS for role, _ in claims.values())
        for key, (role, row) in claims.items():
            if role is Role.DONE:
                self._finished(key, self.runner.reuse(row, self.requests[key]))
            elif role is Role.MINE:
                self.open[key] = self._sent(row)
                self._say(f"{len(self.open)} sent")
        return self.n_theirs < len(missing)

    def _sent(self, row: Row) -> Row:
        if row.state is State.UNCERTAIN:
            row = self.sender.settle(row)
        if row.state is State.PLANNED:
            row = self.sender.send(row)
        return row

    def _collect(self) -> bool:
        """Look at every open job once."""
        has_moved = False
        for key, row in list(self.open.items()):
            status = self.collector.status(row)
            if not status.state.is_final:
                continue
            has_moved = True
            row, result = self.collector.finish(row, status)
            if result is None:
                self.open[key] = self._retry(row)
                continue
            if all(row.id != sent.id for sent in self.sender.sent):
                self.runner.counts.reused += Tally.of([row])
            del self.open[key]
            self._finished(key, result)
        return has_moved

    def _retry(self, row: Row) -> Row:
        """Send a failed request again as a new row, unless it has been often enough."""
        journal, most = self.runner.journal, self.runner._max_retries
        name = f"Job '{row.job_id}' at '{row.backend}' (row {row.id} of the journal)"
        if row.state is State.CANCELLED and row.error == LOST:
            return self.sender.send(plan_again(journal, self.worker, row, row.state, LOST))
        if row.state is State.CANCELLED:
            raise JobFailedError(
                f"{name} was cancelled: {row.error}. Run the same command again to send it anew."
            )
        n_failures = count_failures(journal, row)
        if n_failures > most:
            raise JobFailedError(
                f"{name} failed: {row.error} It was sent {n_failures} times; no result came. See "
                f"`qpeft jobs show {row.id}`; running the same command again sends it anew."
            )
        again = plan_again(journal, self.worker, row, State.FAILED, row.error or "")
        return self.sender.send(again)

    def _finished(self, key: str, result: Distributions) -> None:
        self.done[key] = result
        self._say(f"{len(self.open)} at the machine")

    def _say(self, text: str) -> None:
        if self.runner._on_progress is not None:
            n_done = sum(self.requests[key].n_circuits for key in self.done)
            self.runner._on_progress(n_done, self.n_circuits, text)


def check_requests(remote: Remote, batch: CircuitBatch, requests: list[JobRequest]) -> None:
    """Raise ConfigError if a batch or one of its jobs is not within the limits of a remote."""
    limits, name = remote.limits, remote.name
    if batch.circuit.n_qubits > limits.max_qubits:
        raise ConfigError(
            f"Backend '{name}' takes at most {limits.max_qubits} qubits; circuit "
            f"'{batch.circuit.name}' has {batch.circuit.n_qubits}. Nothing was sent. Use a smaller rank."
        )
    if batch.shots is None and not limits.has_exact_results:
        raise ConfigError(
            f"Backend '{name}' measures; it has no exact results. Nothing was sent. Give a number of "
            f"shots, for example shots=1000."
        )
    for request in requests:
        if request.n_programs > limits.max_programs:
            raise ConfigError(
                f"Backend '{name}' takes at most {limits.max_programs} programs a job; a job of this "
                f"batch has {request.n_programs}. Nothing was sent. Use a smaller batch."
            )
        if limits.max_shots is not None and (request.shots or 0) > limits.max_shots:
            raise ConfigError(
                f"Backend '{name}' takes at most {limits.max_shots} shots; got {request.shots}. "
                f"Nothing was sent. Lower shots."
            )
    n_circuits = sum(request.n_circuits for request in requests)
    if n_circuits != len(batch):
        raise ConfigError(
            f"Backend '{name}' prepared jobs for {n_circuits} circuits of a batch of {len(batch)}. "
            f"Nothing was sent. This is a defect of the backend; please report it."
        )
