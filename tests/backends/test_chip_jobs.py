"""Batches become packed programs and come back circuit by circuit, whatever the packing."""

import copy
import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from qpeft.backends.chip_jobs import prepare_chip_jobs, programs_of, read_chip_jobs
from qpeft.backends.registry import get_backend
from qpeft.backends.remote import CircuitBatch, JobRequest, Limits
from qpeft.chips.calibration import load_calibration
from qpeft.chips.packing import PackingOptions
from qpeft.chips.programs import U3, Program, from_originir, to_originir
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, build_ansatz
from qpeft.errors import ConfigError, CorruptResultError

CHIP = load_calibration("wukong")
LIMITS = Limits(max_qubits=72, max_programs=200, max_shots=100_000, has_exact_results=True)
QTHA = build_ansatz("reupload", 4, 1)
FLIPS = Circuit(4, tuple(Gate("RX", (qubit,), Input(qubit)) for qubit in range(4)), "flips")
LOPSIDED = Circuit(
    3,
    (
        Gate("RY", (0,), Input(0)),
        Gate("CRZ", (0, 2), Weight(0)),
        Gate("RX", (2,), Input(1)),
        Gate("CNOT", (0, 1)),
        Gate("RY", (2,), Weight(1)),
    ),
    "lopsided",
)
ODD_RING = Circuit(
    3,
    (
        *(Gate("RY", (qubit,), Input(qubit)) for qubit in range(3)),
        *(Gate("CNOT", (qubit, (qubit + 1) % 3)) for qubit in range(3)),
        *(Gate("CRZ", (qubit, (qubit + 2) % 3), Weight(qubit)) for qubit in range(3)),
        *(Gate("RX", (qubit,), Weight(qubit)) for qubit in range(2)),
    ),
    "odd ring",
)


def random_batch(circuit: Circuit, n_circuits: int, shots: int | None = 1000) -> CircuitBatch:
    n_angles = circuit.n_inputs + circuit.n_weights
    angles = np.random.default_rng(3).uniform(-3, 3, (n_circuits, n_angles))
    return CircuitBatch(circuit, angles, shots)


