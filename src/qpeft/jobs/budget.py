"""A cap on what may be sent: it is asked before anything is, and counts what the journal says."""

import sqlite3
from dataclasses import dataclass

from qpeft.errors import BudgetError, ConfigError
from qpeft.jobs.rows import State, Tally


@dataclass(frozen=True)
class Budget:
    """The most that may be sent to one backend under one label, retries included; None is no cap.

    Results that the journal already has cost nothing.

    Args:
        max_circuits: Circuits.
        max_programs: Programs of the chip.
        max_shots: Shots of all programs.
        max_jobs: Submissions.

    Raises:
        ConfigError: A cap is negative.
    """

    max_circuits: int | None = None
    max_programs: int | None = None
    max_shots: int | None = None
    max_jobs: int | None = None

    def __post_init__(self) -> None:
        for name, cap in vars(self).items():
            if cap is not None and cap < 0:
                raise ConfigError(f"{name} must be at least 0; got {cap}. Leave it out for no cap.")

    def charge(self, used: Tally, asked: Tally, backend: str, label: str) -> None:
        """Raise BudgetError if what is asked for, on top of what was used, would pass a cap."""
        for what in ("circuits", "programs", "shots", "jobs"):
            cap = getattr(self, f"max_{what}")
            had, wanted = getattr(used, f"n_{what}"), getattr(asked, f"n_{what}")
            if cap is not None and wanted and had + wanted > cap:
                purpose = f" for '{label}'" if label else ""
                raise BudgetError(
                    f"Backend '{backend}'{purpose} has used {had} {what}; this batch needs {wanted} "
                    f"more, which passes the cap max_{what}={cap} by {had + wanted - cap}. Nothing "
                    f"of it was sent. Raise the cap, or send fewer circuits."
                )


def count_used(database: sqlite3.Connection, backend: str, label: str) -> Tally:
    """Return what was or may have been sent, and what another process is about to send."""
    row = database.execute(
        "SELECT coalesce(sum(n_circuits), 0), coalesce(sum(n_programs), 0), count(*),"
        " coalesce(sum(n_programs * coalesce(shots, 0)), 0) FROM jobs"
        " WHERE backend = ? AND label = ? AND state <> ? AND NOT (state = ? AND owner IS NULL)",
        (backend, label, State.NOT_SENT, State.PLANNED),
    ).fetchone()
    return Tally(*row)
