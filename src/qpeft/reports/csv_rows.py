"""The raw rows as files: rows and scores as the study writes them, losses, trials and all else besides."""

import csv
import dataclasses
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qpeft.reports.content import Download
from qpeft.study.published import PUBLISHED, published_json
from qpeft.study.results import RunRow, StudyResults, TrialRow


def csv_files(results: StudyResults) -> list[Download]:
    """Return every file of a study's results; what was measured of single layers is left out of rows.csv.

    Args:
        results: What was measured.
    """
    from qpeft.study.record import write_rows

    shown = dataclasses.replace(results, rows=tuple(_brief(row) for row in results.rows))
    with tempfile.TemporaryDirectory() as folder:
        write_rows(shown, Path(folder) / "rows.csv")
        written = {
            name: (Path(folder) / name).read_text("utf-8") for name in ("rows.csv", "scores.csv")
        }
    return [
        Download("rows.csv", written["rows.csv"], "one line for each run"),
        Download("scores.csv", written["scores.csv"], "one line for each test example of each run"),
        Download("losses.csv", losses_csv(results), "one line for each logged loss"),
        Download("trials.csv", trials_csv(results), "one line for each trial of the tuning"),
        Download(
            PUBLISHED, published_json(results), "all else: with it the files make this page again"
        ),
    ]


def losses_csv(results: StudyResults) -> str:
    """Return one line for each logged loss, nats a token."""

    def lines() -> Iterator[Sequence[Any]]:
        for row in results.rows:
            for split, curve in (("train", row.losses), ("validation", row.validation_losses)):
                for step, loss in curve:
                    yield row.task, row.arm, row.seed, split, step, loss

    return _csv(("task", "arm", "seed", "split", "step", "loss"), lines())


def trials_csv(results: StudyResults) -> str:
    """Return one line for each trial of the tuning."""
    names = [field.name for field in dataclasses.fields(TrialRow)]
    return _csv(names, ([getattr(trial, name) for name in names] for trial in results.trials))


def _brief(row: RunRow) -> RunRow:
    """Return a row whose measures have no lists of layers or angles."""
    return dataclasses.replace(row, measures=_without_lists(row.measures))


def _without_lists(measures: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in measures.items() if key not in ("modules", "by_angle")}
    return {k: _without_lists(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