def prepare(
    batch: CircuitBatch,
    limits: Limits = LIMITS,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> list[JobRequest]:
    return prepare_chip_jobs(batch, CHIP, limits, PackingOptions(**options), settings or {})


def exact_probabilities(batch: CircuitBatch) -> np.ndarray:
    """(n_circuits, 2^n) of the reference backend, from the expectations of all products of Z."""
    circuit, n = batch.circuit, batch.circuit.n_qubits
    subsets = [
        ZProduct(tuple(q for q in range(n) if mask >> (n - 1 - q) & 1)) for mask in range(2**n)
    ]
    signs = np.array([[subset.sign(b, n) for subset in subsets] for b in range(2**n)])
    rows = []
    for row in torch.from_numpy(batch.angles):
        inputs, weights = row[None, : circuit.n_inputs], row[circuit.n_inputs :]
        values = get_backend("reference").bind(circuit, subsets, weights)(inputs)[0]
        rows.append(signs @ values.numpy() / 2**n)
    return np.array(rows)


def blocks_of(program: Program) -> list[list[int]]:
    """The qubits that CZ gates join, and those that stand alone, by first use in the read-out."""
    group = {qubit: {qubit} for gate in program.gates for qubit in _qubits(gate)}
    for qubit in program.measured:
        group.setdefault(qubit, {qubit})
    for gate in program.gates:
        if not isinstance(gate, U3):
            joined = group[gate.first] | group[gate.second]
            for qubit in joined:
                group[qubit] = joined
    return list(map(sorted, dict.fromkeys(frozenset(group[qubit]) for qubit in program.measured)))


def _qubits(gate: Any) -> tuple[int, ...]:
    return (gate.qubit,) if isinstance(gate, U3) else (gate.first, gate.second)


def simulate_block(program: Program, block: list[int]) -> np.ndarray:
    """Probabilities of a block's qubits, one axis each."""
    axis = {qubit: place for place, qubit in enumerate(block)}
    state = np.zeros((2,) * len(block), dtype=complex)
    state[(0,) * len(block)] = 1
    for gate in program.gates:
        if not set(_qubits(gate)) <= set(block):
            continue
        if isinstance(gate, U3):
            cos, sin = math.cos(gate.theta / 2), math.sin(gate.theta / 2)
            up, low = np.exp(1j * gate.phi), np.exp(1j * gate.lam)
            matrix = np.array([[cos, -low * sin], [up * sin, up * low * cos]])
            moved = np.tensordot(matrix, state, axes=(1, axis[gate.qubit]))
            state = np.moveaxis(moved, 0, axis[gate.qubit])
        else:
            both = [slice(None)] * len(block)
            both[axis[gate.first]] = both[axis[gate.second]] = 1  # type: ignore[call-overload]
            state[tuple(both)] *= -1
    return np.abs(state) ** 2


def exact_raw(programs: list[Program]) -> dict[str, Any]:
    """All outcomes with their probabilities: for programs of few measured qubits."""
    results = []
    for program in programs:
        keys, chances = np.zeros(1, dtype=object), np.ones(1)
        for block in blocks_of(program):
            probabilities = simulate_block(program, block)
            bits = {
                qubit: program.measured.index(qubit) for qubit in block if qubit in program.measured
            }
            states = np.array(list(np.ndindex(probabilities.shape)))
            parts = [sum(int(s[block.index(q)]) << bit for q, bit in bits.items()) for s in states]
            keys = (keys[:, None] + np.array(parts, dtype=object)).ravel()
            chances = (chances[:, None] * probabilities.ravel()).ravel()
        outcome: dict[str, float] = {}
        for key, chance in zip(keys, chances, strict=True):
            outcome[hex(key)] = outcome.get(hex(key), 0.0) + float(chance)
        results.append(outcome)
    return {"programs": results}


def sampled_raw(programs: list[Program], shots: int, seed: int) -> dict[str, Any]:
    """Counts of a noiseless chip."""
    rng = np.random.default_rng(seed)
    results = []
    for program in programs:
        keys = [0] * shots
        for block in blocks_of(program):
            probabilities = simulate_block(program, block)
            drawn = rng.choice(
                probabilities.size, size=shots, p=probabilities.ravel() / probabilities.sum()
            )
            states = np.unravel_index(drawn, probabilities.shape)
            for place, qubit in enumerate(block):
                if qubit in program.measured:
                    bit = program.measured.index(qubit)
                    keys = [key | int(b) << bit for key, b in zip(keys, states[place], strict=True)]
        counts: dict[str, int] = {}
        for key in keys:
            counts[hex(key)] = counts.get(hex(key), 0) + 1
        results.append(counts)
    return {"programs": results}


@pytest.mark.parametrize("circuit", [QTHA, LOPSIDED, ODD_RING], ids=lambda circuit: circuit.name)
def test_programs_run_the_circuits_that_were_asked_for(circuit: Circuit) -> None:
    batch = random_batch(circuit, 5)
    expected = exact_probabilities(batch)
    assert np.ptp(expected) > 0.1
    for options in (
        {"is_packed": False},
        {"max_blocks": 2},
        {"max_blocks": 2, "has_idle_ring": True},
    ):
        requests = prepare(batch, **options)
        found = [
            read_chip_jobs(request, exact_raw(programs_of(request.payload))) for request in requests
        ]
        # Angles are rounded to 8 decimals.
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


def test_packed_and_unpacked_counts_agree_with_the_exact_values_within_shot_noise() -> None:
    batch = random_batch(QTHA, 81, shots=4000)
    expected = exact_probabilities(batch)
    sigma = np.sqrt(expected * (1 - expected) / 4000) + 1e-4
    for options in ({}, {"has_idle_ring": True}, {"is_packed": False}):
        (request,) = prepare(batch, **options)
        counts = read_chip_jobs(request, sampled_raw(programs_of(request.payload), 4000, seed=0))
        assert counts.shape == (81, 16)
        assert (counts.sum(axis=1) == 4000).all()
        deviation = (counts / 4000 - expected) / sigma
        # 81 x 16 standard normal values: the largest is about 3.4, and 5.5 is beyond chance.
        assert np.abs(deviation).max() < 5.5
        assert np.sqrt((deviation**2).mean()) < 1.1


def test_81_circuits_are_at_most_six_programs_of_one_job() -> None:
    (request,) = prepare(random_batch(QTHA, 81))
    assert request.n_circuits == 81
    assert request.n_programs == len(programs_of(request.payload)) <= 6


def test_a_deterministic_program_comes_back_in_the_order_of_the_batch() -> None:
    """Circuit c flips the qubits of the bits of c, so its only outcome is basis state c."""
    flips = np.pi * np.array([[c >> (3 - qubit) & 1 for qubit in range(4)] for c in range(16)])
    batch = CircuitBatch(FLIPS, flips.astype(float), 50)
    for options in ({}, {"max_blocks": 3}, {"is_packed": False}):
        requests = prepare(batch, dataclasses.replace(LIMITS, max_programs=2), **options)
        found = []
        for request in requests:
            programs = programs_of(request.payload)
            key = [
                sum(1 << p.measured.index(g.qubit) for g in p.gates if g.theta > 3)
                for p in programs
            ]
            found.append(read_chip_jobs(request, {"programs": [{hex(k): 50} for k in key]}))
        np.testing.assert_array_equal(np.concatenate(found), 50 * np.eye(16))


def test_bit_0_of_a_key_is_qubit_0_of_the_first_block() -> None:
    (request,) = prepare(random_batch(FLIPS, 2, shots=10))
    assert request.n_programs == 1
    counts = read_chip_jobs(request, {"programs": [{"0x1": 7, "0x80": 3}]})
    first, second = np.zeros(16), np.zeros(16)
    first[[0b1000, 0]] = 7, 3  # qubit 0 is the most significant bit of a basis state
    second[[0, 0b0001]] = 7, 3
    np.testing.assert_array_equal(counts, [first, second])


def test_measured_lists_the_qubits_of_all_blocks_in_order() -> None:
    (request,) = prepare(random_batch(QTHA, 3))
    (program,) = programs_of(request.payload)
    places = request.payload["places"]
    blocks = request.payload["programs"][0]
    assert program.measured == tuple(qubit for block in blocks for qubit in places[block])
    assert len(program.measured) == 12


def test_jobs_hold_at_most_max_programs_and_keep_the_circuits_in_order() -> None:
    batch = random_batch(QTHA, 100)
    whole = prepare(batch)
    cut = prepare(batch, dataclasses.replace(LIMITS, max_programs=3))
    assert [request.n_programs for request in cut] == [3, 3, whole[0].n_programs - 6]
    assert sum(request.n_circuits for request in cut) == 100
    programs = [program for request in cut for program in programs_of(request.payload)]
    assert programs == programs_of(whole[0].payload)


def test_programs_survive_json_and_originir() -> None:
    (request,) = prepare(random_batch(QTHA, 20))
    programs = programs_of(json.loads(request.text))
    assert programs == programs_of(request.payload)
    assert [from_originir(to_originir(program)) for program in programs] == programs


def test_every_turn_of_the_structure_is_sent_even_where_it_does_nothing() -> None:
    at_zero = CircuitBatch(FLIPS, np.zeros((2, 4)), 10)
    (program,) = programs_of(prepare(at_zero)[0].payload)
    assert len(program.gates) == 8


def test_angles_that_the_cloud_cannot_tell_apart_give_the_same_key() -> None:
    batch = random_batch(FLIPS, 3)
    close = dataclasses.replace(batch, angles=batch.angles.round(6) + 1e-12)
    exact = dataclasses.replace(batch, angles=batch.angles.round(6))
    assert prepare(close)[0].key == prepare(exact)[0].key
    zeros = CircuitBatch(FLIPS, np.zeros((1, 4)), 10)
    negative = CircuitBatch(FLIPS, np.full((1, 4), -1e-13), 10)
    assert prepare(zeros)[0].key == prepare(negative)[0].key


def test_the_key_depends_on_all_that_changes_a_result() -> None:
    batch = random_batch(QTHA, 4)
    moved = batch.angles.copy()
    moved[2, 5] += 1e-6
    later = dataclasses.replace(CHIP, taken_at="2025-01-02T00:00:00+00:00")
    keys = [
        prepare(batch)[0].key,
        prepare(dataclasses.replace(batch, shots=999))[0].key,
        prepare(dataclasses.replace(batch, angles=moved))[0].key,
        prepare(batch, settings={"amend": True})[0].key,
        prepare(batch, max_blocks=2)[0].key,
        prepare_chip_jobs(batch, later, LIMITS, PackingOptions(), {})[0].key,
    ]
    assert len(set(keys)) == len(keys)
    assert prepare(batch)[0].key == keys[0]


def test_an_empty_batch_is_no_job() -> None:
    assert prepare(CircuitBatch(QTHA, np.zeros((0, QTHA.n_inputs + QTHA.n_weights)), 10)) == []


def test_exact_results_have_a_program_for_each_circuit() -> None:
    (request,) = prepare(random_batch(LOPSIDED, 4, shots=None))
    assert request.n_programs == 4
    found = read_chip_jobs(request, exact_raw(programs_of(request.payload)))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize(
    ("limits", "shots", "message"),
    [
        (dataclasses.replace(LIMITS, max_qubits=3), 10, "takes at most 3"),
        (dataclasses.replace(LIMITS, max_shots=1000), 1001, "at most 1000 shots"),
        (dataclasses.replace(LIMITS, has_exact_results=False), None, "no exact results"),
    ],
)
def test_a_batch_beyond_the_limits_is_refused(
    limits: Limits, shots: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(random_batch(QTHA, 2, shots), limits)


def test_a_circuit_larger_than_the_chip_is_refused() -> None:
    chain = Circuit(73, tuple(Gate("CNOT", (i, i + 1)) for i in range(72)))
    batch = CircuitBatch(chain, np.zeros((1, 0)), 10)
    with pytest.raises(ConfigError, match="73 qubits, but chip 'wukong' has 72"):
        prepare(batch, dataclasses.replace(LIMITS, max_qubits=100))


def two_programs() -> tuple[JobRequest, dict[str, Any]]:
    (request,) = prepare(random_batch(FLIPS, 4, shots=10), max_blocks=2)
    return request, {"programs": [{"0x0": 10}, {"0x1": 4, "0xff": 6}]}


def test_probabilities_are_taken_too() -> None:
    request, _ = two_programs()
    raw = {"programs": [{"0x0": 1.0}, {"0x1": 0.25, "0xF0": 0.75}]}
    found = read_chip_jobs(request, raw)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[2, 0b1000] == 0.25
    assert found[3, 0b1111] == 0.75


def test_counts_may_be_written_as_whole_floats() -> None:
    request, raw = two_programs()
    floats = {"programs": [{k: float(v) for k, v in one.items()} for one in raw["programs"]]}
    np.testing.assert_array_equal(read_chip_jobs(request, floats), read_chip_jobs(request, raw))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({}, "expected outcomes"),
        (None, "expected outcomes"),
        ([["0x0", 10]], "expected outcomes"),
        ({"0x0": 9}, "sum to 9"),
        ({"0x0": 1}, "sum to 1"),
        ({"0x0": 11}, "sum to 11"),
        ({"0x0": 20, "0x1": -10}, "negative"),
        ({"0x0": 9.5, "0x1": 0.5}, "not whole"),
        ({"0x0": 0.5, "0x1": 0.4}, "sum to 0.9"),
        ({"0x0": float("nan")}, "not finite"),
        ({"0x0": float("inf")}, "not finite"),
        ({"0x0": 10**400}, "too large"),
        ({"0x0": "10"}, "not a number"),
        ({"0x0": True, "0x1": 9}, "not a number"),
        ({"0x100": 10}, "more than the 8 measured bits"),
        ({"10": 10}, "not hexadecimal"),
        ({"0xg": 10}, "not hexadecimal"),
        ({"0x-1": 10}, "not hexadecimal"),
        ({"0x1": 5, "0x01": 5}, "twice"),
        ({"0x0": 0.25, "0x1": 0.75}, "other programs have counts"),
    ],
)
def test_a_result_that_does_not_add_up_names_its_program(damage: Any, message: str) -> None:
    request, raw = two_programs()
    read_chip_jobs(request, raw)
    broken = copy.deepcopy(raw)
    broken["programs"][1] = damage
    with pytest.raises(CorruptResultError, match=f"(?s)Program 1 of 2.*{message}"):
        read_chip_jobs(request, broken)


