"""Jobs that another study has done and that are the same here: copied from its folder, or from published rows.

A job that comes of published rows has its job.json, a status.json that says where it was taken from, and its row
in row.json. It has neither adapter nor answers.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter

from qpeft.errors import StudyError
from qpeft.study.job_folder import job_key, read_json, read_status
from qpeft.study.published import is_published, read_published
from qpeft.study.results import RunRow, TrialRow
from qpeft.training.record import write_json

_ROW = "row.json"

Row = TypeVar("Row", RunRow, TrialRow)


class Source(Protocol):
    """Where jobs are taken from."""

    def take(self, place: Path, folder: Path, content: Mapping[str, Any]) -> None:
        """Make a job's folder of one that was done, if it is the very same; else do nothing.

        Args:
            place: The job's folder, relative to its study's.
            folder: The job's own, which is not there.
            content: What the worker would read.
        """


def open_sources(places: Sequence[Path], *, weights: str, margin: float) -> tuple[Source, ...]:
    """Return what jobs can be taken from.

    Args:
        places: Folders of studies, or folders with published results.
        weights: Digest of the base model's weights here. One name may stand for several: `smollm2-135m` is the
            hub's copy on one machine and the GGUF file's on another.
        margin: Of the study here, which has to be that under which the runs were made: it is fixed before them.

    Raises:
        StudyError: One of them is neither, cannot be read, or was made with other weights or another margin.
    """
    sources = []
    for place in places:
        source, theirs = _open(place)
        if theirs.weights not in (None, weights):
            raise StudyError(
                f"The runs in {place} were made with other weights of the base model than those that are loaded "
                f"here (SHA-256 {str(theirs.weights)[:12]} there, {weights[:12]} here), so they cannot be "
                f"compared with runs of this machine. Use the same copy of the model, or leave out --take-from."
            )
        if theirs.margin != margin:
            raise StudyError(
                f"The runs in {place} were made under a margin of {theirs.margin:g}, this study has {margin:g}. A "
                f"margin is fixed before the runs: set margin={theirs.margin:g}, or leave out --take-from."
            )
        sources.append(source)
    return tuple(sources)


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What runs can only be taken under: digest of the base model's weights (None: not known), and the margin."""

    weights: str | None
    margin: float


def take(sources: Sequence[Source], place: Path, folder: Path, content: Mapping[str, Any]) -> None:
    """Take a job from the first source that has it, if it has not begun here.

    Args:
        sources: From `open_sources`.
        place: The job's folder, relative to its study's.
        folder: The job's own.
        content: What the worker would read.
    """
    for source in sources:
        if not (folder / "job.json").exists():
            source.take(place, folder, content)


def taken_row(folder: Path, kind: type[Row]) -> Row | None:
    """Return the row of a job that was taken from published rows; None of any other.

    Args:
        folder: The job's own.
        kind: `RunRow` or `TrialRow`.
    """
    file = folder / _ROW
    return TypeAdapter(kind).validate_json(file.read_bytes()) if file.exists() else None


def _open(place: Path) -> tuple[Source, _Terms]:
    if is_published(place) and not (place / "study.json").exists():
        results = read_published(place)
        done: list[RunRow | TrialRow] = [*results.rows, *results.base.values(), *results.trials]
        by_key = {row.job_key: row for row in done if row.job_key and row.status == "succeeded"}
        terms = _Terms(results.provenance.get("weights"), results.margin)
        return _PublishedRows(place.name, by_key), terms
    if (place / "study.json").exists():
        identity = read_json(place / "study.json")["identity"]
        return _StudyFolder(place), _Terms(identity["model"].get("weights"), identity["margin"])
    raise StudyError(
        f"{place} holds no study from which runs could be taken. Give the output folder of a study, or one that "
        f"`qpeft report` has written to."
    )


@dataclasses.dataclass(frozen=True)
class _StudyFolder:
    root: Path

    def take(self, place: Path, folder: Path, content: Mapping[str, Any]) -> None:
        source = self.root / place
        if read_status(source).get("status") != "succeeded":
            return
        if job_key(read_json(source / "job.json")) != job_key(content):
            return
        partial = folder.with_name(f"{folder.name}.partial")
        for left_over in (partial, folder):
            shutil.rmtree(left_over, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(folder)


@dataclasses.dataclass(frozen=True)
class _PublishedRows:
    name: str
    rows: Mapping[str, RunRow | TrialRow]

    def take(self, place: Path, folder: Path, content: Mapping[str, Any]) -> None:
        row = self.rows.get(job_key(content))
        if row is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        write_json(folder / _ROW, dataclasses.asdict(row))
        write_json(folder / "status.json", {"status": "succeeded", "taken_from": self.name})
        write_json(folder / "job.json", content)  # last: without it the job has not begun
