"""Matplotlib's drawings as SVG elements of a page.

    with new_figure(340, 260) as figure: ...draw...; svg = finish(figure, "losses-1", title, description)

Text stays text, and takes the page's font. Colours are written as stand-ins while Matplotlib draws and become
variables of the page's style sheet, so that a picture follows light and dark. The same input gives the same
bytes: ids come from their content and the picture's name, and no date is written.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from qpeft.errors import MissingExtraError
from qpeft.reports.arm_styles import LIGHT_COLOURS, ArmStyle

INK, MUTED, GRID, BAND, PAPER = "#010101", "#010102", "#010103", "#010104", "#010105"
"""Stand-ins for the page's colours: text, quieter text, grid lines, shaded bands, background."""

FONT_SIZE = 12
_SVG = "http://www.w3.org/2000/svg"
_LINK = "http://www.w3.org/1999/xlink"
_PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    BAND: "var(--band)",
    PAPER: "var(--paper)",
}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qpeft",
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": FONT_SIZE,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout everywhere
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": FONT_SIZE,
    "axes.titlesize": FONT_SIZE + 1,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": FONT_SIZE - 1,
    "ytick.labelsize": FONT_SIZE - 1,
    "figure.facecolor": "none",
    "figure.dpi": 72,  # one point is one pixel
    "lines.linewidth": 1.8,
    "lines.markersize": 7,
}


def arm_colour(style: ArmStyle) -> str:
    """Return the stand-in for an arm's colour."""
    return f"#0102{style.colour:02x}"


@contextmanager
def new_figure(width: int, height: int) -> Iterator[Any]:
    """Give a Matplotlib figure to draw on while this project's settings hold.

    Args:
        width: Pixels at natural size.
        height: The same.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "study", "A report's page") from error
    with rc_context(_SETTINGS):
        yield Figure(figsize=(width / 72, height / 72), layout="constrained")


def finish(figure: Any, name: str, title: str, description: str) -> str:
    """Return a figure as an `<svg>` element whose ids start with `name`; call it within `new_figure`.

    Args:
        figure: Drawn.
        name: Letters, digits and dashes; no other picture of the page has it.
        title: Names the picture for a screen reader.
        description: Says what it shows.
    """
    written = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(written, format="svg", metadata=nothing)
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, name)
    width, height = root.attrib.pop("width"), root.attrib.pop("height")
    root.attrib.pop("version", None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    root.set("style", f"--natural: {float(width.removesuffix('pt')):.0f}px")
    root.set("preserveAspectRatio", "xMidYMid meet")
    assert height.endswith("pt"), height
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    return ElementTree.tostring(root, encoding="unicode")


def marker_path(marker: str, radius: float = 5.0) -> str:
    """Return a sign as the `d` of an SVG path around (0, 0)."""
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    scale = 2 * radius
    letters = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}
    parts = []
    for points, code in path.iter_segments():
        numbers = " ".join(
            f"{scale * (-y if k % 2 else y):.2f}" for k, y in enumerate(points.tolist())
        )
        parts.append("Z" if letters[int(code)] == "Z" else f"{letters[int(code)]}{numbers}")
    return "".join(parts)


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Give one element the page's colours and font, and an id of its own."""
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.attrib['id']}")
    for key, value in list(element.attrib.items()):
        if key == f"{{{_LINK}}}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value.removeprefix('#')}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
    style = element.attrib.get("style")
    if style is not None:
        element.set("style", _page_style(style))


def _page_style(style: str) -> str:
    for colour, variable in _PAGE_COLOURS.items():
        style = style.replace(colour, variable)
    for index in range(len(LIGHT_COLOURS)):
        style = style.replace(f"#0102{index:02x}", f"var(--arm-{index})")
    # Matplotlib writes `font: bold 12px 'DejaVu Sans'`, or from 3.11 on each property by itself.
    style = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;]+", _one_by_one, style)
    return re.sub(r"font-family: [^;]+;?\s*", "", style)


def _one_by_one(found: re.Match[str]) -> str:
    weight = f"; font-weight: {found[1]}" if found[1] else ""
    return f"font-size: {found[2]}{weight}"
