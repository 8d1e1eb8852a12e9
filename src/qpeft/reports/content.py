"""What a report consists of, before it becomes HTML or Markdown: sections of text, figures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qpeft.reports.arm_styles import ArmStyle


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        header: Its name, with the unit.
        kind: "arm" cells get the arm's sign and colour, "number" cells are set to the right.
    """

    header: str
    kind: Literal["text", "number", "arm"] = "text"


@dataclass(frozen=True)
class Table:
    """A table of texts; the first cell of a row names it.

    Args:
        caption: What it shows.
        columns: From left to right.
        rows: One text for each column.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Panel:
    """One picture of a figure.

    Args:
        title: Stands over it.
        svg: An `<svg>` element that stands in a page, or a complete SVG file.
        narrow_svg: The same for a phone; None where `svg` serves both.
        is_file: Whether `svg` is a file of its own with its own style sheet.
    """

    title: str
    svg: str
    narrow_svg: str | None = None
    is_file: bool = False


@dataclass(frozen=True)
class Figure:
    """Pictures with one caption, and the same numbers as a table.

    Args:
        caption: What is seen, in one sentence.
        description: For those who cannot see it.
        panels: Side by side where there is room.
        table: The numbers behind them.
        legend: Names and their signs; none where the picture names them itself.
    """

    caption: str
    description: str
    panels: tuple[Panel, ...]
    table: Table | None
    legend: tuple[tuple[str, ArmStyle], ...] = ()


@dataclass(frozen=True)
class Download:
    """A file that the page carries within itself.

    Args:
        name: What it is saved as.
        text: Its content.
        what: A few words for people.
    """

    name: str
    text: str
    what: str


@dataclass(frozen=True)
class Listing:
    """A text that stands as it is.

    Args:
        title: What it is.
        text: Its lines.
    """

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A part of the report under one heading.

    Args:
        key: Names it in links.
        title: The heading.
        paragraphs: What to know, before all figures.
        figures: Pictures.
        tables: Behind the pictures.
        notes: Small print.
        listings: Texts that stand as they are.
        downloads: Files to save.
        absent: Why there is nothing to show; the rest is then empty.
    """

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    listings: tuple[Listing, ...] = ()
    downloads: tuple[Download, ...] = ()
    absent: str | None = None


def arm_table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose rows are arms and whose other columns are numbers."""
    columns = (Column("Arm", "arm"), *(Column(header, "number") for header in headers))
    return Table(caption, columns, tuple(tuple(row) for row in rows))
