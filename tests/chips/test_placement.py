"""Places of circuits on a grid: alive, connected as the circuit needs, and the best first."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_chips import Pair, chain, grid_pairs, linked, make_chip, ring, star

from qpeft.chips.calibration import Calibration, are_neighbours
from qpeft.chips.native import NativeCircuit, compile_native
from qpeft.chips.placement import Place, find_places, grid_neighbours
from qpeft.chips.routing import fit_to_chip
from qpeft.circuits import Circuit, Gate, build_ansatz
from qpeft.errors import ConfigError

PAIRS = grid_pairs(6, 12)
ALONE = Circuit(4, tuple(Gate("H", (qubit,)) for qubit in range(4)))


def used_couplers(native: NativeCircuit, place: Place) -> list[Pair]:
    pairs = [(place.qubits[a], place.qubits[b]) for a, b in native.couplings]
    return [(min(pair), max(pair)) for pair in pairs]


def check_alive(native: NativeCircuit, chip: Calibration, places: list[Place]) -> None:
    for place in places:
        assert len(set(place.qubits)) == native.n_qubits
        assert set(place.qubits) <= set(chip.qubits)
        for pair in used_couplers(native, place):
            assert chip.couplers[pair] > 0


def test_a_ring_of_four_fits_on_every_plaquette_of_a_perfect_grid() -> None:
    native = compile_native(build_ansatz("reupload", 4, 1))
    found = {frozenset(place.qubits) for place in find_places(native, make_chip())}
    corners = [row * 12 + column for row in range(5) for column in range(11)]
    assert found == {frozenset((q, q + 1, q + 12, q + 13)) for q in corners}


@pytest.mark.parametrize(("n_qubits", "count"), [(6, 5 * 10 + 4 * 11), (10, 5 * 8 + 2 * 11)])
def test_an_even_ring_goes_round_a_rectangle_of_two_lines(n_qubits: int, count: int) -> None:
    native = compile_native(ring(n_qubits))
    places = find_places(native, make_chip())
    assert len(places) == count
    for place in places:
        rows = {qubit // 12 for qubit in place.qubits}
        columns = {qubit % 12 for qubit in place.qubits}
        assert sorted((len(rows), len(columns))) == [2, n_qubits // 2]


@pytest.mark.parametrize(
    ("circuit", "count"),
    [(chain(1), 72), (chain(2), 126), (chain(3), 60 + 48 + 4 * 55), (ALONE, 55 + 54 + 36)],
    ids=["one qubit", "pair", "chain of three", "four without couplings"],
)
def test_small_circuits_fit_wherever_their_smallest_shapes_do(circuit: Circuit, count: int) -> None:
    native = compile_native(circuit)
    places = find_places(native, make_chip())
    assert len(places) == count
    check_alive(native, make_chip(), places)


@pytest.mark.parametrize("n_qubits", [2, 5, 8, 12, 24, 72])
def test_a_chain_of_any_length_fits_the_grid(n_qubits: int) -> None:
    native = compile_native(chain(n_qubits))
    places = find_places(native, make_chip())
    assert places
    check_alive(native, make_chip(), places)


@pytest.mark.parametrize("circuit", [star(5), linked(6, [(0, 1), (0, 2), (0, 3), (3, 4), (4, 5)])])
def test_a_tree_of_at_most_four_branches_fits(circuit: Circuit) -> None:
    native = compile_native(circuit)
    places = find_places(native, make_chip())
    assert places
    check_alive(native, make_chip(), places[:1])


@pytest.mark.parametrize(
    "circuit", [ring(3), ring(5), star(6), linked(4, [(0, 1), (0, 2), (1, 2)])]
)
def test_odd_rings_and_wide_stars_have_no_place(circuit: Circuit) -> None:
    assert find_places(compile_native(circuit), make_chip()) == []


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.sampled_from(PAIRS), max_size=40),
    st.sets(st.integers(0, 71), max_size=8),
    st.sampled_from([ring(4), ring(6), chain(4), chain(5), star(4), ALONE]),
)
def test_places_use_no_dead_qubit_and_no_dead_coupler(
    dead_couplers: set[Pair], dead_qubits: set[int], circuit: Circuit
) -> None:
    chip = make_chip(dead_couplers=dead_couplers, dead_qubits=dead_qubits)
    native = compile_native(circuit)
    places = find_places(native, chip)
    check_alive(native, chip, places)
    assert len({frozenset(place.qubits) for place in places}) == len(places)
    assert [p.quality for p in places] == sorted((p.quality for p in places), reverse=True)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(PAIRS), max_size=60), st.sets(st.integers(0, 71), max_size=10))
def test_no_live_plaquette_is_missed(dead_couplers: set[Pair], dead_qubits: set[int]) -> None:
    chip = make_chip(dead_couplers=dead_couplers, dead_qubits=dead_qubits)
    expected = set()
    for q in (row * 12 + column for row in range(5) for column in range(11)):
        sides = [(q, q + 1), (q, q + 12), (q + 1, q + 13), (q + 12, q + 13)]
        if all(chip.couplers[side] > 0 for side in sides):
            expected.add(frozenset((q, q + 1, q + 12, q + 13)))
    found = find_places(compile_native(ring(4)), chip)
    assert {frozenset(place.qubits) for place in found} == expected


def test_a_chain_uses_a_plaquette_whose_fourth_coupler_is_dead() -> None:
    chip = make_chip(2, 2, dead_couplers=[(1, 3)])
    assert find_places(compile_native(ring(4)), chip) == []
    assert set(find_places(compile_native(chain(4)), chip)[0].qubits) == {0, 1, 2, 3}


def test_a_coupler_below_the_threshold_counts_as_dead() -> None:
    chip = make_chip(seed=3)
    native = compile_native(ring(4))
    good = find_places(native, chip, min_cz_fidelity=0.965)
    assert 0 < len(good) < len(find_places(native, chip))
    for place in good:
        assert min(chip.couplers[pair] for pair in used_couplers(native, place)) >= 0.965


def test_quality_is_the_product_of_gates_and_readout() -> None:
    chip = make_chip(1, 2, seed=1)
    native = compile_native(Circuit(2, (Gate("H", (0,)), Gate("CNOT", (0, 1)), Gate("CZ", (0, 1)))))
    first, second = find_places(native, chip)[0].qubits
    turns = {first: 1, second: 2}
    expected = chip.couplers[0, 1] ** 2
    for qubit, n_turns in turns.items():
        quality = chip.qubits[qubit]
        expected *= quality.gate_fidelity**n_turns * (quality.readout_0 + quality.readout_1) / 2
    assert math.isclose(find_places(native, chip)[0].quality, expected, rel_tol=1e-12)
    # The other orientation would put two turns on the worse qubit.
    assert chip.qubits[second].gate_fidelity > chip.qubits[first].gate_fidelity


def test_the_best_orientation_wins_where_couplers_are_used_unequally() -> None:
    chip = make_chip(2, 2, seed=5)
    twice = linked(4, [(0, 1), (1, 2), (2, 3), (3, 0), (0, 1), (0, 1), (0, 1)])
    place = find_places(compile_native(twice), chip)[0]
    pair = tuple(sorted(place.qubits[:2]))
    assert chip.couplers[pair] == max(chip.couplers.values())


def test_qubits_that_are_not_read_do_not_count_their_readout() -> None:
    chip = make_chip(1, 2)
    native = compile_native(chain(2))
    all_read = find_places(native, chip)[0].quality
    one_read = find_places(native, chip, readout=[1])[0].quality
    assert math.isclose(all_read / one_read, 0.93, rel_tol=1e-12)


def test_a_circuit_with_no_place_says_why() -> None:
    with pytest.raises(ConfigError, match="80 qubits, but chip 'toy' has 70 live ones"):
        fit_to_chip(chain(80), make_chip(dead_qubits=[1, 2]))
    with pytest.raises(ConfigError, match="Lower min_cz_fidelity"):
        fit_to_chip(ring(4), make_chip(), min_cz_fidelity=0.999)


def test_grid_neighbours_are_those_that_a_coupler_joins() -> None:
    for qubit in range(72):
        near = [q for q in range(72) if q != qubit and are_neighbours((6, 12), qubit, q)]
        assert grid_neighbours(qubit, (6, 12)) == near
