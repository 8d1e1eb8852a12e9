"""What the journal says, as data for tables: `qpeft jobs` shows it to the person who pays."""

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qpeft.errors import JobsError
from qpeft.files import written_whole
from qpeft.jobs.journal import Journal
from qpeft.jobs.rows import Row, State, Tally

_COSTS_NOTHING = (State.PLANNED, State.NOT_SENT)


@dataclass(frozen=True)
class JobDetails:
    """Everything that is known of a row.

    Args:
        row: The row.
        attempts: All rows of the same request at the same backend, oldest first.
        payload: What was sent, as JSON data.
        raw: What came back, uninterpreted; None if nothing has.
        calibration: The chip's calibration when the result came, as JSON data; None where there is none.
        seconds_waited: From its submission to its result; None without one.
    """

    row: Row
    attempts: list[Row]
    payload: Mapping[str, Any]
    raw: Any
    calibration: Any
    seconds_waited: float | None


@dataclass(frozen=True)
class Total:
    """What one backend and label amount to.

    Args:
        backend: Name of the remote.
        label: Which run or purpose.
        sent: What was or may have been sent, retries included.
        n_rows: Rows by state.
        seconds_waited: From submission to result, all finished jobs together.
    """

    backend: str
    label: str
    sent: Tally
    n_rows: Mapping[State, int]
    seconds_waited: float


def list_jobs(
    journal: Journal,
    *,
    backend: str | None = None,
    label: str | None = None,
    states: Iterable[State] | None = None,
    n_last: int | None = None,
) -> list[Row]:
    """Return rows, oldest first.

    Args:
        journal: The journal.
        backend: Only those of this remote.
        label: Only those of this label.
        states: Only those in one of these states.
        n_last: Only so many of the newest.
    """
    conditions, values = ["1"], []
    for column, value in (("backend", backend), ("label", label)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    if states is not None:
        wanted = [str(State(state)) for state in states]
        conditions.append(f"state IN ({', '.join('?' * len(wanted))})")
        values += wanted
    rows = journal.rows(" AND ".join(conditions), values)
    return rows if n_last is None else rows[max(0, len(rows) - n_last) :]


def show_job(journal: Journal, row_id: int) -> JobDetails:
    """Return everything that is known of a row.

    Raises:
        JobsError: There is no row of this number.
    """
    row = journal.row(row_id)
    attempts = journal.rows("backend = ? AND key = ?", [row.backend, row.key])
    payload = journal.request(row).payload
    return JobDetails(
        row, attempts, payload, journal.raw(row), journal.snapshot(row), _seconds_waited(row)
    )


def export_csv(journal: Journal, path: str | Path) -> int:
    """Write all rows, without payloads and results, as a CSV file and return their number.

    Raises:
        JobsError: The file cannot be written.
    """
    rows = journal.rows()
    columns = [*Row.__dataclass_fields__, "seconds_waited"]
    try:
        with (
            written_whole(Path(path)) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in rows:
                writer.writerow({**asdict(row), "seconds_waited": _seconds_waited(row)})
    except OSError as error:
        raise JobsError(f"Cannot write {path} ({error.strerror}). Choose another path.") from error
    return len(rows)


def totals(journal: Journal) -> list[Total]:
    """Return what each backend and label amount to, in alphabetical order."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in journal.rows():
        groups.setdefault((row.backend, row.label), []).append(row)
    return [
        Total(
            backend,
            label,
            Tally.of(row for row in rows if row.state not in _COSTS_NOTHING),
            dict(Counter(row.state for row in rows)),
            sum(_seconds_waited(row) or 0.0 for row in rows),
        )
        for (backend, label), rows in sorted(groups.items())
    ]


def _seconds_waited(row: Row) -> float | None:
    if row.state is not State.FINISHED or row.submitted_at is None or row.finished_at is None:
        return None
    end, start = (datetime.fromisoformat(text) for text in (row.finished_at, row.submitted_at))
    return (end - start).total_seconds()
