"""Drawings of a chip show every qubit, coupler and block, and cross out what is dead."""

import re
from xml.etree import ElementTree

import pytest
from toy_chips import make_chip, star

from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.chips.chip_drawing import draw_chip_svg, draw_chip_text
from qpeft.chips.native import compile_native
from qpeft.chips.packing import choose_disjoint
from qpeft.chips.placement import Place, find_places
from qpeft.circuits import build_ansatz

SVG = "{http://www.w3.org/2000/svg}"
DAMAGED = make_chip(dead_couplers=[(2, 3), (20, 32)], dead_qubits=[40], seed=0)  # 6 couplers dead


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_every_qubit_and_coupler_is_drawn_once_with_its_numbers() -> None:
    found = titles(draw_chip_svg(DAMAGED))
    assert sum(title.startswith("q") for title in found) == 72
    assert sum(title.startswith("coupler") for title in found) == 126
    assert f"coupler q0-q1: CZ fidelity {DAMAGED.couplers[0, 1]:.4f}" in found
    quality = DAMAGED.qubits[7]
    mean = (quality.readout_0 + quality.readout_1) / 2
    assert any(title.startswith(f"q7: read-out {mean:.3f}") for title in found)


def test_what_is_dead_is_crossed_out_and_named_in_words() -> None:
    svg = draw_chip_svg(DAMAGED)
    assert {title for title in titles(svg) if title.endswith("dead")} == {
        "q40: dead",
        "coupler q2-q3: dead",
        "coupler q20-q32: dead",
        "coupler q28-q40: dead",
        "coupler q39-q40: dead",
        "coupler q40-q41: dead",
        "coupler q40-q52: dead",
    }
    assert svg.count('class="cross"') == 7 + 2  # and two in the legend
    description = ElementTree.fromstring(svg).findtext(f"{SVG}desc") or ""
    assert "71 of 72 qubits, 120 of 126 couplers alive" in description
    assert "Dead qubits: q40." in description
    assert "Dead couplers: 2-3, 20-32, 28-40" in description


def test_a_better_coupler_is_wider_and_a_better_qubit_of_a_higher_step() -> None:
    root = ElementTree.fromstring(draw_chip_svg(DAMAGED))
    widths, steps = {}, {}
    for path in root.iter(f"{SVG}path"):
        found = re.match(r"coupler q(\d+)-q(\d+): CZ", path.findtext(f"{SVG}title") or "")
        if found:
            widths[int(found[1]), int(found[2])] = float(path.get("stroke-width", "nan"))
    for group in root.iter(f"{SVG}g"):
        found = re.match(r"q(\d+): read", group.findtext(f"{SVG}title") or "")
        if found:
            classes = group.find(f"{SVG}circle").get("class")  # type: ignore[union-attr]
            steps[int(found[1])] = int(classes[-1])
    by_fidelity = sorted(widths, key=lambda pair: DAMAGED.couplers[pair])
    assert [widths[pair] for pair in by_fidelity] == sorted(widths.values())
    assert len(set(widths.values())) == len(set(steps.values())) == 5
    by_readout = sorted(
        steps, key=lambda q: DAMAGED.qubits[q].readout_0 + DAMAGED.qubits[q].readout_1
    )
    assert [steps[qubit] for qubit in by_readout] == sorted(steps.values())


def outline_of(svg: str, block: int) -> list[tuple[int, ...]]:
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if (group.findtext(f"{SVG}title") or "").startswith(f"block {block}:"):
            path = group.find(f"{SVG}path").get("d")  # type: ignore[union-attr]
            lines = re.findall(r"M(\d+) (\d+)L(\d+) (\d+)", path)
            return [tuple(map(int, line)) for line in lines]
    raise AssertionError(f"no block {block}")


@pytest.mark.parametrize("qubits", [(13, 14, 25, 26), (13, 25, 26, 27), (1, 12, 13, 14, 25), (0,)])
def test_the_outline_of_a_block_is_closed_and_goes_round_its_qubits(
    qubits: tuple[int, ...],
) -> None:
    svg = draw_chip_svg(make_chip(), [Place(qubits, 0.5)])
    lines = outline_of(svg, 1)
    ends = [line[:2] for line in lines] + [line[2:] for line in lines]
    assert all(ends.count(end) == 2 for end in ends)
    centres = {
        int(text.text or ""): (int(text.get("x", "")), int(text.get("y", "")) - 4)
        for text in ElementTree.fromstring(svg).iter(f"{SVG}text")
        if "name" in (text.get("class") or "")
    }
    for qubit, (x, y) in centres.items():
        walls = [c for a, b, c, d in lines if a == c and a > x and min(b, d) <= y <= max(b, d)]
        assert len(walls) % 2 == (qubit in qubits)


def test_blocks_are_numbered_and_described() -> None:
    chip = load_calibration("wukong")
    places = choose_disjoint(
        find_places(compile_native(build_ansatz("reupload", 4, 1)), chip), chip.shape
    )
    svg = draw_chip_svg(chip, places[-1])
    assert sum(title.startswith("block") for title in titles(svg)) == len(places[-1])
    assert f"Block {len(places[-1])}: q" in svg
    assert "one circuit each" in svg
    assert "one circuit each" not in draw_chip_svg(chip)


def test_a_picture_fits_light_and_dark_pages_and_loads_nothing() -> None:
    svg = draw_chip_svg(DAMAGED)
    assert "@media (prefers-color-scheme: dark)" in svg
    assert 'role="img"' in svg
    assert not re.search(r"href|<script|url\(|@import", svg)


def test_names_from_a_calibration_are_escaped() -> None:
    old = make_chip(2, 2)
    chip = Calibration(
        "<b>&",
        old.taken_at,
        old.shape,
        old.qubits,
        old.couplers,
        old.gate_ns,
        old.cz_ns,
        old.source,
    )
    assert titles(draw_chip_svg(chip))[0].startswith("Chip <b>&,")


def test_a_chip_of_equal_qualities_has_one_step_in_its_legend() -> None:
    svg = draw_chip_svg(make_chip())
    assert svg.count('class="qubit q4"') == 72 + 1
    assert ">0.930</text>" in svg


def test_a_chip_with_nothing_alive_is_drawn() -> None:
    chip = make_chip(2, 3, dead_qubits=range(6))
    assert sum(title.endswith("dead") for title in titles(draw_chip_svg(chip))) == 6 + 7
    assert "0 of 6 qubits, 0 of 7 couplers alive" in draw_chip_text(chip)


def test_the_text_fits_a_terminal_and_shows_every_qubit() -> None:
    lines = draw_chip_text(DAMAGED).splitlines()
    assert max(map(len, lines)) <= 79
    assert all(line == line.rstrip() for line in lines)
    rows = [line for line in lines if re.match(r"q\d", line)]
    assert sum(len(re.findall(r"\b9\d\b", row[4:])) for row in rows) == 71


def test_the_text_of_a_small_chip() -> None:
    small = make_chip(2, 3, dead_couplers=[(1, 4)], dead_qubits=[5])
    gone = "\N{BOX DRAWINGS LIGHT DIAGONAL CROSS}"
    assert draw_chip_text(small).splitlines()[3:7] == [
        "      +0    +1    +2",
        "q0    93 ━━ 93 ━━ 93",
        f"       ┃     {gone}     {gone}",
        f"q3    93 ━━ 93 {gone * 2} {gone * 2}",
    ]


def test_a_star_is_outlined_too() -> None:
    places = choose_disjoint(find_places(compile_native(star(5)), make_chip()), (6, 12))[-1]
    assert draw_chip_svg(make_chip(), places).count('class="block"') == len(places) + 1
