"""The common kinds of pictures: intervals by arm, differences, curves, lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qpeft.reports.arm_styles import ArmStyle
from qpeft.reports.drawing import BAND, FONT_SIZE, INK, MUTED, PAPER, arm_colour, finish, new_figure
from qpeft.study.findings import Interval

PANEL_WIDTH = 340
"""Pixels of a picture that is read on a phone without scaling."""


@dataclass(frozen=True)
class Point:
    """An arm's value, in the unit of the axis; `x` only where there is a second axis."""

    label: str
    style: ArmStyle
    value: Interval
    x: float = 0.0


@dataclass(frozen=True)
class Line:
    """A line through points, with a band around it where there are several runs.

    Args:
        label: Whose.
        style: How the arm is drawn.
        x: From left to right.
        y: Means, as long as `x`.
        low: Lower end of the band; none for no band.
        high: Its upper end.
    """

    label: str
    style: ArmStyle
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class Words:
    """What stands in and around a picture.

    Args:
        name: Unique on the page; letters, digits and dashes.
        title: Over the picture, and its name for a screen reader.
        description: For those who cannot see it.
        x: Label of the horizontal axis, with its unit.
        y: Label of the vertical axis, with its unit.
    """

    name: str
    title: str
    description: str
    x: str = ""
    y: str = ""


def plot_intervals(
    points: Sequence[Point],
    words: Words,
    *,
    width: int = PANEL_WIDTH,
    lines: Sequence[tuple[float, str]] = (),
    margin: float | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Draw one row for each point: its label, its value and its interval.

    Args:
        points: From top to bottom.
        words: Of the picture.
        width: Pixels.
        lines: Vertical lines: where, and what they are called.
        margin: Half the width of a band around zero.
        limits: Ends of the horizontal axis, so that several pictures share it; None fits the points.
    """
    with new_figure(width, 74 + 26 * len(points) + (16 if lines else 0)) as figure:
        axes = _axes(figure, words)
        axes.grid(axis="y", visible=False)
        if margin is not None:
            axes.axvspan(-margin, margin, color=BAND, linewidth=0, zorder=0)
            axes.axvline(0, color=INK, linewidth=1.2)
        for where, name in lines:
            axes.axvline(where, color=MUTED, linewidth=1.2, dashes=(4, 3))
            axes.annotate(
                name,
                (where, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -1),
                textcoords="offset points",
                color=MUTED,
                fontsize=FONT_SIZE - 1,
                va="bottom",
            )
        for row, point in enumerate(points):
            draw_bar(axes, row, point.value, point.style, is_vertical=False)
        axes.set_yticks(range(len(points)), [clipped(point.label) for point in points])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
        if limits is not None:
            axes.set_xlim(limits)
        return finish(figure, words.name, words.title, words.description)


def plot_lines(
    lines: Sequence[Line],
    words: Words,
    *,
    width: int = PANEL_WIDTH,
    height: int = 250,
    scales: tuple[Literal["linear", "log"], Literal["linear", "log"]] = ("linear", "linear"),
    x_ticks: Sequence[float] | None = None,
) -> str:
    """Draw lines with their bands.

    Args:
        lines: The first is drawn on top.
        words: Of the picture.
        width: Pixels.
        height: Pixels.
        scales: Of the two axes.
        x_ticks: Where the horizontal axis has numbers; None leaves it to Matplotlib.
    """
    with new_figure(width, height) as figure:
        axes = _axes(figure, words)
        axes.set_xscale(scales[0])
        axes.set_yscale(scales[1])
        for depth, line in enumerate(lines):
            colour, order = arm_colour(line.style), 10 - depth / len(lines)
            if line.low:
                alpha = max(0.06, 0.2 - 0.02 * len(lines))  # many bands would hide the lines
                axes.fill_between(
                    line.x, line.low, line.high, color=colour, alpha=alpha, linewidth=0
                )
            every = max(1, len(line.x) // 4)  # signs on a long curve, at other steps for each arm
            drawn = axes.plot(
                line.x,
                line.y,
                color=colour,
                zorder=order,
                linewidth=2.2 if depth == 0 else 1.4,
                marker=line.style.marker,
                markevery=(depth * 3 % every, every),
                markersize=6,
                markeredgecolor=PAPER,
                markeredgewidth=0.5,
            )[0]
            if line.style.dashes:
                drawn.set_dashes(line.style.dashes)
        for axis, scale in zip((axes.xaxis, axes.yaxis), scales, strict=True):
            if scale == "log":
                _plain_log(axis)
        if x_ticks is not None:
            axes.set_xticks(x_ticks, [f"{x:g}" for x in x_ticks])
            axes.minorticks_off()
        elif scales[0] == "linear" and all(x.is_integer() for line in lines for x in line.x):
            from matplotlib.ticker import MaxNLocator

            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return finish(figure, words.name, words.title, words.description)


def common_limits(
    panels: Sequence[Sequence[Point]], also: Sequence[float] = ()
) -> tuple[float, float]:
    """Return ends of an axis between which all intervals of all panels lie, and some values besides."""
    lows = [p.value.low for points in panels for p in points] + list(also)
    highs = [p.value.high for points in panels for p in points] + list(also)
    room = 0.06 * (max(highs) - min(lows)) or 1.0
    return min(lows) - room, max(highs) + room


def _axes(figure: Any, words: Words) -> Any:
    axes = figure.add_subplot()
    axes.set_xlabel(words.x)
    axes.set_ylabel(words.y)
    return axes


def draw_bar(
    axes: Any, place: float, value: Interval, style: ArmStyle, *, is_vertical: bool
) -> None:
    """Draw an estimate with its interval at a place of the other axis."""
    ends = [[max(0.0, value.estimate - value.low)], [max(0.0, value.high - value.estimate)]]
    where = (place, value.estimate) if is_vertical else (value.estimate, place)
    axes.errorbar(
        *([x] for x in where),
        **{"yerr" if is_vertical else "xerr": ends},
        fmt=style.marker,
        color=arm_colour(style),
        markeredgecolor=PAPER,
        markeredgewidth=0.6,
        markersize=_MARKER_SIZES.get(style.marker, 8),
        elinewidth=1.6,
        capsize=0,
    )


_MARKER_SIZES = {"o": 7.5, "s": 7, "D": 6.5}  # the others look smaller than they are


def _plain_log(axis: Any) -> None:
    """Write plain numbers at one, two and five of each decade, or at decades alone where there are many."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    if high < 4 * low:  # too little for decades
        axis.set_major_locator(MaxNLocator(4))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(_power))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float, _place: int | None = None) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def clipped(label: str) -> str:
    """Return a name that is short enough for a picture."""
    return label if len(label) <= 18 else f"{label[:17]}…"
