"""The sign and the colour of each arm, the same in every picture and table of a report.

Colours are told apart by people who see red and green alike (after Okabe and Ito, darkened for light paper,
lightened for dark), and each arm has a sign of its own besides. A page sets them as variables, so that
a picture follows its theme.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from qpeft.study.results import Role, StudyResults

LIGHT_COLOURS = (
    "#c04a00",
    "#005fa8",
    "#007a5a",
    "#a3397b",
    "#8a6a00",
    "#4b3f9e",
    "#0b7f93",
    "#6b5b53",
)
DARK_COLOURS = (
    "#ff9a4d",
    "#62b6ff",
    "#3dd0a0",
    "#f08cc8",
    "#e6c84a",
    "#afa4ff",
    "#5fd3e6",
    "#c9b9af",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
_DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (2, 1.5), (6, 1.5, 1.5, 1.5))
_ORDER: Mapping[Role, int] = {"subject": 0, "reference": 1, "control": 2, "rival": 3}


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn.

    Args:
        index: Its place; the subject's is 0, the reference's 1.
        colour: The number of its colour in `LIGHT_COLOURS` and `DARK_COLOURS`.
        marker: Matplotlib's name of its sign.
        dashes: Lengths of strokes and gaps of its lines, in line widths; none for a solid line.
    """

    index: int
    colour: int
    marker: str
    dashes: tuple[float, ...]


def arm_styles(results: StudyResults) -> dict[str, ArmStyle]:
    """Return the style of each arm by name: subject and reference first, then controls, then rivals."""
    ordered = sorted(results.arms, key=lambda arm: _ORDER[arm.role])
    return {arm.name: nth_style(index) for index, arm in enumerate(ordered)}


def nth_style(index: int) -> ArmStyle:
    """Return the style of the thing at a place, counted from 0; the first two colours come once only."""
    n_colours = len(LIGHT_COLOURS)
    n_again = n_colours - 2
    is_first_round = index < n_colours
    colour = index if is_first_round else 2 + (index - n_colours) % n_again
    n_rounds = 0 if is_first_round else 1 + (index - n_colours) // n_again
    return ArmStyle(
        index, colour, _MARKERS[index % len(_MARKERS)], _DASHES[n_rounds % len(_DASHES)]
    )
