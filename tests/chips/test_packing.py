"""Packing: disjoint blocks, as few programs as possible, the best places, evenly filled."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from toy_chips import Pair, chain, grid_pairs, make_chip, ring

from qpeft.chips.calibration import are_neighbours, load_calibration
from qpeft.chips.native import compile_native
from qpeft.chips.packing import (
    Packing,
    PackingOptions,
    choose_disjoint,
    pack_circuits,
)
from qpeft.chips.placement import Place, find_places
from qpeft.circuits import build_ansatz
from qpeft.errors import ConfigError

PAIRS = grid_pairs(6, 12)
SHAPE = (6, 12)
QTHA = compile_native(build_ansatz("reupload", 4, 1))


def sizes(packing: Packing) -> list[int]:
    return [len(places) for places in packing.programs]


def check_disjoint(places: tuple[Place, ...], *, has_idle_ring: bool) -> None:
    for one, other in combinations(places, 2):
        assert not set(one.qubits) & set(other.qubits)
        if has_idle_ring:
            joined = [
                (a, b) for a in one.qubits for b in other.qubits if are_neighbours(SHAPE, a, b)
            ]
            assert joined == []


def best_by_integer_programming(
    places: list[Place], size: int | None, *, has_idle_ring: bool
) -> float:
    """The largest number of disjoint places, or the best log quality of so many."""
    clashes = []
    for i, j in combinations(range(len(places)), 2):
        one, other = places[i].qubits, places[j].qubits
        if set(one) & set(other) or (
            has_idle_ring and any(are_neighbours(SHAPE, a, b) for a in one for b in other)
        ):
            row = np.zeros(len(places))
            row[[i, j]] = 1
            clashes.append(row)
    constraints = [LinearConstraint(np.array(clashes), -np.inf, 1)] if clashes else []
    gain = np.ones(len(places))
    if size is not None:
        constraints.append(LinearConstraint(np.ones((1, len(places))), size, size))
        gain = np.array([math.log(place.quality) for place in places])
    found = milp(
        -gain, constraints=constraints, integrality=np.ones(len(places)), bounds=Bounds(0, 1)
    )
    return -found.fun


def test_eighteen_plaquettes_fit_on_a_perfect_grid_and_fill_it() -> None:
    places = choose_disjoint(find_places(QTHA, make_chip()), SHAPE)[-1]
    assert len(places) == 18
    assert {qubit for place in places for qubit in place.qubits} == set(range(72))


def test_81_circuits_take_five_evenly_filled_programs_of_a_perfect_grid() -> None:
    packing = pack_circuits(81, find_places(QTHA, make_chip()), SHAPE, PackingOptions())
    assert sizes(packing) == [17, 16, 16, 16, 16]
    assert packing.n_circuits == 81


def test_81_circuits_take_five_or_six_programs_of_the_packaged_chip() -> None:
    chip = load_calibration("wukong")
    assert min(chip.couplers.values()) == 0
    packing = pack_circuits(81, find_places(QTHA, chip), chip.shape, PackingOptions())
    assert len(packing.programs) in (5, 6)
    assert max(sizes(packing)) - min(sizes(packing)) <= 1


@settings(max_examples=40, deadline=None)
@given(
    st.sets(st.sampled_from(PAIRS), max_size=25),
    st.sets(st.integers(0, 71), max_size=5),
    st.sampled_from([ring(4), ring(6), chain(2), chain(5)]),
    st.booleans(),
    st.integers(1, 100),
)
def test_blocks_of_a_program_are_disjoint_and_alive(
    dead_couplers: set[Pair], dead_qubits: set[int], circuit, has_idle_ring: bool, n_circuits: int
) -> None:
    chip = make_chip(dead_couplers=dead_couplers, dead_qubits=dead_qubits, seed=0)
    native = compile_native(circuit)
    places = find_places(native, chip)
    packing = pack_circuits(n_circuits, places, SHAPE, PackingOptions(has_idle_ring=has_idle_ring))
    assert packing.n_circuits == n_circuits
    assert max(sizes(packing)) - min(sizes(packing)) <= 1
    for program in set(packing.programs):
        check_disjoint(program, has_idle_ring=has_idle_ring)
        for place in program:
            assert set(place.qubits) <= set(chip.qubits)
            for a, b in native.couplings:
                pair = tuple(sorted((place.qubits[a], place.qubits[b])))
                assert chip.couplers[pair] > 0


@pytest.mark.parametrize("has_idle_ring", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_other_choice_of_plaquettes_is_larger_or_better(seed: int, has_idle_ring: bool) -> None:
    dead = np.random.default_rng(seed).choice(len(PAIRS), 4 * seed, replace=False)
    places = find_places(QTHA, make_chip(dead_couplers=[PAIRS[i] for i in dead], seed=seed))
    chosen = choose_disjoint(places, SHAPE, has_idle_ring=has_idle_ring)
    largest = best_by_integer_programming(places, None, has_idle_ring=has_idle_ring)
    assert len(chosen) == round(largest)
    for size in (1, len(chosen) // 2, len(chosen) - 1, len(chosen)):
        score = sum(math.log(place.quality) for place in chosen[size - 1])
        best = best_by_integer_programming(places, size, has_idle_ring=has_idle_ring)
        assert len(chosen[size - 1]) == size
        assert score == pytest.approx(best, abs=1e-6)


def test_circuits_of_other_shapes_nearly_fill_the_grid() -> None:
    for circuit, n_blocks in [(chain(1), 72), (chain(2), 36), (chain(3), 24), (ring(6), 12)]:
        places = find_places(compile_native(circuit), make_chip())
        assert len(choose_disjoint(places, SHAPE)) == n_blocks


def test_a_program_with_few_blocks_takes_the_best_places() -> None:
    places = find_places(QTHA, make_chip(seed=2))
    packing = pack_circuits(1, places, SHAPE, PackingOptions())
    assert packing.programs == ((places[0],),)


def test_one_circuit_a_program_without_packing() -> None:
    places = find_places(QTHA, make_chip(seed=2))
    packing = pack_circuits(7, places, SHAPE, PackingOptions(is_packed=False))
    assert packing.programs == ((places[0],),) * 7


def test_max_blocks_limits_every_program() -> None:
    places = find_places(QTHA, make_chip())
    packing = pack_circuits(81, places, SHAPE, PackingOptions(max_blocks=10))
    assert sizes(packing) == [9] * 9


def test_packing_the_same_twice_gives_the_same() -> None:
    places = find_places(QTHA, make_chip(seed=4))
    one = pack_circuits(81, places, SHAPE, PackingOptions())
    assert one == pack_circuits(81, list(reversed(places)), SHAPE, PackingOptions())


def test_no_circuits_take_no_program() -> None:
    places = find_places(QTHA, make_chip())
    assert pack_circuits(0, places, SHAPE, PackingOptions()).programs == ()


@pytest.mark.parametrize("options", [{"min_cz_fidelity": 1.1}, {"max_blocks": 0}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        PackingOptions(**options)
