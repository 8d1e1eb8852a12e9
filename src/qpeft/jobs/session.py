"""Where jobs are recorded and what they may cost, for all layers of a run, and how a backend is opened.

with use_session(Session(journal="runs/math/jobs.sqlite", budget=Budget(max_jobs=100))):
    model(...)
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qpeft.backends import REMOTES, Backend, check_backend_name, get_backend, get_remote
from qpeft.errors import ConfigError
from qpeft.jobs.budget import Budget
from qpeft.jobs.journal import Journal
from qpeft.jobs.queued import QueuedBackend
from qpeft.jobs.report import Total, totals
from qpeft.jobs.runner import Progress, Runner

JOURNAL_NAME = "qpeft-jobs.sqlite"


@dataclass(eq=False)
class Session:
    """What the jobs of one run share.

    Args:
        journal: The journal's file.
        budget: What may be sent under the label, to each backend.
        label: What the journal calls the run.
        on_progress: Told (jobs done, jobs of the batch, words) while jobs are under way.
    """

    journal: Path
    budget: Budget = field(default_factory=Budget)
    label: str = ""
    on_progress: Progress | None = None
    _open: dict[tuple[str, str, int | None], QueuedBackend] = field(
        default_factory=dict, repr=False
    )
    _journal: Journal | None = field(default=None, repr=False)

    def open_remote(
        self, name: str, options: Mapping[str, Any], shots: int | None
    ) -> QueuedBackend:
        """Return the backend of a remote; the same object for the same options and shots."""
        key = (name, json.dumps(dict(options), sort_keys=True), shots)
        if key not in self._open:
            remote = get_remote(name, options)
            if self._journal is None:
                self._journal = Journal(self.journal)
            runner = Runner(
                remote,
                self._journal,
                self.budget,
                label=self.label,
                on_progress=self.on_progress,
                first_poll_seconds=0.0 if remote.limits.is_repeatable else 2.0,
            )
            self._open[key] = QueuedBackend(runner, shots)
        return self._open[key]

    def totals(self) -> list[Total]:
        """Return what was sent under this label, by backend, in this process and earlier ones."""
        if self._journal is None:
            return []
        return [total for total in totals(self._journal) if total.label == self.label]

    def close(self) -> None:
        """Close the journal."""
        self._open.clear()
        if self._journal is not None:
            self._journal.close()
            self._journal = None


_CURRENT: ContextVar[Session | None] = ContextVar("qpeft_session", default=None)


@contextmanager
def use_session(entered: Session) -> Iterator[Session]:
    """Let the layers inside a `with` block send their jobs through a session."""
    token = _CURRENT.set(entered)
    try:
        yield entered
    finally:
        _CURRENT.reset(token)
        entered.close()


def current_session() -> Session:
    """Return the session around the caller; without one, one with the journal of this folder.

    Its file is `qpeft-jobs.sqlite` in the current folder, or what QPEFT_JOURNAL says.
    """
    found = _CURRENT.get()
    if found is None:
        found = Session(Path(os.environ.get("QPEFT_JOURNAL", JOURNAL_NAME)).absolute())
        _CURRENT.set(found)
    return found


def open_backend(
    name: str, options: Mapping[str, Any] | None = None, shots: int | None = None
) -> Backend:
    """Return a backend by name: of this process, or a remote through the current session.

    Args:
        name: A key of `qpeft.backends.BACKENDS` or `REMOTES`.
        options: Keyword arguments of its class, JSON data.
        shots: Of each circuit; None for exact values.

    Raises:
        ConfigError: There is no such backend or option, or it does not take this number of shots.
        MissingExtraError: Its package is not installed.
    """
    check_backend_name(name)
    if name in REMOTES:
        return current_session().open_remote(name, options or {}, shots)
    if shots is not None:
        raise ConfigError(
            f"shots={shots}: backend '{name}' computes expectation values without shots and takes "
            f"none. Leave shots out, or use a backend with shots: {', '.join(REMOTES)}."
        )
    return get_backend(name, options)
