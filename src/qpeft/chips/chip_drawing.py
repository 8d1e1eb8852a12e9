"""Draws a chip with its qualities: as SVG for a page, as text for a terminal.

A darker circle reads out better and a darker, wider line has a better CZ (on a dark page: a brighter one). What is
dead is crossed out, so that nothing is told by colour alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from qpeft.chips.calibration import Calibration, QubitQuality
from qpeft.chips.placement import Place

Pair = tuple[int, int]


def draw_chip_svg(calibration: Calibration, places: Sequence[Place] = ()) -> str:
    """Draw a chip as a self-contained SVG image, legible on light and on dark pages.

    Args:
        calibration: The chip.
        places: Blocks of a program to outline, disjoint.

    Returns:
        The text of an SVG file; each qubit, coupler and block carries its numbers as a tooltip.
    """
    rows, columns = calibration.shape
    width = max(2 * _PAD + columns * _STEP, _MIN_WIDTH)
    legend_top = _TOP + rows * _STEP + 18
    height = legend_top + _LEGEND_HEIGHT + (24 if places else 0)
    qubit_scale = _Scale.over(_readout(quality) for quality in _live_qubits(calibration).values())
    coupler_scale = _Scale.over(_live_couplers(calibration).values())
    summary = _summary(calibration)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-labelledby="chip-title chip-text">',
        f'<title id="chip-title">{escape(_heading(calibration))}</title>',
        f'<desc id="chip-text">{escape(_description(calibration, places))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        f'<text class="heading" x="{_PAD}" y="30">{escape(_heading(calibration))}</text>',
        f'<text class="note" x="{_PAD}" y="50">{escape(summary)}</text>',
    ]
    for number, place in enumerate(places, start=1):
        parts += _svg_block(number, place, calibration.shape)
    for pair in _grid_pairs(calibration.shape):
        parts += _svg_coupler(pair, calibration, coupler_scale)
    for qubit in range(calibration.n_qubits):
        parts += _svg_qubit(qubit, calibration, qubit_scale)
    parts += _svg_legend(legend_top, qubit_scale, coupler_scale, has_blocks=bool(places))
    return "\n".join([*parts, "</svg>"]) + "\n"


def draw_chip_text(calibration: Calibration) -> str:
    """Draw a chip with Unicode characters: read-out in per cent, couplers as lines.

    Args:
        calibration: The chip.

    Returns:
        Lines without trailing spaces, joined by newlines; 76 characters at most for a 6 x 12 grid.
    """
    rows, columns = calibration.shape
    live = sorted(_live_couplers(calibration).values())
    low, high = (live[len(live) // 3], live[2 * len(live) // 3]) if live else (0.0, 0.0)

    def sign(pair: Pair, good: str, middle: str, weak: str) -> str:
        fidelity = _live_couplers(calibration).get(pair)
        if fidelity is None:
            return _GONE
        return good if fidelity >= high else middle if fidelity >= low else weak

    lines = [_heading(calibration), _summary(calibration), ""]
    numbers = (f"+{column}" for column in range(columns))
    lines.append(("      " + "".join(f"{number:<6}" for number in numbers)).rstrip())
    for row in range(rows):
        cells, links = f"{f'q{row * columns}':<5}", " " * 5
        for column in range(columns):
            qubit = row * columns + column
            quality = _live_qubits(calibration).get(qubit)
            cells += f" {2 * _GONE} " if quality is None else f" {100 * _readout(quality):2.0f} "
            if column < columns - 1:
                cells += 2 * sign((qubit, qubit + 1), "━", "─", "┄")
            if row < rows - 1:
                links += "  " + sign((qubit, qubit + columns), "┃", "│", "┆") + "   "
        lines.append(cells.rstrip())
        if row < rows - 1:
            lines.append(links.rstrip())
    lines.append("")
    lines.append(f"Numbers: read-out, per cent; {2 * _GONE} dead. Lines: CZ fidelity")
    lines.append(f"━━ {high:.3f} and more   ── {low:.3f} and more   ┄┄ less   {2 * _GONE} dead")
    return "\n".join(lines)


_GONE = "\N{BOX DRAWINGS LIGHT DIAGONAL CROSS}"
_N_STEPS = 5


@dataclass(frozen=True)
class _Scale:
    """Equal steps from the lowest value to the highest."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> "_Scale":
        found = list(values)
        return cls(min(found, default=0.0), max(found, default=1.0))

    @property
    def n_steps(self) -> int:
        """One step is enough where the legend could not tell the ends apart."""
        return _N_STEPS if self.high - self.low >= 0.001 * _N_STEPS else 1

    def step(self, value: float) -> int:
        """Return the step of a value; a single step is the best one."""
        if self.n_steps == 1:
            return _N_STEPS - 1
        share = (value - self.low) / (self.high - self.low)
        return min(_N_STEPS - 1, int(share * _N_STEPS))

    def labels(self) -> list[tuple[int, str]]:
        """Return each step with its range."""
        if self.n_steps == 1:
            return [(_N_STEPS - 1, f"{(self.low + self.high) / 2:.3f}")]
        width = (self.high - self.low) / _N_STEPS
        edges = [self.low + index * width for index in range(_N_STEPS + 1)]
        return [(i, f"{edges[i]:.3f} to {edges[i + 1]:.3f}") for i in range(_N_STEPS)]


