"""Draws a circuit: as text for a terminal, as an SVG for a page.

Both put a gate into the earliest column in which every wire that it spans is free, and start a new
band of wires where the line is full. Data angles are called z0, z1, ..., trained ones θ0, θ1, ...
"""

import math
import shutil
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeVar

from qpeft.circuits.circuit import Circuit, Gate, Input, Weight

Column = list[Gate]
T = TypeVar("T")


def draw_text(circuit: Circuit, width: int | None = None) -> str:
    """Draw a circuit with Unicode characters.

    Args:
        circuit: The circuit.
        width: Characters a line, at least for one column of gates; None takes the terminal's.

    Returns:
        Lines without trailing spaces, joined by newlines.

    Example:
        >>> from qpeft.circuits import Circuit, Gate, Input, Weight
        >>> gates = (Gate("RY", (0,), Input(0)), Gate("CRZ", (0, 1), Weight(0)))
        >>> print(draw_text(Circuit(2, gates), width=60))
        q0 ─┤RY z0├─────●─────
                        │
        q1 ──────────┤RZ θ0├──
    """
    limit = shutil.get_terminal_size().columns if width is None else width
    n_rows = 2 * circuit.n_qubits - 1
    names = [f"q{row // 2}" if row % 2 == 0 else "" for row in range(n_rows)]
    margin = max(len(name) for name in names)
    start = [f"{name:<{margin}} " + " ─"[row % 2 == 0] for row, name in enumerate(names)]
    blocks = [_column_text(column, n_rows) for column in _columns(circuit)]
    room = limit - len(start[0])
    bands = _bands(blocks, [len(block[0]) for block in blocks], room)
    drawn = []
    for band in bands:
        rows = ["".join(parts).rstrip() for parts in zip(start, *band, strict=True)]
        drawn.append("\n".join(rows))
    return "\n\n\n".join(drawn)  # an empty line can also stand between two wires


def draw_svg(circuit: Circuit) -> str:
    """Draw a circuit as a self-contained SVG image, legible on light and on dark pages.

    Args:
        circuit: The circuit.

    Returns:
        The text of an SVG file.
    """
    columns = _columns(circuit)
    n_bands = max(1, math.ceil(len(columns) / _MAX_COLUMNS))
    bands = _bands(columns, [1] * len(columns), math.ceil(len(columns) / n_bands))
    band_height = circuit.n_qubits * _STEP_Y
    width = _LEFT + max(len(band) for band in bands) * _STEP_X + _PAD
    height = len(bands) * band_height + (len(bands) - 1) * _PAD + 2 * _PAD
    title = escape(f"{circuit.name}: {circuit.n_qubits} qubits, {len(circuit.gates)} gates")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
    ]
    for index, band in enumerate(bands):
        top = _PAD + index * (band_height + _PAD) + _STEP_Y // 2
        parts += _svg_wires(circuit.n_qubits, len(band), top)
        for place, column in enumerate(band):
            x = _LEFT + place * _STEP_X + _STEP_X // 2
            for gate in column:
                parts += _svg_gate(gate, x, top)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _columns(circuit: Circuit) -> list[Column]:
    """Sort gates into columns in which no two of them share or cross a wire."""
    free_from = [0] * circuit.n_qubits
    columns: list[Column] = []
    for gate in circuit.gates:
        wires = range(min(gate.qubits), max(gate.qubits) + 1)
        place = max(free_from[wire] for wire in wires)
        if place == len(columns):
            columns.append([])
        columns[place].append(gate)
        for wire in wires:
            free_from[wire] = place + 1
    return columns


def _bands(items: Sequence[T], sizes: Iterable[int], room: int) -> list[list[T]]:
    """Split items into runs that fit into `room`, with at least one item in each."""
    bands: list[list[T]] = [[]]
    used = 0
    for item, size in zip(items, sizes, strict=True):
        if bands[-1] and used + size > room:
            bands.append([])
            used = 0
        bands[-1].append(item)
        used += size
    return bands


def _labels(gate: Gate) -> list[str]:
    """Return what stands on each qubit of a gate: a dot, a plus or a name."""
    match gate.name:
        case "CNOT":
            return ["●", "⊕"]
        case "CZ":
            return ["●", "●"]
        case "CRZ":
            return ["●", "RZ"]
        case "RZZ":
            return ["ZZ", "ZZ"]
        case _:
            return [gate.name]


