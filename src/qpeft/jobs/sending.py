"""Sends one row, and finds out about rows of which nobody knows whether they arrived."""

from qpeft.backends.remote import JobRequest
from qpeft.errors import (
    ConfigError,
    CorruptResultError,
    JobFailedError,
    JobsError,
    MissingExtraError,
    NotSentError,
    RemoteError,
    TransientError,
)
from qpeft.jobs.calls import Calls, hold_signals
from qpeft.jobs.claims import Worker, plan_again, uncertain_error
from qpeft.jobs.journal import Journal
from qpeft.jobs.rows import Row, State

MAX_LOST = 3
"""How often one request may vanish on its way before sending it is given up."""
_RECORD_PAUSES = (0.2, 1.0, 3.0)


class Sender:
    """Brings planned rows to `submitted`, each exactly once.

    Args:
        calls: The remote.
        journal: The journal.
        worker: Who holds the rows.
    """

    def __init__(self, calls: Calls, journal: Journal, worker: Worker):
        self.calls, self.journal, self.worker = calls, journal, worker
        self.sent: list[Row] = []
        self._name = calls.remote.name

    def send(self, row: Row) -> Row:
        """Send a planned row and return it, or a later attempt of it, as submitted.

        Raises:
            UncertainJobError: It may have arrived, and only the owner of the account can tell.
            NotSentError: It could not be sent, in a bounded number of tries.
            RemoteError: The machine refused it.
            JobsError: The journal cannot be written; the message says what was sent.
        """
        for _ in range(MAX_LOST):
            row = self._try(row)
            if row.state is State.UNCERTAIN:
                row = self.settle(row)
            if row.state is not State.PLANNED:
                self.sent.append(row)
                return row
        text = f"'{self._name}' lost the request of row {row.id} {MAX_LOST} times on its way."
        self.journal.set_not_sent(row, self.worker.owner, text)
        raise NotSentError(f"{text} Check the connection and run the same command again.")

    def settle(self, row: Row) -> Row:
        """Find out about an uncertain row; return it as submitted, or a new planned row in its place.

        Raises:
            UncertainJobError: Only the owner of the account can tell.
        """
        limits = self.calls.remote.limits
        if limits.can_find:
            job_id = self.calls.find(row.tag)
            if job_id is not None:
                return self._record(row, job_id)
            reason = "the machine knows no submission of this tag"
            return plan_again(self.journal, self.worker, row, State.NOT_SENT, reason)
        if limits.is_repeatable:
            reason = "it may have arrived; sent again, which costs nothing here"
            return plan_again(self.journal, self.worker, row, State.CANCELLED, reason)
        raise uncertain_error([row])

    def _try(self, row: Row) -> Row:
        """Send a planned row; return it as submitted or uncertain."""
        request, owner = self.journal.request(row), self.worker.owner
        try:
            return self.calls.send(lambda: self._send_once(row, request))
        except (TransientError, JobFailedError, CorruptResultError) as error:
            current = self.journal.row(row.id)
            if current.state is State.PLANNED:  # every try failed before it left
                text = f"'{self._name}' could not be reached: {error}"
                self.journal.set_not_sent(current, owner, text)
                raise NotSentError(
                    f"{text} Nothing of row {row.id} was sent; it is kept in the journal. Check the "
                    f"connection and run the same command again."
                ) from error
            return current

    def _send_once(self, row: Row, request: JobRequest) -> Row:
        journal, owner = self.journal, self.worker.owner
        with hold_signals():
            prepared = journal.set_prepared(row, owner)
            try:
                job_id = self.calls.remote.submit(request, prepared.tag)
            except NotSentError:
                journal.set_planned(prepared, owner)
                raise
            except (TransientError, JobFailedError, CorruptResultError) as error:
                journal.set_uncertain(prepared, owner, str(error))
                raise
            except (RemoteError, ConfigError, MissingExtraError) as error:
                journal.set_not_sent(prepared, owner, str(error))
                raise
            except BaseException as error:
                # A second Ctrl-C, or a defect in a provider's client: it may have arrived.
                journal.set_uncertain(prepared, owner, f"{type(error).__name__}: {error}")
                raise
            return self._record(prepared, job_id)

    def _record(self, row: Row, job_id: str) -> Row:
        """Write a job's id down; if the disk refuses for seconds, tell the id to the reader."""
        for pause in (*_RECORD_PAUSES, None):
            try:
                return self.journal.set_submitted(row, self.worker.owner, job_id)
            except JobsError as error:
                if pause is None:
                    raise JobsError(
                        f"Row {row.id} was sent to '{self._name}' as job '{job_id}', but this could not "
                        f"be written down. KEEP THIS ID. {error} Then run `qpeft jobs resume` and give "
                        f"it the id."
                    ) from error
                self.calls.sleep(pause)
        raise AssertionError("unreachable")
