"""What a study found, as one self-contained page, as Markdown and as CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qpeft.errors import StudyError, did_you_mean
from qpeft.files import written_whole
from qpeft.reports.csv_rows import csv_files
from qpeft.reports.markdown import make_markdown
from qpeft.reports.material import Material
from qpeft.reports.page import make_page
from qpeft.study.findings import Findings
from qpeft.study.results import StudyResults

__all__ = ["FORMATS", "Format", "ReportFiles", "write_csv", "write_report"]

Format = Literal["html", "md", "csv"]
FORMATS: tuple[Format, ...] = ("html", "md", "csv")


@dataclass(frozen=True)
class ReportFiles:
    """Where a report was written.

    Args:
        page: The self-contained page; None where it was not asked for.
        markdown: The same as Markdown.
        rows: The CSV files.
    """

    page: Path | None
    markdown: Path | None
    rows: tuple[Path, ...]


def write_report(
    results: StudyResults,
    findings: Findings,
    folder: Path,
    formats: Sequence[Format] = FORMATS,
) -> ReportFiles:
    """Write `report.html`, `report.md` and the CSV files of a study; the same study gives the same bytes.

    Args:
        results: What was measured.
        findings: What the statistics say of it.
        folder: Where the files go; made if it is not there.
        formats: Which of them: "html", "md", "csv".

    Raises:
        StudyError: There is no such format, or no run has succeeded yet.
        MissingExtraError: The page needs matplotlib and jinja2, of the extra `study`.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise StudyError(
            f"Unknown format '{unknown[0]}' of a report.{did_you_mean(unknown[0], FORMATS)}"
        )
    _check(results)
    material = Material.of(results, findings)
    page = make_page(material) if "html" in formats else None
    markdown = make_markdown(material) if "md" in formats else None
    folder.mkdir(parents=True, exist_ok=True)
    return ReportFiles(
        None if page is None else _write(folder / "report.html", page),
        None if markdown is None else _write(folder / "report.md", markdown),
        write_csv(results, folder) if "csv" in formats else (),
    )


def write_csv(results: StudyResults, folder: Path) -> tuple[Path, ...]:
    """Write a study's raw rows alone, which takes no findings and no extra.

    Args:
        results: What was measured.
        folder: Where the files go; made if it is not there.

    Raises:
        StudyError: No run has succeeded yet.
    """
    _check(results)
    files = csv_files(results)
    folder.mkdir(parents=True, exist_ok=True)
    return tuple(_write(folder / file.name, file.text) for file in files)


def _check(results: StudyResults) -> None:
    if not any(row.status == "succeeded" for row in results.rows):
        raise StudyError(
            f"No run of study '{results.name}' has succeeded yet, so there is nothing to report. "
            "Go on with `qpeft study`."
        )


def _write(path: Path, text: str) -> Path:
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    return path