def _readout(quality: QubitQuality) -> float:
    return (quality.readout_0 + quality.readout_1) / 2


def _live_qubits(calibration: Calibration) -> dict[int, QubitQuality]:
    return {q: quality for q, quality in calibration.qubits.items() if quality.gate_fidelity > 0}


def _live_couplers(calibration: Calibration) -> dict[Pair, float]:
    alive = _live_qubits(calibration)
    return {
        pair: fidelity
        for pair, fidelity in calibration.couplers.items()
        if fidelity > 0 and pair[0] in alive and pair[1] in alive
    }


def _grid_pairs(shape: tuple[int, int]) -> Iterator[Pair]:
    rows, columns = shape
    for qubit in range(rows * columns):
        if qubit % columns < columns - 1:
            yield qubit, qubit + 1
        if qubit + columns < rows * columns:
            yield qubit, qubit + columns


def _heading(calibration: Calibration) -> str:
    return f"Chip {calibration.chip}, calibration of {calibration.taken_at}"


def _summary(calibration: Calibration) -> str:
    qubits, couplers = _live_qubits(calibration), _live_couplers(calibration)
    n_pairs = sum(1 for _ in _grid_pairs(calibration.shape))
    n_live, n_couplers = len(qubits), len(couplers)
    text = f"{n_live} of {calibration.n_qubits} qubits, {n_couplers} of {n_pairs} couplers alive"
    if qubits and couplers:
        readout = median(_readout(quality) for quality in qubits.values())
        text += f"; median read-out {readout:.3f}, CZ {median(couplers.values()):.4f}"
    return text


def _description(calibration: Calibration, places: Sequence[Place]) -> str:
    """Say in words what the picture shows."""
    rows, columns = calibration.shape
    alive, couplers = _live_qubits(calibration), _live_couplers(calibration)
    dead_qubits = [f"q{qubit}" for qubit in range(calibration.n_qubits) if qubit not in alive]
    dead = [f"{a}-{b}" for a, b in _grid_pairs(calibration.shape) if (a, b) not in couplers]
    return " ".join(
        [
            f"A grid of {rows} rows and {columns} columns of qubits. {_summary(calibration)}.",
            f"Dead qubits: {', '.join(dead_qubits) or 'none'}.",
            f"Dead couplers: {', '.join(dead) or 'none'}.",
            *(f"Block {i}: {_names(place.qubits)}." for i, place in enumerate(places, start=1)),
        ]
    )


def _names(qubits: Iterable[int]) -> str:
    return ", ".join(f"q{qubit}" for qubit in qubits)


# ---------------------------------------------------------------- SVG

