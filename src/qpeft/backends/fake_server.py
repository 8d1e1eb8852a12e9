"""What the machine behind `FakeRemote` remembers: a small SQLite file that a killed client cannot damage."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qpeft.backends.remote import JobRequest, JobState
from qpeft.errors import UnknownJobError

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (method TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS struck (kind TEXT PRIMARY KEY, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS late (
    tag TEXT, payload TEXT, n_circuits INTEGER, shots INTEGER);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, tag TEXT NOT NULL, key TEXT NOT NULL, payload TEXT NOT NULL,
    n_circuits INTEGER NOT NULL, shots INTEGER, state TEXT NOT NULL, message TEXT NOT NULL,
    looks_left INTEGER NOT NULL, damages TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Witness:
    """What a machine has seen.

    Args:
        by_tag: How often each submission was accepted.
        by_key: How often each content was accepted.
        faults: How often each kind of fault struck.
        calls: How often each method was called.
        states: How each accepted content ended, in order of acceptance.
    """

    by_tag: Mapping[str, int]
    by_key: Mapping[str, int]
    faults: Mapping[str, int]
    calls: Mapping[str, int]
    states: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ServerJob:
    """A job as the machine keeps it."""

    payload: Mapping[str, Any]
    n_circuits: int
    shots: int | None
    state: str
    message: str
    looks_left: int


class FakeServer:
    """The machine's memory.

    Args:
        folder: Where its file lies; it is made where it is missing.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "fake-machine.sqlite"
        self._database: sqlite3.Connection | None = None
        with self._connected() as database:
            database.executescript(_TABLES)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one step of the machine; a scripted error does not undo it."""
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            self._database = database
            try:
                yield
            finally:
                self._database = None
                database.execute("COMMIT")

    def count(self, method: str) -> int:
        """Count a call and return its number, from 1."""
        self._open.execute(
            "INSERT INTO calls VALUES (?, 1) ON CONFLICT (method) DO UPDATE SET n = n + 1", [method]
        )
        query = "SELECT n FROM calls WHERE method = ?"
        return int(self._open.execute(query, [method]).fetchone()[0])

    def note(self, kinds: Iterable[str]) -> None:
        """Count faults that strike."""
        for kind in kinds:
            self._open.execute(
                "INSERT INTO struck VALUES (?, 1) ON CONFLICT (kind) DO UPDATE SET n = n + 1",
                [kind],
            )

    def delay_arrival(self, request: JobRequest, tag: str) -> None:
        """Keep a request that is still on its way."""
        values = [tag, request.text, request.n_circuits, request.shots]
        self._open.execute("INSERT INTO late VALUES (?, ?, ?, ?)", values)

    def arrivals(self) -> list[tuple[Mapping[str, Any], str, int, int | None]]:
        """Return, once, the requests that arrive late: payload, tag, circuits, shots."""
        query = "SELECT payload, tag, n_circuits, shots FROM late"
        rows = self._open.execute(query).fetchall()
        self._open.execute("DELETE FROM late")
        return [(json.loads(text), tag, n_circuits, shots) for text, tag, n_circuits, shots in rows]

    def accept(
        self, request: JobRequest, tag: str, state: JobState, message: str, looks_left: int
    ) -> str:
        """Accept a job, however often it was accepted before, and return its id."""
        fields = [tag, request.key, request.text, request.n_circuits, request.shots]
        marks = ", ".join("?" * 9)
        cursor = self._open.execute(
            "INSERT INTO jobs (tag, key, payload, n_circuits, shots, state, message, looks_left,"
            f" damages) VALUES ({marks})",
            [*fields, state, message, looks_left, "[]"],
        )
        return f"fake-{cursor.lastrowid}"

    def find(self, tag: str) -> str | None:
        """Return the id of the job that was accepted with a tag."""
        row = self._open.execute("SELECT number FROM jobs WHERE tag = ?", [tag]).fetchone()
        return None if row is None else f"fake-{row[0]}"

    def job(self, job_id: str) -> ServerJob:
        """Return a job.

        Raises:
            RemoteError: There is none of this id.
        """
        text = job_id.removeprefix("fake-")
        row = self._open.execute(
            "SELECT payload, n_circuits, shots, state, message, looks_left FROM jobs"
            " WHERE number = ?",
            [int(text) if text.isdecimal() else -1],
        ).fetchone()
        if row is None:
            raise UnknownJobError(f"The machine has no job '{job_id}'.")
        return ServerJob(json.loads(row[0]), *row[1:])

    def look(self, job_id: str) -> ServerJob:
        """Return a job as it stands and bring it one step on."""
        job = self.job(job_id)
        self._update(job_id, "looks_left", max(0, job.looks_left - 1))
        return job

    def cancel(self, job_id: str) -> None:
        """Cancel a job that is not at its end."""
        if self.job(job_id).looks_left > 0:
            self._update(job_id, "state", JobState.CANCELLED)
            self._update(job_id, "message", "cancelled by its owner")
            self._update(job_id, "looks_left", 0)

    def damages(self, job_id: str, more: Sequence[str]) -> list[str]:
        """Return how a job's result is damaged for good, after adding to it."""
        number = int(job_id.removeprefix("fake-"))
        query = "SELECT damages FROM jobs WHERE number = ?"
        kinds = [*json.loads(self._open.execute(query, [number]).fetchone()[0]), *more]
        self._update(job_id, "damages", json.dumps(kinds))
        return kinds

    def witness(self) -> Witness:
        """Return what the machine has seen."""
        with self._connected() as database:
            jobs = database.execute("SELECT tag, key, state FROM jobs ORDER BY number").fetchall()
            faults = dict(database.execute("SELECT kind, n FROM struck").fetchall())
            calls = dict(database.execute("SELECT method, n FROM calls").fetchall())
        states: dict[str, list[str]] = {}
        for _, key, state in jobs:
            states.setdefault(key, []).append(state)
        by_tag, by_key = Counter(job[0] for job in jobs), Counter(job[1] for job in jobs)
        return Witness(dict(by_tag), dict(by_key), faults, calls, states)

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._database is not None, "inside a transaction"
        return self._database

    def _update(self, job_id: str, column: str, value: Any) -> None:
        number = int(job_id.removeprefix("fake-"))
        self._open.execute(f"UPDATE jobs SET {column} = ? WHERE number = ?", [value, number])

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one step, so that forks and threads share nothing."""
        with closing(sqlite3.connect(self._file, timeout=30, isolation_level=None)) as database:
            # A process that is killed cannot lose what it committed; a power cut may, and it is a test's machine.
            database.execute("PRAGMA synchronous = OFF")
            yield database
