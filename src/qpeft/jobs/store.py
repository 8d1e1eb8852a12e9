"""Opens the journal's file: one SQLite database that every commit leaves durable.

One connection a process, shared by its threads one transaction at a time; several processes wait for each other.
"""

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qpeft.errors import JobsError

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x71706A31  # "qpj1": the file is one of ours
MIN_FREE_BYTES = 32 * 2**20
"""Free space below which nothing is sent: a result that comes back must find room."""

_SCHEMA = (
    "CREATE TABLE calibrations (hash TEXT PRIMARY KEY, snapshot TEXT NOT NULL)",
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        retry_of INTEGER REFERENCES jobs (id),
        tag TEXT NOT NULL UNIQUE,
        backend TEXT NOT NULL,
        label TEXT NOT NULL,
        state TEXT NOT NULL,
        owner TEXT,
        created_at TEXT NOT NULL,
        submitted_at TEXT,
        finished_at TEXT,
        job_id TEXT,
        n_circuits INTEGER NOT NULL,
        n_programs INTEGER NOT NULL,
        shots INTEGER,
        calibration TEXT REFERENCES calibrations (hash),
        error TEXT,
        payload BLOB NOT NULL,
        result BLOB,
        UNIQUE (backend, key, attempt)
    )""",
    "CREATE INDEX jobs_by_label ON jobs (backend, label)",
    "CREATE INDEX jobs_by_owner ON jobs (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX jobs_open ON jobs (state) WHERE state NOT IN ('finished', 'failed')",
)

_HINTS = {
    "full": "Free some space and run the same command again.",
    "readonly": "Make the file and its folder writable and run the same command again.",
    "locked": "Another process holds it; end that process or wait, then run the same command again.",
    "not a database": "Choose another path for the journal.",
    "unable to open": "Choose a path whose folder exists and can be written to.",
}


class Store:
    """A SQLite file with transactions.

    Args:
        path: The file; it and its folder are made where they are missing.
        busy_seconds: How long to wait for another process's transaction.

    Raises:
        JobsError: The file cannot be opened, is not a journal, or a newer qpeft wrote it.
    """

    def __init__(self, path: str | Path, busy_seconds: float = 30.0):
        self.path = Path(path)
        self._busy_seconds = busy_seconds
        self._inherited: list[sqlite3.Connection] = []
        self._pid = -1
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JobsError(
                f"Cannot make the folder of the journal {self.path} ({error.strerror}). "
                f"Choose another path."
            ) from error
        self._open()

    @contextmanager
    def transaction(self, consequence: str = "") -> Iterator[sqlite3.Connection]:
        """Run a block as one transaction: all of it is on the disk afterwards, or nothing.

        Args:
            consequence: What a failure means to the reader, for example "Nothing was sent."

        Raises:
            JobsError: The file cannot be written.
        """
        self._after_fork()
        with self._lock, self._translated(consequence):
            database = self._connection
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")

    def select(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        self._after_fork()
        with self._lock, self._translated(""):
            return self._connection.execute(query, values).fetchall()

    def check_space(self) -> None:
        """Raise JobsError if the disk is too full to keep what a machine would send back."""
        free = shutil.disk_usage(self.path.parent).free
        if free < MIN_FREE_BYTES:
            raise JobsError(
                f"Only {free // 2**20} MB are free where the journal {self.path} lies; results might "
                f"find no room. Nothing was sent. Free at least {MIN_FREE_BYTES // 2**20} MB."
            )

    def close(self) -> None:
        """Close the file; it opens again by itself when it is used."""
        self._after_fork()
        with self._lock:
            self._connection.close()
            self._pid = -1

    def _after_fork(self) -> None:
        if self._pid == os.getpid():
            return
        if self._pid != -1:
            # SQLite forbids a child to use, or even to close, its parent's connection.
            self._inherited.append(self._connection)
            self._pid = -1
        self._open()

    def _open(self) -> None:
        with self._translated(""):
            database = sqlite3.connect(
                self.path,
                timeout=self._busy_seconds,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._set_up(database)
            except BaseException:
                database.close()
                raise
        self._connection, self._lock, self._pid = database, threading.RLock(), os.getpid()

    def _set_up(self, database: sqlite3.Connection) -> None:
        database.row_factory = sqlite3.Row
        self._switch_to_wal(database)
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        if self._is_current(database):
            return
        database.execute("BEGIN IMMEDIATE")
        try:
            if not self._is_current(database):  # another process may have been quicker
                for statement in _SCHEMA:
                    database.execute(statement)
                database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            database.execute("COMMIT")
        finally:
            if database.in_transaction:
                database.execute("ROLLBACK")

    def _switch_to_wal(self, database: sqlite3.Connection) -> None:
        """Turn on write-ahead logging; SQLite does not wait for others here, so we do."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                database.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _is_current(self, database: sqlite3.Connection) -> bool:
        """Return whether the tables are there; False for a new file."""
        version = database.execute("PRAGMA user_version").fetchone()[0]
        owner = database.execute("PRAGMA application_id").fetchone()[0]
        n_tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if n_tables == 0:
            return False
        if owner != _APPLICATION_ID:
            raise JobsError(
                f"{self.path} is a database of another program, not a journal of jobs. "
                f"Choose another path for the journal."
            )
        if version > SCHEMA_VERSION:
            raise JobsError(
                f"The journal {self.path} has schema {version}, written by a newer qpeft; this one "
                f"knows schema {SCHEMA_VERSION}. Update qpeft: pip install -U qpeft."
            )
        return True

    @contextmanager
    def _translated(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            hints = [hint for word, hint in _HINTS.items() if word in text]
            advice = hints[0] if hints else "Check the disk and the file's permissions."
            parts = (f"Cannot use the journal {self.path}: {text}.", consequence, advice)
            raise JobsError(" ".join(part for part in parts if part)) from error