_STEP, _PAD, _TOP, _RADIUS = 70, 24, 64, 18  # pixels
_MIN_WIDTH, _LEGEND_HEIGHT = 820, 104
_LEGEND_STEP, _LEGEND_LEFT = 138, 120
_INSET = 4  # of a block's outline, so that two blocks beside each other stay apart
_LINE_WIDTHS = (2.5, 4, 5.5, 7, 9)
# Plain rules and one media query, because many viewers know no CSS variables.
_STYLE = """
text { fill: #1f2328; font: 12px ui-sans-serif, system-ui, sans-serif }
.heading { font-size: 16px; font-weight: 600 } .note { fill: #57606a }
.name { font-size: 12px; font-weight: 600; text-anchor: middle }
.page { fill: #ffffff } .qubit { stroke: #57606a; stroke-width: 1.2 }
.q0 { fill: #eff5fc } .q1 { fill: #bdd7e7 } .q2 { fill: #7fb8dc } .q3 { fill: #2b73ad } .q4 { fill: #08407c }
.n3, .n4 { fill: #ffffff }
.c0 { stroke: #e0a05e } .c1 { stroke: #d07f36 } .c2 { stroke: #b0561a } .c3 { stroke: #87390d }
.c4 { stroke: #562006 }
.dead { fill: none; stroke: #6e7781; stroke-width: 1.6; stroke-dasharray: 4 3 }
.cross { fill: none; stroke: #57606a; stroke-width: 2 } .gone { fill: #57606a }
.block { fill: none; stroke: #1a7f37; stroke-width: 2.4; stroke-linecap: round }
.mark { fill: #116329; font-size: 11px; font-weight: 600 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f3f6 } .note, .gone { fill: #9ea7b3 } .page { fill: #0d1117 } .qubit { stroke: #9ea7b3 }
.q0 { fill: #0f2740 } .q1 { fill: #17477a } .q2 { fill: #2c71ab } .q3 { fill: #7fb8dc } .q4 { fill: #d6e8f7 }
.n0, .n1, .n2 { fill: #ffffff } .n3, .n4 { fill: #0d1117 }
.c0 { stroke: #7d4a20 } .c1 { stroke: #a8642c } .c2 { stroke: #d3843f } .c3 { stroke: #f2ab66 }
.c4 { stroke: #ffdcb6 }
.dead { stroke: #848d97 } .cross { stroke: #9ea7b3 } .block { stroke: #56d364 } .mark { fill: #7ee787 }
}
"""


def _centre(qubit: int, shape: tuple[int, int]) -> tuple[int, int]:
    row, column = divmod(qubit, shape[1])
    return _PAD + column * _STEP + _STEP // 2, _TOP + row * _STEP + _STEP // 2


