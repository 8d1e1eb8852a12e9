"""The queue on disk: one SQLite file, in which no task is lost when the process ends.

    queued --> computing --> finished | failed
       \\----------\\------> cancelled

A task that was computing when the process ended is queued again at the next start; its outcomes are drawn from its
number, so that they are the same.
"""

import json
import secrets
import sqlite3
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class TaskState(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    COMPUTING = "computing"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = (TaskState.QUEUED, TaskState.COMPUTING)


@dataclass(frozen=True)
class Task:
    """A task without its programs and results.

    Args:
        number: In the order of arrival, from 1.
        task_id: What its user knows it by.
        user: Whose it is.
        chip: Name of the chip.
        state: Where it stands.
        n_programs: Programs in it.
        shots: Of each program.
        options: As JSON data.
        created: Seconds since 1970; likewise started and ended.
        error: Why it failed.
    """

    number: int
    task_id: str
    user: str
    chip: str
    state: TaskState
    n_programs: int
    shots: int
    options: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    error: str


_COLUMNS = (
    "number, task_id, user, chip, state, n_programs, shots, options, created, started, ended, error"
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT UNIQUE NOT NULL, user TEXT NOT NULL,
    chip TEXT NOT NULL, state TEXT NOT NULL, n_programs INTEGER NOT NULL, shots INTEGER NOT NULL,
    options TEXT NOT NULL, created REAL NOT NULL, started REAL, ended REAL, error TEXT NOT NULL DEFAULT '',
    programs BLOB NOT NULL, result BLOB
);
CREATE INDEX IF NOT EXISTS tasks_by_state ON tasks (state, number);
CREATE INDEX IF NOT EXISTS tasks_by_user ON tasks (user, created);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Store:
    """The tasks of all users.

    Args:
        path: The SQLite file; it is made where it is missing.
        seed: Of a new file; an old one keeps its own.
    """

    def __init__(self, path: Path, seed: int = 0):
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        facts = [("made_at", repr(time.time())), ("seed", str(seed))]
        self._db.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?)", facts)
        known = dict(self._db.execute("SELECT name, value FROM facts"))
        self.made_at, self.seed = float(known["made_at"]), int(known["seed"])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def add(
        self, user: str, chip: str, programs: Sequence[str], shots: int, options: dict[str, Any]
    ) -> Task:
        """Queue a task; when this returns it is on the disk."""
        task_id = secrets.token_hex(16).upper()
        row = (task_id, user, chip, TaskState.QUEUED, len(programs), shots)
        rest = (json.dumps(options), time.time(), _pack(list(programs)))
        with self._lock:
            self._db.execute(
                "INSERT INTO tasks (task_id, user, chip, state, n_programs, shots, options, created, "
                "programs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row + rest,
            )
        task = self.find(user, task_id)
        assert task is not None
        return task

    def find(self, user: str, task_id: str) -> Task | None:
        """Return a task of this user, or None."""
        return self._one("WHERE user = ? AND task_id = ?", (user, task_id))

    def next_due(self, before: float) -> Task | None:
        """Return the first queued task that was created before some time."""
        return self._one(
            "WHERE state = ? AND created <= ? ORDER BY number LIMIT 1", (TaskState.QUEUED, before)
        )

    def programs(self, task: Task) -> list[str]:
        """Return a task's programs."""
        return list(_unpack(self._blob("programs", task)))

    def result(self, task: Task) -> Any:
        """Return the result of a finished task."""
        return _unpack(self._blob("result", task))

    def start(self, task: Task) -> bool:
        """Take a task off the queue; False if it is not queued any more."""
        return self._move(task, (TaskState.QUEUED,), TaskState.COMPUTING, "started")

    def finish(self, task: Task, result: Any) -> bool:
        """Keep a result; False if the task was cancelled meanwhile."""
        return self._move(
            task, (TaskState.COMPUTING,), TaskState.FINISHED, "ended", result=_pack(result)
        )

    def fail(self, task: Task, error: str) -> bool:
        """Say why a task failed; False if it was cancelled meanwhile."""
        return self._move(task, (TaskState.COMPUTING,), TaskState.FAILED, "ended", error=error)

    def cancel(self, task: Task) -> bool:
        """Cancel a task; False if it is at its end already."""
        return self._move(task, OPEN, TaskState.CANCELLED, "ended", error="cancelled by its user")

    def requeue_interrupted(self) -> int:
        """Queue again what was computing when the last process ended, and return how many."""
        with self._lock:
            done = self._db.execute(
                "UPDATE tasks SET state = ?, started = NULL WHERE state = ?",
                (TaskState.QUEUED, TaskState.COMPUTING),
            )
        return done.rowcount

    def n_open(self, user: str | None = None) -> int:
        """Count tasks that wait or run, of one user or of all."""
        where = "state IN (?, ?)" + ("" if user is None else " AND user = ?")
        values = OPEN if user is None else (*OPEN, user)
        with self._lock:
            found = self._db.execute(f"SELECT COUNT(*) FROM tasks WHERE {where}", values)
            return int(found.fetchone()[0])

    def shots_since(self, user: str, since: float) -> int:
        """Sum the shots of all programs that a user has sent since some time."""
        with self._lock:
            found = self._db.execute(
                "SELECT COALESCE(SUM(shots * n_programs), 0) FROM tasks WHERE user = ? AND created >= ?",
                (user, since),
            )
            return int(found.fetchone()[0])

    def _move(
        self, task: Task, olds: Sequence[TaskState], new: TaskState, when: str, **values: Any
    ) -> bool:
        fields = {"state": new, when: time.time(), **values}
        assignments = ", ".join(f"{name} = ?" for name in fields)
        marks = ", ".join("?" * len(olds))
        with self._lock:
            done = self._db.execute(
                f"UPDATE tasks SET {assignments} WHERE number = ? AND state IN ({marks})",
                (*fields.values(), task.number, *olds),
            )
        return done.rowcount == 1

    def _one(self, where: str, values: tuple[Any, ...]) -> Task | None:
        with self._lock:
            row = self._db.execute(f"SELECT {_COLUMNS} FROM tasks {where}", values).fetchone()
        if row is None:
            return None
        number, task_id, user, chip, state, n_programs, shots, options, *rest = row
        return Task(
            number,
            task_id,
            user,
            chip,
            TaskState(state),
            n_programs,
            shots,
            json.loads(options),
            *rest,
        )

    def _blob(self, column: str, task: Task) -> bytes:
        with self._lock:
            found = self._db.execute(
                f"SELECT {column} FROM tasks WHERE number = ?", (task.number,)
            ).fetchone()
        return bytes(found[0])


def _pack(data: Any) -> bytes:
    return zlib.compress(json.dumps(data, separators=(",", ":")).encode(), level=3)


def _unpack(blob: bytes) -> Any:
    return json.loads(zlib.decompress(blob))
