"""The words of the journal: a row is one submission, and a state says what is known of it.

    planned -> prepared -> submitted -> fetched -> finished
       ^          |            |           `-----> failed, cancelled
       |          |            `-----------------> failed, cancelled
       |          `-> uncertain -> submitted, not_sent, cancelled
       `-- certainly not arrived

From `prepared` on a request may have arrived at the machine; before it, it certainly has not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from qpeft.backends.remote import JobRequest


class State(StrEnum):
    """What is known of a submission.

    planned: reserved in the budget, certainly not sent. prepared: being sent. submitted: the machine gave it an
    id. fetched: the raw result is here, not yet interpreted. finished: the result is good. failed: the machine or
    its result failed. cancelled: cancelled there, or given up here. uncertain: nobody can tell whether it
    arrived. not_sent: it was refused or never arrived.
    """

    PLANNED = "planned"
    PREPARED = "prepared"
    SUBMITTED = "submitted"
    FETCHED = "fetched"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"
    NOT_SENT = "not_sent"

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done about it."""
        return bool(NEXT[self]) and self is not State.FAILED


NEXT: Mapping[State, frozenset[State]] = {
    State.PLANNED: frozenset({State.PREPARED, State.NOT_SENT, State.CANCELLED}),
    State.PREPARED: frozenset(
        {State.PLANNED, State.SUBMITTED, State.UNCERTAIN, State.NOT_SENT, State.CANCELLED}
    ),
    State.UNCERTAIN: frozenset({State.SUBMITTED, State.NOT_SENT, State.CANCELLED}),
    State.SUBMITTED: frozenset({State.FETCHED, State.FAILED, State.CANCELLED}),
    State.FETCHED: frozenset({State.FETCHED, State.FINISHED, State.FAILED, State.CANCELLED}),
    # A stored result that could not be read may be readable by a corrected reader.
    State.FAILED: frozenset({State.FINISHED}),
    State.FINISHED: frozenset(),
    State.CANCELLED: frozenset(),
    State.NOT_SENT: frozenset(),
}
"""The states that may follow each state."""


@dataclass(frozen=True)
class Row:
    """One submission, without its payload and result.

    Args:
        id: Its number in the journal.
        key: Content hash of the request.
        attempt: 1 for the first submission of this request to this backend.
        retry_of: The row whose failure it makes up for.
        tag: The name of this submission at the remote.
        backend: Name of the remote.
        label: Which run or purpose it is for.
        state: What is known of it.
        owner: The worker that holds it (see `owners`); None where nobody does.
        created_at: ISO 8601, UTC; so are the other times.
        submitted_at: When the machine had taken it.
        finished_at: When nothing more was to be done.
        job_id: The provider's id.
        n_circuits: Circuits in it.
        n_programs: Programs that the chip runs.
        shots: Shots of each program; None for exact probabilities.
        calibration: Hash of the calibration snapshot.
        error: What went wrong, in the words of who said so.
    """

    id: int
    key: str
    attempt: int
    retry_of: int | None
    tag: str
    backend: str
    label: str
    state: State
    owner: str | None
    created_at: str
    submitted_at: str | None
    finished_at: str | None
    job_id: str | None
    n_circuits: int
    n_programs: int
    shots: int | None
    calibration: str | None
    error: str | None


@dataclass(frozen=True)
class Tally:
    """How much quantum work.

    Args:
        n_circuits: Circuits.
        n_programs: Programs of the chip.
        n_jobs: Submissions.
        n_shots: Shots of all programs; 0 for exact probabilities.
    """

    n_circuits: int = 0
    n_programs: int = 0
    n_jobs: int = 0
    n_shots: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.n_circuits + other.n_circuits,
            self.n_programs + other.n_programs,
            self.n_jobs + other.n_jobs,
            self.n_shots + other.n_shots,
        )

    @classmethod
    def of(cls, items: Iterable[JobRequest | Row]) -> "Tally":
        """Return what these requests or rows amount to."""
        total = cls()
        for item in items:
            n_shots = item.n_programs * (item.shots or 0)
            total += cls(item.n_circuits, item.n_programs, 1, n_shots)
        return total