def _svg_coupler(pair: Pair, calibration: Calibration, scale: _Scale) -> list[str]:
    (x, y), (x_end, y_end) = (_centre(qubit, calibration.shape) for qubit in pair)
    fidelity = _live_couplers(calibration).get(pair)
    name = f"coupler q{pair[0]}-q{pair[1]}"
    line = f'd="M{x} {y}L{x_end} {y_end}"'
    if fidelity is None:
        middle = ((x + x_end) // 2, (y + y_end) // 2)
        return [
            f"<g><title>{name}: dead</title>",
            f'<path class="dead" {line}/>{_svg_cross(*middle, 6)}</g>',
        ]
    step = scale.step(fidelity)
    return [
        f'<path class="c{step}" stroke-width="{_LINE_WIDTHS[step]}" {line}>'
        f"<title>{name}: CZ fidelity {fidelity:.4f}</title></path>"
    ]


def _svg_qubit(qubit: int, calibration: Calibration, scale: _Scale) -> list[str]:
    x, y = _centre(qubit, calibration.shape)
    quality = _live_qubits(calibration).get(qubit)
    circle = f'cx="{x}" cy="{y}" r="{_RADIUS}"'
    if quality is None:
        return [
            f"<g><title>q{qubit}: dead</title>",
            f'<circle class="page" {circle}/><circle class="dead" {circle}/>',
            f'{_svg_cross(x, y, 12)}<text class="name gone" x="{x + 22}" y="{y + 25}">{qubit}</text></g>',
        ]
    step = scale.step(_readout(quality))
    numbers = (
        f"q{qubit}: read-out {_readout(quality):.3f}, gate {quality.gate_fidelity:.4f}, "
        f"T1 {quality.t1_us:.1f} us, T2 {quality.t2_us:.1f} us"
    )
    return [
        f'<g><title>{numbers}</title><circle class="qubit q{step}" {circle}/>',
        f'<text class="name n{step}" x="{x}" y="{y + 4}">{qubit}</text></g>',
    ]


def _svg_cross(x: int, y: int, size: int) -> str:
    return (
        f'<path class="cross" d="M{x - size} {y - size}L{x + size} {y + size}'
        f'M{x - size} {y + size}L{x + size} {y - size}"/>'
    )


def _svg_block(number: int, place: Place, shape: tuple[int, int]) -> list[str]:
    """Outline the cells of a place along its boundary."""
    cells = {divmod(qubit, shape[1]) for qubit in place.qubits}
    path = "".join(_outline(cells))
    row, column = min(cells)
    x, y = _PAD + column * _STEP + _INSET + 5, _TOP + row * _STEP + _INSET + 13
    quality = f"block {number}: {_names(place.qubits)}; expected fidelity {place.quality:.3f}"
    return [
        f'<g><title>{quality}</title><path class="block" d="{path}"/>',
        f'<text class="mark" x="{x}" y="{y}">{number}</text></g>',
    ]


def _outline(cells: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the sides of cells that face a cell outside."""
    half = _STEP // 2
    for row, column in sorted(cells):
        x, y = _PAD + column * _STEP + half, _TOP + row * _STEP + half
        for down, right in ((-1, 0), (0, 1), (1, 0), (0, -1)):
            if (row + down, column + right) in cells:
                continue
            ends = []
            for turn in (-1, 1):  # along the side, to either end
                along = (turn * right, turn * down)
                beside = (row + along[0], column + along[1])
                corner = (row + along[0] + down, column + along[1] + right)
                # At an outer corner the side stops short, at an inner one it goes on a little.
                reach = half - _INSET if beside not in cells else half + _INSET * (corner in cells)
                ends.append(
                    f"{x + right * (half - _INSET) + along[1] * reach} "
                    f"{y + down * (half - _INSET) + along[0] * reach}"
                )
            yield f"M{ends[0]}L{ends[1]}"


def _svg_legend(top: int, qubits: _Scale, couplers: _Scale, *, has_blocks: bool) -> list[str]:
    parts = [
        f'<text class="note" x="{_PAD}" y="{top + 15}">Read-out</text>',
        f'<text class="note" x="{_PAD}" y="{top + 45}">CZ fidelity</text>',
        f'<text class="note" x="{_PAD}" y="{top + 75}">Out of order</text>',
    ]
    for place, (step, label) in enumerate(qubits.labels()):
        x = _LEGEND_LEFT + place * _LEGEND_STEP
        parts.append(f'<circle class="qubit q{step}" cx="{x + 9}" cy="{top + 11}" r="9"/>')
        parts.append(f'<text x="{x + 24}" y="{top + 15}">{label}</text>')
    for place, (step, label) in enumerate(couplers.labels()):
        x = _LEGEND_LEFT + place * _LEGEND_STEP
        width = _LINE_WIDTHS[step]
        parts.append(f'<path class="c{step}" stroke-width="{width}" d="M{x} {top + 41}h18"/>')
        parts.append(f'<text x="{x + 24}" y="{top + 45}">{label}</text>')
    x, y = _LEGEND_LEFT, top + 71
    parts.append(f'<circle class="dead" cx="{x + 9}" cy="{y}" r="9"/>{_svg_cross(x + 9, y, 5)}')
    parts.append(f'<text x="{x + 24}" y="{y + 4}">qubit</text>')
    x += _LEGEND_STEP
    parts.append(f'<path class="dead" d="M{x} {y}h18"/>{_svg_cross(x + 9, y, 5)}')
    parts.append(f'<text x="{x + 24}" y="{y + 4}">coupler</text>')
    if has_blocks:
        y += 28
        parts.append(f'<text class="note" x="{_PAD}" y="{y + 4}">Blocks</text>')
        parts.append(
            f'<rect class="block" x="{_LEGEND_LEFT}" y="{y - 8}" width="18" height="16" rx="2"/>'
        )
        parts.append(f'<text x="{_LEGEND_LEFT + 24}" y="{y + 4}">one circuit each</text>')
    return parts
