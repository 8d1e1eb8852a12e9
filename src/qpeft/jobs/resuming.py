"""Collects what earlier processes left at the machines, and asks a person about what nobody else can tell.

Nothing is sent here but what that person says was not sent.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from qpeft.backends.remote import Remote
from qpeft.errors import JobsError, RemoteError, UncertainJobError
from qpeft.jobs.budget import Budget
from qpeft.jobs.calls import Calls
from qpeft.jobs.claims import Worker, plan_again, take
from qpeft.jobs.collecting import Collector
from qpeft.jobs.journal import Journal
from qpeft.jobs.owners import at_work
from qpeft.jobs.rows import Row, State
from qpeft.jobs.runner import Pause
from qpeft.jobs.sending import Sender


@dataclass(frozen=True)
class WasSent:
    """The person found the submission at the provider.

    Args:
        job_id: What the provider calls it.
    """

    job_id: str


@dataclass(frozen=True)
class SendAgain:
    """The person is sure that it was not sent."""


@dataclass(frozen=True)
class Forget:
    """It is not wanted any more, whether it was sent or not."""


@dataclass(frozen=True)
class Later:
    """Leave it as it is."""


Decision = WasSent | SendAgain | Forget | Later


@dataclass
class Resumed:
    """What `resume` did, by row.

    Args:
        finished: Their results are in the journal now.
        failed: The machine failed them, or they were cancelled there.
        waiting: Still at the machine, or left uncertain.
        forgotten: Given up.
        problems: What a remote said when it was asked about a row.
    """

    finished: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    waiting: list[Row] = field(default_factory=list)
    forgotten: list[Row] = field(default_factory=list)
    problems: list[tuple[Row, str]] = field(default_factory=list)


def resume(
    journal: Journal,
    remote_of: Callable[[str], Remote],
    ask: Callable[[Row], Decision],
    *,
    waits: bool = True,
    takes_over: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    first_poll_seconds: float = 2.0,
    max_poll_seconds: float = 60.0,
) -> Resumed:
    """Collect everything outstanding of which no living process takes care.

    Args:
        journal: The journal.
        remote_of: Returns the remote of a name.
        ask: What became of an uncertain row; called only where the remote cannot tell.
        waits: Poll until every job is at its end; False looks once.
        takes_over: Take rows from workers on other hosts too, whose life cannot be seen from here.
        sleep: Waits some seconds.
        first_poll_seconds: The first wait for results.
        max_poll_seconds: The longest one.

    Returns:
        What became of each row. Rows that were only planned stay so; the next run sends them.

    Raises:
        JobsError: The journal cannot be written, or a row is held on another host.
    """
    report = Resumed()
    with at_work() as owner:
        try:
            desk = _Desk(journal, remote_of, ask, owner, sleep, report)
            open_rows = desk.take_all(takes_over)
            pause = Pause(first_poll_seconds, max_poll_seconds)
            while open_rows:
                left = [row for row in open_rows if not desk.collect(row)]
                if not waits or not left:
                    report.waiting += left
                    break
                if len(left) < len(open_rows):
                    pause.reset()
                open_rows = left
                sleep(pause.next())
        finally:
            journal.release(owner)
    return report


def forget(journal: Journal, row_id: int) -> Row:
    """Give up an open row that no living process holds; it still counts as used.

    Raises:
        JobsError: There is no such row, a living process holds it, or it is at its end.
    """
    row = journal.row(row_id)
    with at_work() as owner:
        taken = take(journal, row, owner, is_forced=True)
        if taken is None:
            why = "a running process holds it" if row.state.is_open else f"it is {row.state}"
            raise JobsError(f"Row {row_id} cannot be given up: {why}.")
        forgotten = journal.set_cancelled(taken, owner, "given up by its owner")
        journal.release(owner)
    return journal.row(forgotten.id)


class _Desk:
    """Takes rows, settles and collects them one by one."""

    def __init__(
        self,
        journal: Journal,
        remote_of: Callable[[str], Remote],
        ask: Callable[[Row], Decision],
        owner: str,
        sleep: Callable[[float], None],
        report: Resumed,
    ):
        self.journal, self.ask, self.owner, self.report = journal, ask, owner, report
        self._remote_of, self._sleep = remote_of, sleep
        self._collectors: dict[str, Collector] = {}

    def take_all(self, takes_over: bool) -> list[Row]:
        """Take every row that may be at a machine, settled where it was uncertain."""
        states = (State.PREPARED, State.UNCERTAIN, State.SUBMITTED, State.FETCHED)
        marks = ", ".join("?" * len(states))
        taken = []
        for row in self.journal.rows(f"state IN ({marks})", states):
            held = take(self.journal, row, self.owner, is_forced=takes_over)
            if held is None:
                continue
            try:
                settled = self._settle(held) if held.state is State.UNCERTAIN else held
            except (RemoteError, UncertainJobError) as error:
                self.report.problems.append((held, str(error)))
                continue
            if settled is not None:
                taken.append(settled)
        return taken

    def collect(self, row: Row) -> bool:
        """Look at a row; return whether nothing more is to be done about it here."""
        collector = self._collector(row.backend)
        try:
            status = collector.status(row)
            if not status.state.is_final:
                return False
            row, result = collector.finish(row, status)
        except RemoteError as error:
            self.report.problems.append((row, str(error)))
            return True
        (self.report.failed if result is None else self.report.finished).append(row)
        return True

    def _settle(self, row: Row) -> Row | None:
        """Return an uncertain row as submitted, or None if nothing is left to collect."""
        limits = self._collector(row.backend).calls.remote.limits
        if limits.can_find:
            return self._look_for(row)
        if limits.is_repeatable:
            reason = "it may have arrived; the next run sends it again, which costs nothing here"
            self.report.forgotten.append(self.journal.set_cancelled(row, self.owner, reason))
            return None
        decision = self.ask(row)
        if isinstance(decision, WasSent):
            return self._attach(row, decision.job_id)
        if isinstance(decision, SendAgain):
            return self._send_again(row)
        if isinstance(decision, Forget):
            reason = "given up by its owner"
            self.report.forgotten.append(self.journal.set_cancelled(row, self.owner, reason))
        else:
            self.report.waiting.append(row)
        return None

    def _look_for(self, row: Row) -> Row | None:
        job_id = self._collector(row.backend).calls.find(row.tag)
        if job_id is not None:
            return self.journal.set_submitted(row, self.owner, job_id)
        reason = "the machine knows no submission of this tag; the next run sends it"
        self.report.forgotten.append(self.journal.set_not_sent(row, self.owner, reason))
        return None

    def _attach(self, row: Row, job_id: str) -> Row:
        """Give a row the id that a person found, once the machine knows a job of that id."""
        others = self.journal.rows("backend = ? AND job_id = ?", [row.backend, job_id])
        if others:
            raise RemoteError(
                f"Job '{job_id}' belongs to row {others[0].id} already; got it for row {row.id}. "
                f"Look the id up again and run `qpeft jobs resume`."
            )
        self._collector(row.backend).calls.status(job_id)
        return self.journal.set_submitted(row, self.owner, job_id)

    def _send_again(self, row: Row) -> Row:
        worker = Worker(self.owner, row.backend, row.label, Budget(), can_settle=False)
        reason = "its owner says that it was not sent"
        again = plan_again(self.journal, worker, row, State.NOT_SENT, reason)
        calls = self._collector(row.backend).calls
        return Sender(calls, self.journal, worker).send(again)

    def _collector(self, backend: str) -> Collector:
        if backend not in self._collectors:
            calls = Calls(self._remote_of(backend), self._sleep)
            self._collectors[backend] = Collector(calls, self.journal, self.owner)
        return self._collectors[backend]
