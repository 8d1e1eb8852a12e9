"""Programs on the simulated chip agree with Kraus operators on complex density matrices, and shots with both."""

import dataclasses
import math
import random
from functools import reduce

import numpy as np
import pytest
from qiskit.quantum_info import PTM, Kraus
from scipy import stats

from qpeft.chips import simulation
from qpeft.chips.amendment import amended_probabilities
from qpeft.chips.blocks import group_alike, split_program
from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.chips.noise import NoiseModel
from qpeft.chips.programs import CZ, U3, Program
from qpeft.chips.simulation import outcome_probabilities, run_programs
from qpeft.errors import ConfigError

WUKONG = load_calibration("wukong")
PLAQUETTES = [(0, 1, 13, 12), (4, 5, 17, 16), (46, 47, 59, 58)]


class SlowTwin:
    """A density matrix of the measured block's qubits, 2^n x 2^n, and its channels as Kraus operators."""

    def __init__(self, qubits: tuple[int, ...], noise: NoiseModel):
        self.qubits, self.noise = qubits, noise
        self.rho = np.zeros((2 ** len(qubits),) * 2, dtype=complex)
        self.rho[0, 0] = 1
        self.free_at: dict[int, float] = {}

    def run(self, program: Program) -> np.ndarray:
        """Return the distribution of what is read, the block's first qubit on the leftmost bit."""
        for gate in program.gates:
            if set(gate[:1]) <= set(self.qubits):
                self.act(gate)
        end = max(self.free_at.values(), default=0.0)
        for qubit in self.free_at:
            self.relax(qubit, end - self.free_at[qubit])
        known = np.real(np.diag(self.rho))
        confusion = [self.noise.readout([qubit])[0].numpy() for qubit in self.qubits]
        return reduce(np.kron, confusion) @ known

    def act(self, gate: U3 | CZ) -> None:
        qubits = (gate.qubit,) if isinstance(gate, U3) else (gate.first, gate.second)
        start = max(self.free_at.get(qubit, 0.0) for qubit in qubits)
        for qubit in qubits:
            if qubit in self.free_at:
                self.relax(qubit, start - self.free_at[qubit])
        if isinstance(gate, U3):
            cos, sin = math.cos(gate.theta / 2), math.sin(gate.theta / 2)
            turn = [
                [cos, -np.exp(1j * gate.lam) * sin],
                [np.exp(1j * gate.phi) * sin, np.exp(1j * (gate.phi + gate.lam)) * cos],
            ]
            self.apply([np.array(turn)], qubits)
            behind = self.noise.after_turn(gate.qubit)
        else:
            self.apply([np.diag([1, 1, 1, -1])], qubits)
            behind = self.noise.after_cz(*qubits)
        # qiskit turns a transfer matrix into Kraus operators
        self.apply(Kraus(PTM(behind.numpy())).data, qubits)
        for qubit in qubits:
            self.free_at[qubit] = start + (30.0 if isinstance(gate, U3) else 40.0)

    def relax(self, qubit: int, nanoseconds: float) -> None:
        quality = WUKONG.qubits[qubit]
        lost = 1 - math.exp(-nanoseconds / (1000 * quality.t1_us))
        kept_phase = math.exp(-nanoseconds / (1000 * quality.t2_us)) / math.sqrt(1 - lost)
        damping = [np.diag([1, math.sqrt(1 - lost)]), np.array([[0, math.sqrt(lost)], [0, 0]])]
        flips = [
            math.sqrt((1 + kept_phase) / 2) * np.eye(2),
            math.sqrt((1 - kept_phase) / 2) * np.diag([1, -1]),
        ]
        self.apply(damping, (qubit,))
        self.apply(flips, (qubit,))

    def apply(self, operators: list[np.ndarray], qubits: tuple[int, ...]) -> None:
        full = [self.embed(np.asarray(operator), qubits) for operator in operators]
        self.rho = sum(k @ self.rho @ k.conj().T for k in full)

    def embed(self, operator: np.ndarray, qubits: tuple[int, ...]) -> np.ndarray:
        n = len(self.qubits)
        places = [self.qubits.index(qubit) for qubit in qubits]
        rest = [place for place in range(n) if place not in places]
        wide = np.kron(operator, np.eye(2 ** len(rest))).reshape((2,) * (2 * n))
        order = np.argsort([*places, *rest])
        return wide.transpose([*order, *(n + order)]).reshape(2**n, 2**n)


