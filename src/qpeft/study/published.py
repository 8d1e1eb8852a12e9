"""A study's results as files that can be committed, and read back where its folder is not.

    rows.csv        one line for each run, base model first
    scores.csv      one line for each run and test example
    losses.csv      one line for each logged loss
    trials.csv      one line for each trial of the tuning
    published.json  everything else: arms, tasks, circuits, where it all comes from

`qpeft report` writes them and makes its page of them again; `qpeft study --take-from` goes on from them. What was
measured of single layers is not among them, nor are adapters and answers.
"""

import csv
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from qpeft.errors import StudyError
from qpeft.study.results import BASE_ARM, RunRow, StudyResults

PUBLISHED = "published.json"

_ROWS = ("rows", "base", "trials", "folder")
"""What stands in the CSV files, or nowhere."""

_Key = tuple[str, str, str]
"""Task, arm and seed, as they stand in a CSV file."""


def published_json(results: StudyResults) -> str:
    """Return what the CSV files of a study do not say, as the text of published.json.

    Args:
        results: Of a study.
    """
    head = {
        field.name: getattr(results, field.name)
        for field in dataclasses.fields(results)
        if field.name not in _ROWS
    }
    return json.dumps(head, indent=1, default=_plain, ensure_ascii=False) + "\n"


def is_published(folder: Path) -> bool:
    """Say whether a folder holds a study's published results."""
    return (folder / PUBLISHED).is_file()


def read_published(folder: Path) -> StudyResults:
    """Return the results that were published in a folder; measures of single layers are not in them.

    Args:
        folder: Where `qpeft report` has written.

    Raises:
        StudyError: A file is missing, or was changed so that it cannot be read.
    """
    try:
        head = json.loads((folder / PUBLISHED).read_text(encoding="utf-8"))
        rows = list(_run_rows(folder))
        return TypeAdapter(StudyResults).validate_python(
            {
                **head,
                "rows": [row for row in rows if row["arm"] != BASE_ARM],
                "base": {row["task"]: row for row in rows if row["arm"] == BASE_ARM},
                "trials": [_filled(line) for line in _lines(folder / "trials.csv")],
                "folder": folder,
            }
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise StudyError(
            f"{folder} holds published results that cannot be read: {reason[:200]}. Its CSV files and {PUBLISHED} "
            f"belong together, as `qpeft report` wrote them; write them again."
        ) from error


def _run_rows(folder: Path) -> Iterator[dict[str, Any]]:
    scores: dict[_Key, list[tuple[str, str]]] = defaultdict(list)
    for line in _lines(folder / "scores.csv"):
        scores[_key(line)].append((line["score"], line["strict_score"]))
    losses: dict[tuple[_Key, str], list[tuple[str, str]]] = defaultdict(list)
    for line in _lines(folder / "losses.csv"):
        losses[_key(line), line["split"]].append((line["step"], line["loss"]))
    known = {field.name for field in dataclasses.fields(RunRow)}
    for line in _lines(folder / "rows.csv"):
        key, own = _key(line), scores[_key(line)]
        if len(own) != int(line["n_test"]):
            raise ValueError(f"scores.csv has {len(own)} of the {line['n_test']} scores of {key}")
        yield {
            **{name: value for name, value in _filled(line).items() if name in known},
            "scores": [score for score, _ in own],
            "strict_scores": [strict for _, strict in own],
            "losses": losses[key, "train"],
            "validation_losses": losses[key, "validation"],
            "measures": json.loads(line["measures"]),
        }


def _key(line: dict[str, str]) -> _Key:
    return line["task"], line["arm"], line["seed"]


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _filled(line: dict[str, str]) -> dict[str, str]:
    """Return the cells that are not empty, without the apostrophe that keeps a spreadsheet from computing."""
    filled = {name: value for name, value in line.items() if value}
    return {k: v[1:] if v[0] == "'" and v[1:2] in "=+-@" else v for k, v in filled.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
