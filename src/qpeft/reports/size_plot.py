"""The picture of accuracy against trainable parameters.

Controls have by design the size of what they control, so their points would lie upon each other: points of
nearly equal size are moved apart until their bars stand side by side. Where the untrained model is far below
all arms, the vertical axis is broken, and shows that it is.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qpeft.reports.drawing import FONT_SIZE, GRID, INK, MUTED, finish, new_figure
from qpeft.reports.plots import PANEL_WIDTH, Point, Words, clipped, draw_bar

WIDE = 700
"""Pixels of a picture that has the page's width, with the arms' names in it."""

_FAR = 0.5  # the axis is broken where the gap to the base model is larger than this part of all that is shown


def plot_sizes(
    points: Sequence[Point], base: float | None, words: Words, width: int, height: int
) -> str:
    """Draw values against a size on a logarithmic axis, each with its interval.

    Args:
        points: With `x` above zero.
        base: Where the untrained model stands, as a line.
        words: Of the picture.
        width: Pixels.
        height: Pixels.
    """
    spread = _moved_apart(points, width)
    low, high = min(p.value.low for p in points), max(p.value.high for p in points)
    is_broken = base is not None and low - base > _FAR * (high - base)
    with new_figure(width, height) as figure:
        upper, lower = _two_axes(figure) if is_broken else (figure.add_subplot(),) * 2
        _size_axis(upper, spread)
        _front(upper, spread)
        for point in spread:
            draw_bar(upper, point.x, point.value, point.style, is_vertical=True)
        if base is not None:
            lower.axhline(base, color=MUTED, linewidth=1.4, dashes=(4, 3))
            _name_base(lower, base)
        upper.margins(y=0.12)
        if is_broken and base is not None:
            lower.set_ylim(base - 1.5, base + 4)
            lower.set_yticks([round(base)])
        lower.set_xlabel(words.x)
        upper.set_ylabel(words.y)
        if width > PANEL_WIDTH:
            figure.draw_without_rendering()
            _label_points(upper, spread)
        return finish(figure, words.name, words.title, words.description)


def _two_axes(figure: Any) -> tuple[Any, Any]:
    """Return two axes above each other with marks of a break between them."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(7, 1))
    figure.get_layout_engine().set(hspace=0.04, h_pad=0.02)
    upper.spines.bottom.set_visible(False)
    upper.tick_params(axis="x", which="both", length=0)
    for axes, height in ((upper, 0.0), (lower, 1.0)):
        axes.plot(
            [0],
            [height],
            transform=axes.transAxes,
            marker=[(-1, -0.6), (1, 0.6)],
            markersize=9,
            color=MUTED,
            markeredgewidth=1.2,
            clip_on=False,
        )
    return upper, lower


def _size_axis(axes: Any, points: Sequence[Point]) -> None:
    """Make the horizontal axis logarithmic, with room for names, and write counts as "20 k"."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = _size_limits(points)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(_count))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _size_limits(points: Sequence[Point]) -> tuple[float, float]:
    sizes = [point.x for point in points]
    room = max(1.4, (max(sizes) / min(sizes)) ** 0.16)
    return min(sizes) / room, max(sizes) * room


def _moved_apart(points: Sequence[Point], width: int) -> list[Point]:
    """Return the points with sizes so far apart that their bars stand side by side, in the order of size."""
    low, high = _size_limits(points)
    pixels = 11 if width > PANEL_WIDTH else 8
    apart = pixels * math.log(high / low) / (0.85 * width)
    groups: list[list[Point]] = []
    for point in sorted(points, key=lambda p: p.x):
        if groups and math.log(point.x / groups[-1][-1].x) < apart:
            groups[-1].append(point)
        else:
            groups.append([point])
    moved = []
    for group in groups:
        middle = sum(math.log(p.x) for p in group) / len(group)
        for place, point in enumerate(group):
            shift = (place - (len(group) - 1) / 2) * apart
            moved.append(point if len(group) == 1 else replace(point, x=math.exp(middle + shift)))
    return moved


def _front(axes: Any, points: Sequence[Point]) -> None:
    """Draw the steps above which no arm is better and smaller at once."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.value.estimate)):
        if not best or point.value.estimate > best[-1].value.estimate:
            best.append(point)
    heights = [point.value.estimate for point in best]
    axes.step(
        [*(p.x for p in best), _size_limits(points)[1]],
        [*heights, heights[-1]],
        where="post",
        color=GRID,
        linewidth=2.5,
        zorder=1,
    )


def _name_base(axes: Any, base: float) -> None:
    axes.annotate(
        "base model",
        (1.0, base),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        color=MUTED,
        ha="right",
        fontsize=FONT_SIZE - 1,
    )


def _count(value: float, _place: int | None = None) -> str:
    for limit, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
Spot = tuple[
    float, float, str
]  # of a name from its point: pixels to the right, upwards, and its fixed end
_SPOTS: tuple[Spot, ...] = tuple(
    (side * (9 + abs(dy) / 6), dy, "left" if side > 0 else "right")
    for dy in (-4, 10, -18, 24, -32, 38, -46, 52, -60, 66, -74, 80, -88)
    for side in (1, -1)
)


def _label_points(axes: Any, points: Sequence[Point]) -> None:
    """Name each point where its name covers no bar and no other name; a line leads to names further away."""
    frame = axes.get_window_extent()
    to_pixels = axes.transData.transform
    places = [to_pixels((point.x, point.value.estimate)) for point in points]
    taken = []
    for point in points:
        x, bottom = to_pixels((point.x, point.value.low))
        taken.append((x - 5, bottom, x + 5, to_pixels((point.x, point.value.high))[1]))
    for point, place in zip(points, places, strict=True):
        label = clipped(point.label)
        costs = []
        for spot in _SPOTS:
            box = _label_box(place, label, spot)
            covered = sum(_overlap(box, other) for other in taken)
            costs.append(covered + 2 * _outside(box, frame) + 0.4 * abs(spot[1]))
        best = _SPOTS[costs.index(min(costs))]
        taken.append(_label_box(place, label, best))
        is_far = abs(best[1]) > 12
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            label,
            (point.x, point.value.estimate),
            xytext=best[:2],
            textcoords="offset points",
            ha=best[2],
            color=INK,
            fontsize=FONT_SIZE,
            arrowprops=line if is_far else None,
        )


def _label_box(place: Sequence[float], label: str, spot: Spot) -> Box:
    width = 0.62 * FONT_SIZE * len(label)
    left = place[0] + spot[0] - (width if spot[2] == "right" else 0)
    bottom = place[1] + spot[1]
    return (left, bottom, left + width, bottom + FONT_SIZE)


def _outside(box: Box, frame: Any) -> float:
    """Return the area of a box that lies beyond the axes."""
    inside = _overlap(box, (frame.x0, frame.y0, frame.x1, frame.y1))
    return (box[2] - box[0]) * (box[3] - box[1]) - inside


def _overlap(a: Box, b: Box) -> float:
    """Return the common area of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)