def _angle_name(gate: Gate) -> str:
    match gate.angle:
        case Input(index):
            return f"z{index}"
        case Weight(index):
            return f"θ{index}"
        case _:
            return ""


def _column_text(column: Column, n_rows: int) -> list[str]:
    """Return one column as rows of equal length: wires at even rows, links between at odd ones."""
    cells: dict[int, str] = {}
    links: set[int] = set()
    for gate in column:
        for qubit, label in zip(gate.qubits, _labels(gate), strict=True):
            is_sign = label in _SIGNS
            cells[2 * qubit] = label if is_sign else f"┤{label} {_angle_name(gate)}".rstrip() + "├"
        links.update(range(2 * min(gate.qubits) + 1, 2 * max(gate.qubits)))
    inner = max(len(cell) for cell in cells.values())
    rows = []
    for row in range(n_rows):
        filler = "─" if row % 2 == 0 else " "
        crossing = "┼" if row % 2 == 0 else "│"
        cell = cells.get(row, crossing if row in links else "")
        # One place is the middle for boxes, dots and lines alike, whatever their lengths.
        before = (inner - 1) // 2 - (len(cell) - 1) // 2
        rows.append((filler * before + cell).ljust(inner, filler) + filler * 2)
    return rows


_SIGNS = ("●", "⊕")

_STEP_X, _STEP_Y = 62, 54  # between columns and between wires, in pixels
_LEFT, _PAD, _MAX_COLUMNS = 52, 14, 20
_BOX_X, _BOX_Y = 46, 36
# Plain rules and one media query, because many viewers know no CSS variables.
_STYLE = """
text { fill: #1f2328; font: 13px ui-sans-serif, system-ui, sans-serif; text-anchor: middle }
.angle { font-size: 11px } .qubit { text-anchor: end } .page { fill: #ffffff }
.wire, .link { stroke: #57606a; stroke-width: 1.4; fill: none } .dot { fill: #57606a }
.plus { fill: #ffffff; stroke: #57606a; stroke-width: 1.4 }
.fixed, .data, .trained { stroke: #57606a } .fixed { fill: #eaeef2 }
.data { fill: #cfe4ff } .trained { fill: #ffe1b8 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f3f6 } .page, .plus { fill: #0d1117 } .dot { fill: #9ea7b3 }
.wire, .link, .plus, .fixed, .data, .trained { stroke: #9ea7b3 }
.fixed { fill: #30363d } .data { fill: #1f4a80 } .trained { fill: #7a4a10 }
}
"""


def _svg_wires(n_qubits: int, n_columns: int, top: int) -> list[str]:
    end = _LEFT + n_columns * _STEP_X
    parts = []
    for qubit in range(n_qubits):
        y = top + qubit * _STEP_Y
        parts.append(f'<text class="qubit" x="{_LEFT - 12}" y="{y + 4}">q{qubit}</text>')
        parts.append(f'<path class="wire" d="M{_LEFT - 6} {y}H{end}"/>')
    return parts


def _svg_gate(gate: Gate, x: int, top: int) -> list[str]:
    heights = [top + qubit * _STEP_Y for qubit in gate.qubits]
    parts = []
    if len(heights) > 1:
        parts.append(f'<path class="link" d="M{x} {min(heights)}V{max(heights)}"/>')
    for y, label in zip(heights, _labels(gate), strict=True):
        parts += _svg_label(gate, label, x, y)
    return parts


def _svg_label(gate: Gate, label: str, x: int, y: int) -> list[str]:
    if label == "●":
        return [f'<circle class="dot" cx="{x}" cy="{y}" r="5"/>']
    if label == "⊕":
        cross = f'<path class="link" d="M{x - 10} {y}H{x + 10}M{x} {y - 10}V{y + 10}"/>'
        return [f'<circle class="plus" cx="{x}" cy="{y}" r="10"/>', cross]
    kind = {Input: "data", Weight: "trained", type(None): "fixed"}[type(gate.angle)]
    box = (
        f'<rect class="{kind}" x="{x - _BOX_X // 2}" y="{y - _BOX_Y // 2}" '
        f'width="{_BOX_X}" height="{_BOX_Y}" rx="5"/>'
    )
    angle = _angle_name(gate)
    if not angle:
        return [box, f'<text x="{x}" y="{y + 5}">{label}</text>']
    return [
        box,
        f'<text x="{x}" y="{y - 2}">{label}</text>',
        f'<text class="angle" x="{x}" y="{y + 12}">{angle}</text>',
    ]