def random_gates(qubits: tuple[int, ...], n_gates: int, seed: int) -> list[U3 | CZ]:
    draw = random.Random(seed)
    couplers = [pair for pair in WUKONG.alive_couplers if set(pair) <= set(qubits)]
    gates: list[U3 | CZ] = [U3(q, *(draw.uniform(-4, 4) for _ in range(3))) for q in qubits]
    for _ in range(n_gates):
        if couplers and draw.random() < 0.5:
            pair = draw.choice(couplers)
            gates.append(CZ(*draw.sample(pair, 2)))
        else:
            gates.append(U3(draw.choice(qubits), *(draw.uniform(-4, 4) for _ in range(3))))
    return gates + [CZ(*pair) for pair in couplers]  # all of them: one block


def distribution(counts: dict[int, int], n_bits: int) -> np.ndarray:
    """Return (2^n,) frequencies, bit 0 of the key leftmost."""
    total = np.zeros(2**n_bits)
    for key, count in counts.items():
        total[int(f"{key:0{n_bits}b}"[::-1], 2)] += count
    return total / total.sum()


@pytest.mark.parametrize("qubits", [(30,), (3, 4), (7, 8, 9), (0, 1, 13, 12)])
@pytest.mark.parametrize("has_idle_noise", [True, False])
def test_a_block_agrees_with_kraus_operators(
    qubits: tuple[int, ...], has_idle_noise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_idle_noise:
        monkeypatch.setattr(SlowTwin, "relax", lambda self, qubit, nanoseconds: None)
    program = Program(72, tuple(random_gates(qubits, 14, seed=len(qubits))), qubits)
    ((block,),) = outcome_probabilities([program], WUKONG, has_idle_noise=has_idle_noise)
    noise = NoiseModel(WUKONG, has_idle_noise=has_idle_noise)
    assert (block.qubits, block.bits) == (qubits, tuple(range(len(qubits))))
    np.testing.assert_allclose(
        block.probabilities, SlowTwin(qubits, noise).run(program), atol=1e-12
    )


def test_alike_blocks_on_other_places_are_simulated_with_their_own_noise() -> None:
    programs = []
    for seed, qubits in enumerate(PLAQUETTES):
        structure = random_gates(PLAQUETTES[0], 12, seed=99)
        draw = random.Random(seed)
        moved = dict(zip(PLAQUETTES[0], qubits, strict=True))
        gates = [
            U3(moved[g.qubit], *(draw.uniform(-3, 3) for _ in range(3)))
            if isinstance(g, U3)
            else CZ(moved[g.first], moved[g.second])
            for g in structure
        ]
        programs.append(Program(72, tuple(gates), qubits))
    blocks = [block for i, p in enumerate(programs) for block in split_program(p, i)]
    assert group_alike(blocks) == [[0, 1, 2]]
    for program, (block,) in zip(programs, outcome_probabilities(programs, WUKONG), strict=True):
        expected = SlowTwin(block.qubits, NoiseModel(WUKONG)).run(program)
        np.testing.assert_allclose(block.probabilities, expected, atol=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [Program(72, tuple(random_gates((3, 4), 6, seed=1)[:4]), (3, 4)) for _ in range(5)]
    whole = outcome_probabilities(programs, WUKONG)
    monkeypatch.setattr(simulation, "_CHUNK", 32)
    for (one,), (other,) in zip(whole, outcome_probabilities(programs, WUKONG), strict=True):
        np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_a_packed_program_is_the_product_of_its_blocks() -> None:
    parts = [random_gates(qubits, 10, seed) for seed, qubits in enumerate(PLAQUETTES)]
    woven = [gate for gates in zip(*parts, strict=False) for gate in gates]
    rest = [gate for part in parts for gate in part[len(woven) // 3 :]]
    measured = tuple(qubit for qubits in PLAQUETTES for qubit in reversed(qubits))
    (packed,) = outcome_probabilities([Program(72, (*woven, *rest), measured)], WUKONG)
    assert [block.bits for block in packed] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    for block, gates, qubits in zip(packed, parts, PLAQUETTES, strict=True):
        alone = Program(72, tuple(gates), tuple(reversed(qubits)))
        ((expected,),) = outcome_probabilities([alone], WUKONG)
        assert block.qubits == tuple(reversed(qubits))
        np.testing.assert_allclose(block.probabilities, expected.probabilities, atol=1e-14)


def test_qubits_that_are_not_read_are_summed_out() -> None:
    gates = tuple(random_gates((0, 1, 13, 12), 12, seed=4))
    ((whole,),) = outcome_probabilities([Program(72, gates, (0, 1, 13, 12))], WUKONG)
    ((part,),) = outcome_probabilities([Program(72, gates, (12, 0))], WUKONG)
    expected = whole.probabilities.reshape(2, 2, 2, 2).sum(axis=(1, 2)).T.reshape(-1)
    np.testing.assert_allclose(part.probabilities, expected, atol=1e-14)


def test_a_qubit_without_gates_is_read_as_zero_but_for_its_read_out() -> None:
    ((block,),) = outcome_probabilities([Program(72, (), (40,))], WUKONG)
    right = WUKONG.qubits[40].readout_0
    np.testing.assert_allclose(block.probabilities, [right, 1 - right], atol=1e-15)


def test_bit_j_of_a_key_is_the_qubit_measured_j() -> None:
    flips = tuple(U3(qubit, math.pi, 0.0, math.pi) for qubit in (3, 50, 71))
    measured = (*range(10, 50), 71, 3, 4, 50)
    (counts,) = run_programs([Program(72, flips, measured)], WUKONG, 20, 0, scale=0.0)
    assert counts == {1 << 40 | 1 << 41 | 1 << 43: 20}


def test_all_72_qubits_can_be_read_at_once() -> None:
    flips = tuple(U3(qubit, math.pi, 0.0, math.pi) for qubit in range(0, 72, 2))
    (counts,) = run_programs([Program(72, flips, tuple(range(72)))], WUKONG, 7, 0, scale=0.0)
    assert counts == {sum(1 << qubit for qubit in range(0, 72, 2)): 7}


def test_counts_follow_the_probabilities() -> None:
    program = Program(72, tuple(random_gates((0, 1, 13, 12), 12, seed=8)), (0, 1, 13, 12))
    ((block,),) = outcome_probabilities([program], WUKONG)
    (counts,) = run_programs([program], WUKONG, 40_000, seed=3)
    assert sum(counts.values()) == 40_000
    found = distribution(counts, 4) * 40_000
    assert stats.chisquare(found, block.probabilities * 40_000).pvalue > 1e-4


def test_blocks_of_one_program_are_drawn_independently() -> None:
    half = tuple(U3(qubit, math.pi / 2, 0.0, 0.0) for qubit in (3, 30))
    (counts,) = run_programs([Program(72, half, (3, 30))], WUKONG, 40_000, seed=1, scale=0.0)
    sizes = [counts[key] for key in range(4)]
    assert stats.chisquare(sizes).pvalue > 1e-4


def test_a_programs_counts_depend_on_seed_and_index_but_not_on_the_others() -> None:
    programs = [Program(72, (U3(q, 1.0, 0.0, 0.0),), (q,)) for q in (3, 4, 5)]
    counts = run_programs(programs, WUKONG, 1000, seed=1)
    assert counts == run_programs(programs, WUKONG, 1000, seed=1)
    assert counts != run_programs(programs, WUKONG, 1000, seed=2)
    assert counts != run_programs(programs, WUKONG, 1000, seed=(1, 2))
    changed = run_programs([programs[2], programs[1]], WUKONG, 1000, seed=1)
    assert changed[1] == counts[1]
    same = run_programs([programs[0], programs[0]], WUKONG, 1000, seed=1)
    assert same[0] != same[1]


def chip_without(qubit: int) -> Calibration:
    alive = {number: q for number, q in WUKONG.qubits.items() if number != qubit}
    couplers = {pair: f for pair, f in WUKONG.couplers.items() if qubit not in pair}
    return dataclasses.replace(WUKONG, qubits=alive, couplers=couplers)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            Program(72, (U3(72, 0.0, 0.0, 0.0),), (0,)),
            r"Program 1, gate 0 \(U3\).*qubit 72.*0 to 71",
        ),
        (Program(72, (), (-1,)), r"Program 1 measures qubit -1"),
        (Program(72, (U3(5, 0.0, 0.0, 0.0),), (0,)), r"gate 0 \(U3\).*qubit 5.*dead"),
        (Program(72, (), (5,)), r"measures qubit 5.*dead"),
        (
            Program(72, (CZ(0, 1), CZ(26, 14)), (0,)),
            r"gate 1 \(CZ\).*coupler between qubits 26 and 14",
        ),
        (Program(72, (CZ(0, 2),), (0,)), r"gate 0 \(CZ\).*between qubits 0 and 2"),
        (Program(72, (U3(0, math.nan, 0.0, 0.0),), (0,)), r"gate 0 \(U3\) on qubit 0.*not finite"),
        (Program(72, (U3(0, 0.0, math.inf, 0.0),), (0,)), r"not finite"),
        (Program(72, (), ()), r"measure at least one"),
        (Program(72, (), (1, 1)), r"each once"),
        (Program(80, (), (1,)), r"made for 80 qubits.*has 72"),
    ],
)
def test_a_program_that_the_chip_cannot_run_is_refused_by_name(
    program: Program, message: str
) -> None:
    good = Program(72, (), (0,))
    with pytest.raises(ConfigError, match=message):
        run_programs([good, program], chip_without(5), 10, 0)


def test_a_large_block_is_refused_before_it_is_simulated() -> None:
    chain = tuple(CZ(qubit, qubit + 1) for qubit in range(8))
    with pytest.raises(ConfigError, match=r"joins 9 qubits.*at most 8"):
        run_programs([Program(72, chain, (0,))], WUKONG, 10, 0)
    counts = run_programs([Program(72, chain[:7], (0,))], WUKONG, 10, 0, scale=0.0)
    assert counts == [{0: 10}]


def test_no_shots_are_refused() -> None:
    with pytest.raises(ConfigError, match="shots"):
        run_programs([Program(72, (), (0,))], WUKONG, 0, 0)


def test_amendment_inverts_the_read_out_of_exact_frequencies() -> None:
    """Without sampling noise it gives what a chip with perfect read-out would."""
    program = Program(72, tuple(random_gates((0, 1, 13, 12), 12, seed=8)), (0, 1, 13, 12))
    ((block,),) = outcome_probabilities([program], WUKONG)
    keys = [int(f"{outcome:04b}"[::-1], 2) for outcome in range(16)]
    exact = dict(zip(keys, (1e9 * block.probabilities).round().astype(int), strict=True))
    amended = amended_probabilities(exact, program, WUKONG)
    perfect = {
        number: dataclasses.replace(q, readout_0=1.0, readout_1=1.0)
        for number, q in WUKONG.qubits.items()
    }
    ((wanted,),) = outcome_probabilities([program], dataclasses.replace(WUKONG, qubits=perfect))
    found = [amended.get(key, 0.0) for key in keys]
    np.testing.assert_allclose(found, wanted.probabilities, atol=1e-7)


def test_every_block_of_a_packed_program_is_amended_as_if_it_were_alone() -> None:
    gates = [gate for seed, q in enumerate(PLAQUETTES) for gate in random_gates(q, 8, seed)]
    packed = Program(72, tuple(gates), tuple(q for qubits in PLAQUETTES for q in qubits))
    (counts,) = run_programs([packed], WUKONG, 500, seed=0)
    amended = amended_probabilities(counts, packed, WUKONG)
    assert sum(amended.values()) == pytest.approx(1, abs=1e-12)
    assert min(amended.values()) > 0
    assert len(amended) < 60  # not the 2^12 of the joint distribution
    for number, qubits in enumerate(PLAQUETTES):
        alone: dict[int, int] = {}
        for key, count in counts.items():
            part = key >> 4 * number & 15
            alone[part] = alone.get(part, 0) + count
        program = Program(72, tuple(random_gates(qubits, 8, number)), qubits)
        wanted = amended_probabilities(alone, program, WUKONG)
        found = np.zeros(16)
        for key, probability in amended.items():
            found[key >> 4 * number & 15] += probability
        np.testing.assert_allclose(found, [wanted.get(k, 0.0) for k in range(16)], atol=1e-12)


def test_what_becomes_negative_is_clipped_and_the_rest_normalised() -> None:
    amended = amended_probabilities({0: 100}, Program(72, (), (3,)), WUKONG)
    assert amended == {0: 1.0}


def test_a_qubit_that_is_read_like_a_coin_cannot_be_amended() -> None:
    coin = dataclasses.replace(WUKONG.qubits[3], readout_0=0.6, readout_1=0.4)
    chip = dataclasses.replace(WUKONG, qubits={**WUKONG.qubits, 3: coin})
    with pytest.raises(ConfigError, match=r"Qubit 3.*coin"):
        amended_probabilities({0: 100}, Program(72, (), (3,)), chip)
