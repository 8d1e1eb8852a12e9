"""The journal of hardware jobs: what was sent to which machine, and what came back.

One row a submission. Every change of a row is one committed transaction, made only by the worker that holds the
row, so that whatever instant a process dies at, the file says truly what may have been sent.
"""

import hashlib
import json
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpeft.backends.remote import JobRequest
from qpeft.errors import JobsError
from qpeft.jobs.rows import NEXT, Row, State
from qpeft.jobs.store import Store

COLUMNS = ", ".join(Row.__dataclass_fields__)


class Journal:
    """A SQLite file of submissions, shared by the threads and processes of one machine.

    Args:
        path: The file; it is made where it is missing.
        busy_seconds: How long to wait for another process's transaction.
        clock: Seconds since 1970, for the times in the rows.

    Raises:
        JobsError: The file cannot be opened, is not a journal, or a newer qpeft wrote it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        busy_seconds: float = 30.0,
        clock: Callable[[], float] = time.time,
    ):
        self.store = Store(path, busy_seconds)
        self._clock = clock

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.store.path

    def close(self) -> None:
        """Close the file; it opens again by itself when it is used."""
        self.store.close()

    def row(self, row_id: int) -> Row:
        """Return one row.

        Raises:
            JobsError: There is no row of this number.
        """
        found = self.rows("id = ?", [row_id])
        if not found:
            raise JobsError(
                f"The journal {self.path} has no row {row_id}. See `qpeft jobs` for its rows."
            )
        return found[0]

    def rows(self, condition: str = "1", values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows that meet an SQL condition, oldest first."""
        query = f"SELECT {COLUMNS} FROM jobs WHERE {condition} ORDER BY id"
        return [to_row(found) for found in self.store.select(query, values)]

    def finished(self, backend: str, keys: Iterable[str]) -> dict[str, Row]:
        """Return the finished row of each of these requests that has one."""
        found = {}
        for key in keys:
            rows = self.rows("backend = ? AND key = ? AND state = 'finished'", [backend, key])
            if rows:
                found[key] = rows[0]
        return found

    def unread(self, backend: str, key: str) -> Row | None:
        """Return the last row of a request if it failed although a result came, else None."""
        rows = self.rows("backend = ? AND key = ?", [backend, key])
        if not rows or rows[-1].state is not State.FAILED or self.raw(rows[-1]) is None:
            return None
        return rows[-1]

    def request(self, row: Row) -> JobRequest:
        """Return the request of a row as it was sent."""
        payload = self._blob(row, "payload")
        return JobRequest(payload, row.n_circuits, row.n_programs, row.shots)

    def raw(self, row: Row) -> Any:
        """Return the raw result of a row as it came, or None if there is none."""
        return self._blob(row, "result")

    def snapshot(self, row: Row) -> Any:
        """Return the calibration of a row as JSON data, or None if there is none."""
        query = "SELECT snapshot FROM calibrations WHERE hash = ?"
        found = self.store.select(query, [row.calibration])
        return json.loads(found[0][0]) if found else None

    def set_planned(self, row: Row, owner: str) -> Row:
        """Say that a request that was being sent has certainly not arrived, and may be sent."""
        return self._move(row, State.PLANNED, owner)

    def set_prepared(self, row: Row, owner: str) -> Row:
        """Say that a request is about to be sent: from here on it may arrive."""
        return self._move(row, State.PREPARED, owner, consequence="Nothing of it was sent.")

    def set_submitted(self, row: Row, owner: str, job_id: str) -> Row:
        """Say that the machine took a request and what it calls it."""
        return self._move(row, State.SUBMITTED, owner, job_id=job_id, submitted_at=self.now())

    def set_uncertain(self, row: Row, owner: str, error: str) -> Row:
        """Say that nobody can tell whether a request arrived."""
        return self._move(row, State.UNCERTAIN, owner, error=without_secrets(error))

    def set_not_sent(self, row: Row, owner: str, error: str) -> Row:
        """Say that a request has certainly not arrived and will not be sent as this row."""
        return self._end(row, State.NOT_SENT, owner, error)

    def set_fetched(self, row: Row, owner: str, raw: Any, calibration: Any) -> Row:
        """Store a raw result as it came, before anybody interprets it.

        Args:
            row: A submitted row, or a fetched one whose result could not be read.
            owner: Who holds it.
            raw: JSON data.
            calibration: The chip's calibration as JSON data; None where there is none.
        """
        blob = zlib.compress(json.dumps(raw, separators=(",", ":")).encode())
        consequence = "The result is still at the machine; it will be collected later."
        if calibration is None:
            return self._move(row, State.FETCHED, owner, consequence=consequence, result=blob)
        text = json.dumps(calibration, sort_keys=True, separators=(",", ":"))
        name = hashlib.sha256(text.encode()).hexdigest()
        with self.store.transaction(consequence) as database:
            database.execute("INSERT OR IGNORE INTO calibrations VALUES (?, ?)", [name, text])
            move(database, row, State.FETCHED, owner, result=blob, calibration=name)
        return self.row(row.id)

    def set_finished(self, row: Row, owner: str) -> Row:
        """Say that the result of a row is good."""
        return self._move(row, State.FINISHED, owner, finished_at=self.now(), error=None)

    def set_read_after_all(self, row: Row) -> None:
        """Say that the stored result of a failed row, which nobody holds, is good after all."""
        with self.store.transaction() as database:
            database.execute(
                "UPDATE jobs SET state = 'finished', error = NULL WHERE id = ? AND state = 'failed'",
                [row.id],
            )

    def set_failed(self, row: Row, owner: str, error: str) -> Row:
        """Say that the machine gave no result, or none that can be read."""
        return self._end(row, State.FAILED, owner, error)

    def set_cancelled(self, row: Row, owner: str, error: str) -> Row:
        """Say that a job was cancelled at the machine, or that it is given up here."""
        return self._end(row, State.CANCELLED, owner, error)

    def release(self, owner: str) -> None:
        """Let go of every row that a worker holds, so that another may go on with it."""
        with self.store.transaction() as database:
            database.execute("UPDATE jobs SET owner = NULL WHERE owner = ?", [owner])

    def now(self) -> str:
        """Return the time, ISO 8601, UTC."""
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")

    def _move(
        self, row: Row, state: State, owner: str, *, consequence: str = "", **fields: Any
    ) -> Row:
        with self.store.transaction(consequence) as database:
            move(database, row, state, owner, **fields)
        return self.row(row.id)

    def _end(self, row: Row, state: State, owner: str, error: str) -> Row:
        return self._move(row, state, owner, error=without_secrets(error), finished_at=self.now())

    def _blob(self, row: Row, column: str) -> Any:
        blob = self.store.select(f"SELECT {column} FROM jobs WHERE id = ?", [row.id])[0][0]
        if blob is None:
            return None
        try:
            return json.loads(zlib.decompress(blob))
        except (zlib.error, ValueError) as error:
            raise JobsError(
                f"The {column} of row {row.id} in the journal {self.path} is damaged ({error}). "
                f"Restore the file from a copy."
            ) from error


def move(database: sqlite3.Connection, row: Row, state: State, owner: str, **fields: Any) -> None:
    """Change a row's state inside a transaction; only its owner may, and only as `NEXT` says.

    Raises:
        JobsError: Another worker holds the row now.
    """
    assert state in NEXT[row.state], f"row {row.id}: {row.state} -> {state}"
    assigned = ", ".join(f"{name} = ?" for name in ("state", *fields))
    changed = database.execute(
        f"UPDATE jobs SET {assigned} WHERE id = ? AND state = ? AND owner = ?",
        [state, *fields.values(), row.id, row.state, owner],
    ).rowcount
    if changed != 1:
        raise JobsError(
            f"Row {row.id} of the journal is no longer held by this run: another one has taken it "
            f"over. Run the same command again; it goes on from what the journal says."
        )


def to_row(found: sqlite3.Row) -> Row:
    """Return a row of the database as our `Row`."""
    values = {name: found[name] for name in Row.__dataclass_fields__}
    values["state"] = State(values["state"])
    return Row(**values)


_SECRET_NAME = re.compile("key|token|secret|passw|credential", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return a provider's words without any key that the environment holds."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, f"<{name}>")
    return text
