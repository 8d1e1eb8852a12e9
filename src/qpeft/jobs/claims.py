"""Decides, in one transaction, who works on which request of a batch.

Two processes that run the same batch at once come here one after the other: the first plans the rows, the second
finds them held by a living worker and waits. What a dead worker left behind is taken over.
"""

import secrets
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from qpeft.backends.remote import JobRequest
from qpeft.errors import JobsError, UncertainJobError
from qpeft.jobs.budget import Budget, count_used
from qpeft.jobs.journal import COLUMNS, Journal, move, to_row, without_secrets
from qpeft.jobs.owners import Presence, presence
from qpeft.jobs.rows import Row, State, Tally

_MAY_HAVE_ARRIVED = (State.PREPARED, State.UNCERTAIN)


class Role(Enum):
    """What a worker has to do with a row."""

    DONE = "done"  # its result is in the journal
    MINE = "mine"  # to be sent, settled or collected by this worker
    THEIRS = "theirs"  # a living worker is at it


@dataclass(frozen=True)
class Worker:
    """On whose behalf rows are claimed.

    Args:
        owner: The worker's name, from `owners.at_work`.
        backend: Name of the remote.
        label: Which run or purpose it is for.
        budget: What may be sent.
        can_settle: It can find out by itself whether a submission has arrived, or need not know.
    """

    owner: str
    backend: str
    label: str
    budget: Budget
    can_settle: bool


def claim(
    journal: Journal, worker: Worker, requests: Mapping[str, JobRequest]
) -> dict[str, tuple[Role, Row]]:
    """Give every request a row and say who works on it; nothing is sent here.

    Args:
        journal: The journal.
        worker: Who asks.
        requests: By key, in the order in which they are to be sent.

    Raises:
        BudgetError: What is new would pass a cap; nothing has changed.
        UncertainJobError: A request may have arrived and only its owner can tell; nothing is planned.
        JobsError: The disk is too full or the file cannot be written; nothing has changed.
    """
    with journal.store.transaction("Nothing was sent.") as database:
        _free_plans_of_the_dead(database, journal)
        claims: dict[str, tuple[Role, Row]] = {}
        new: list[JobRequest] = []
        unsure: list[Row] = []
        for key, request in requests.items():
            row = _latest(database, worker.backend, key)
            if row is None or not (row.state.is_open or row.state is State.FINISHED):
                new.append(request)
            elif row.state is State.FINISHED:
                claims[key] = (Role.DONE, row)
            elif _is_held(journal, row):
                claims[key] = (Role.THEIRS, row)
            elif row.state in _MAY_HAVE_ARRIVED and not worker.can_settle:
                unsure.append(_mark_unsure(database, row, None))
            else:
                if row.state is State.PLANNED:
                    new.append(request)
                claims[key] = (Role.MINE, row)
        if not unsure:
            _take(database, journal, worker, claims, new)
    if unsure:
        raise uncertain_error(unsure)
    return claims


def plan_again(journal: Journal, worker: Worker, row: Row, state: State, error: str) -> Row:
    """End a row and plan a new one for the same request, in one transaction.

    Args:
        journal: The journal.
        worker: Who holds the row.
        row: The row that came to nothing.
        state: What it ends as.
        error: Why.

    Raises:
        BudgetError: The new row would pass a cap; the old one keeps its state.
    """
    request = journal.request(row)
    with journal.store.transaction() as database:
        if row.state is not state:
            reason = without_secrets(error)
            now = journal.now()
            move(database, row, state, worker.owner, error=reason, finished_at=now)
        used = count_used(database, worker.backend, worker.label)
        worker.budget.charge(used, Tally.of([request]), worker.backend, worker.label)
        return _insert(database, journal, worker, request, row)


def count_failures(journal: Journal, row: Row) -> int:
    """Return how many rows in the chain that ends with this one have failed."""
    n_failures = int(row.state is State.FAILED)
    while row.retry_of is not None:
        row = journal.row(row.retry_of)
        n_failures += row.state is State.FAILED
    return n_failures


def take(journal: Journal, row: Row, owner: str, *, is_forced: bool = False) -> Row | None:
    """Take over an open row that nobody works on, or return None if somebody does.

    A row that a dead worker was sending becomes uncertain.

    Args:
        journal: The journal.
        row: The row.
        owner: Who takes it.
        is_forced: Take it from a worker on another host too.
    """
    with journal.store.transaction() as database:
        row = _by_id(database, row.id)
        seen = presence(row.owner)
        if not row.state.is_open or seen is Presence.ALIVE:
            return None
        if seen is Presence.UNSEEN and not is_forced:
            raise _unseen_error(row)
        if row.state is State.PREPARED:
            row = _mark_unsure(database, row, owner)
        database.execute("UPDATE jobs SET owner = ? WHERE id = ?", [owner, row.id])
        return _by_id(database, row.id)