@pytest.mark.parametrize(
    "raw",
    [None, [], {}, {"programs": []}, {"programs": [{"0x0": 10}]}, {"programs": "ab c"}, "programs"],
)
def test_a_result_without_an_entry_for_each_program_is_refused(raw: Any) -> None:
    request, _ = two_programs()
    with pytest.raises(CorruptResultError, match="list 'programs' of 2 entries"):
        read_chip_jobs(request, raw)


def test_counts_of_every_qubit_of_the_chip_are_cut_apart() -> None:
    """Keys of more than 64 bits, against a loop over single bits."""
    (request,) = prepare(random_batch(FLIPS, 18, shots=300))
    n_bits = 4 * len(request.payload["programs"][0])
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (300, n_bits))
    counts: dict[str, int] = {}
    for row in bits:
        key = hex(sum(int(bit) << j for j, bit in enumerate(row)))
        counts[key] = counts.get(key, 0) + 1
    expected = np.zeros((n_bits // 4, 16))
    for row in bits.reshape(300, -1, 4):
        for block, (a, b, c, d) in enumerate(row):
            expected[block, 8 * a + 4 * b + 2 * c + d] += 1
    assert request.n_programs == 1
    np.testing.assert_array_equal(read_chip_jobs(request, {"programs": [counts]}), expected)
    assert n_bits > 64
