"""Drawings show every gate on its qubits, and fit where they are shown."""

import re
from xml.etree import ElementTree

import pytest

from qpeft.circuits import ANSATZE, Circuit, Gate, Input, Weight, build_ansatz
from qpeft.circuits.drawing import draw_svg, draw_text

SVG = "{http://www.w3.org/2000/svg}"
MIXED = Circuit(
    3,
    (
        Gate("H", (0,)),
        Gate("RX", (1,), Input(10)),
        Gate("CNOT", (0, 2)),
        Gate("CZ", (1, 2)),
        Gate("RZZ", (2, 0), Weight(2)),
        Gate("CNOT", (2, 1)),
    ),
    "mixed",
)


def test_a_small_circuit_is_drawn_as_expected() -> None:
    assert draw_text(MIXED, width=80).splitlines() == [
        "q0 ───┤H├─────●─────┤ZZ θ2├─────",
        "              │        │",
        "q1 ─┤RX z10├──┼──●─────┼─────⊕──",
        "              │  │     │     │",
        "q2 ───────────⊕──●──┤ZZ θ2├──●──",
    ]


def test_a_gate_is_drawn_left_as_far_as_its_wires_are_free() -> None:
    gates = (Gate("H", (0,)), Gate("H", (0,)), Gate("H", (1,)), Gate("CZ", (1, 2)))
    top, _, middle, _, bottom = draw_text(Circuit(3, gates), width=80).splitlines()
    assert (top, middle, bottom) == ("q0 ─┤H├──┤H├──", "q1 ─┤H├───●───", "q2 ───────●───")


def test_a_wire_between_two_qubits_of_a_gate_is_crossed_not_reused() -> None:
    text = draw_text(Circuit(3, (Gate("CNOT", (2, 0)), Gate("H", (1,)))), width=80)
    assert text.splitlines()[2] == "q1 ─┼──┤H├──"


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("ansatz", ANSATZE)
def test_lines_fit_the_width_and_show_every_angle_once(ansatz: str, width: int) -> None:
    circuit = build_ansatz(ansatz, 4, 2)
    text = draw_text(circuit, width=width)
    assert max(map(len, text.splitlines())) <= width
    shown = [int(index) for index in re.findall(r"θ(\d+)├", text)]
    assert sorted(shown) == list(range(circuit.n_weights))
    assert text.count("●") == circuit.count_gates()["CRZ"]
    assert len(re.findall(r"z\d├", text)) == 4 * circuit.n_uploads()


def test_all_lines_of_a_band_name_their_qubit() -> None:
    bands = draw_text(build_ansatz("reupload", 11, 1), width=40).split("\n\n\n")
    assert len(bands) > 1
    for band in bands:
        labels = [line.split()[0] for line in band.splitlines()[::2]]
        assert labels == [f"q{qubit}" for qubit in range(11)]


def test_the_width_of_the_terminal_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "33")
    circuit = build_ansatz("reupload", 3, 1)
    assert draw_text(circuit) == draw_text(circuit, width=33)


def test_a_width_too_small_for_one_gate_still_shows_every_gate() -> None:
    assert draw_text(MIXED, width=1).count("●") == 4


def test_a_circuit_without_gates_is_a_bare_wire() -> None:
    assert draw_text(Circuit(1, ()), width=80) == "q0 ─"
    assert ElementTree.fromstring(draw_svg(Circuit(1, ()))).tag == f"{SVG}svg"


@pytest.mark.parametrize("circuit", [MIXED, build_ansatz("reupload", 4, 3)])
def test_the_svg_shows_every_gate_inside_its_frame(circuit: Circuit) -> None:
    image = ElementTree.fromstring(draw_svg(circuit))
    width, height = float(image.get("width", 0)), float(image.get("height", 0))
    boxes = [r for r in image.iter(f"{SVG}rect") if r.get("class") != "page"]
    counts = circuit.count_gates()
    doubles = counts.get("RZZ", 0)
    signs = counts.get("CNOT", 0) + counts.get("CZ", 0)
    assert len(boxes) == len(circuit.gates) - signs + doubles
    for box in boxes:
        assert 0 < float(box.get("x", -1)) <= width - float(box.get("width", 0))
        assert 0 < float(box.get("y", -1)) <= height - float(box.get("height", 0))
    places = [(box.get("x"), box.get("y")) for box in boxes]
    assert len(set(places)) == len(places)
    n_data = sum(isinstance(gate.angle, Input) for gate in circuit.gates)
    assert sum(box.get("class") == "data" for box in boxes) == n_data


def test_the_svg_needs_nothing_from_outside_and_knows_dark_pages() -> None:
    text = draw_svg(build_ansatz("reupload", 2, 1))
    assert "prefers-color-scheme: dark" in text
    outside = re.sub(r'xmlns="[^"]*"', "", text)
    assert not re.search(r"https?:|@import|url\(|href|<script|<image", outside)


def test_the_name_of_a_circuit_is_escaped() -> None:
    image = ElementTree.fromstring(draw_svg(Circuit(1, (), 'a <b> & "c"')))
    title = image.find(f"{SVG}title")
    assert title is not None
    assert title.text == 'a <b> & "c": 1 qubits, 0 gates'