def uncertain_error(rows: list[Row]) -> UncertainJobError:
    """Return the error that tells whom to ask about these rows."""
    numbers = ", ".join(str(row.id) for row in rows)
    which = f"Row {numbers} was" if len(rows) == 1 else f"Rows {numbers} were"
    return UncertainJobError(
        f"{which} being sent to '{rows[0].backend}' when the process or the connection ended, and "
        f"nothing here can tell whether it arrived. It is not sent again, because it may be paid for "
        f"already. Look at your list of jobs at the provider, then run `qpeft jobs resume`."
    )


def _take(
    database: sqlite3.Connection,
    journal: Journal,
    worker: Worker,
    claims: dict[str, tuple[Role, Row]],
    new: list[JobRequest],
) -> None:
    """Charge what is to be sent, then take over the rows that are ours and plan those that miss."""
    if new:
        journal.store.check_space()
        used = count_used(database, worker.backend, worker.label)
        worker.budget.charge(used, Tally.of(new), worker.backend, worker.label)
    for key, (role, row) in claims.items():
        if role is Role.MINE:
            if row.state is State.PREPARED:
                row = _mark_unsure(database, row, worker.owner)
            database.execute(
                "UPDATE jobs SET owner = ?, label = CASE state WHEN 'planned' THEN ? ELSE label END"
                " WHERE id = ?",
                [worker.owner, worker.label, row.id],
            )
            claims[key] = (role, _by_id(database, row.id))
    for request in new:
        if request.key not in claims:
            row = _insert(database, journal, worker, request, None)
            claims[request.key] = (Role.MINE, row)


def _insert(
    database: sqlite3.Connection,
    journal: Journal,
    worker: Worker,
    request: JobRequest,
    retry_of: Row | None,
) -> Row:
    last = _latest_attempt(database, worker.backend, request.key)
    fields = {
        "key": request.key,
        "attempt": last + 1,
        "retry_of": None if retry_of is None else retry_of.id,
        "tag": f"qpeft-{request.key[:8]}-{last + 1}-{secrets.token_hex(6)}",
        "backend": worker.backend,
        "label": worker.label,
        "state": State.PLANNED,
        "owner": worker.owner,
        "created_at": journal.now(),
        "n_circuits": request.n_circuits,
        "n_programs": request.n_programs,
        "shots": request.shots,
        "payload": zlib.compress(request.text.encode()),
    }
    marks = ", ".join("?" * len(fields))
    cursor = database.execute(
        f"INSERT INTO jobs ({', '.join(fields)}) VALUES ({marks})", list(fields.values())
    )
    assert cursor.lastrowid is not None
    return _by_id(database, cursor.lastrowid)


def _mark_unsure(database: sqlite3.Connection, row: Row, owner: str | None) -> Row:
    """Say of a row that a dead worker left behind while sending that it may have arrived."""
    database.execute(
        "UPDATE jobs SET state = ?, owner = ?, error = coalesce(error, ?) WHERE id = ?",
        [State.UNCERTAIN, owner, "the process ended while it was being sent", row.id],
    )
    return _by_id(database, row.id)


def _free_plans_of_the_dead(database: sqlite3.Connection, journal: Journal) -> None:
    """Give back what dead workers had reserved in the budget and certainly not sent."""
    query = "SELECT DISTINCT owner FROM jobs WHERE state = 'planned' AND owner IS NOT NULL"
    for (owner,) in database.execute(query).fetchall():
        if presence(owner) is Presence.GONE:
            database.execute(
                "UPDATE jobs SET owner = NULL WHERE state = 'planned' AND owner = ?", [owner]
            )


def _is_held(journal: Journal, row: Row) -> bool:
    seen = presence(row.owner)
    if seen is Presence.UNSEEN:
        raise _unseen_error(row)
    return seen is Presence.ALIVE


def _unseen_error(row: Row) -> JobsError:
    return JobsError(
        f"Row {row.id} is held by a process of another host ({row.owner}), and from here nobody can "
        f"tell whether it lives. If it does not: `qpeft jobs resume --take-over`."
    )


def _latest(database: sqlite3.Connection, backend: str, key: str) -> Row | None:
    """Return the row that decides about a request: a finished one, else the last attempt."""
    found = database.execute(
        f"SELECT {COLUMNS} FROM jobs WHERE backend = ? AND key = ?"
        " ORDER BY state = 'finished' DESC, attempt DESC LIMIT 1",
        [backend, key],
    ).fetchone()
    return None if found is None else to_row(found)


def _latest_attempt(database: sqlite3.Connection, backend: str, key: str) -> int:
    query = "SELECT coalesce(max(attempt), 0) FROM jobs WHERE backend = ? AND key = ?"
    return int(database.execute(query, [backend, key]).fetchone()[0])


def _by_id(database: sqlite3.Connection, row_id: int) -> Row:
    query = f"SELECT {COLUMNS} FROM jobs WHERE id = ?"
    return to_row(database.execute(query, [row_id]).fetchone())
