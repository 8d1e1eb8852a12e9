"""What the service makes of a program before the chip runs it."""

import numpy as np
import pytest

from qpeft.chips.calibration import load_calibration
from qpeft.chips.programs import CZ, U3, Program, to_originir
from qpeft.chips.simulation import run_programs
from qpeft.errors import ConfigError
from qpeft.service.compiling import TaskOptions, compile_programs, merge_turns

core = pytest.importorskip("pyqpanda3.core")

WUKONG = load_calibration("wukong")
PLAIN = TaskOptions(has_mapping=False, has_optimization=False)


def random_program(pairs, qubits, seed=0):
    draw = np.random.default_rng(seed).uniform
    gates = []
    for pair in pairs:
        gates += [U3(qubit, *draw(-3, 3, 3).tolist()) for qubit in qubits for _ in range(2)]
        gates.append(CZ(*pair))
    gates += [U3(qubit, *draw(-3, 3, 3).tolist()) for qubit in qubits]
    return Program(max(qubits) + 1, tuple(gates), tuple(reversed(qubits)))


def on_origins_simulator(program):
    """Probabilities by key; the rightmost bit is classical bit 0."""
    built = core.QProg()
    for gate in program.gates:
        built << (core.U3(*gate) if len(gate) == 4 else core.CZ(*gate))
    machine = core.CPUQVM()
    machine.run(built, 1)
    found = machine.result().get_prob_dict(list(program.measured))
    return {int(bits, 2): p for bits, p in found.items() if p > 1e-12}


def on_a_chip_without_noise(program, shots=200_000):
    counts = run_programs([program], WUKONG, shots, seed=1, scale=0.0)[0]
    return {key: count / shots for key, count in counts.items()}


@pytest.mark.parametrize(
    ("pairs", "has_mapping"),
    [
        ([(0, 1), (1, 2)], False),
        ([(0, 1), (1, 2)], True),
        ([(0, 1), (1, 2), (2, 0)], True),  # a triangle: no place without SWAPs
        ([(0, 3), (1, 3), (2, 3)], True),  # a star: a place elsewhere
    ],
)
@pytest.mark.parametrize("has_optimization", [False, True])
def test_a_compiled_program_gives_the_same_distribution(pairs, has_mapping, has_optimization):
    qubits = sorted({qubit for pair in pairs for qubit in pair})
    program = random_program(pairs, qubits)
    options = TaskOptions(has_mapping=has_mapping, has_optimization=has_optimization)
    compiled = compile_programs([to_originir(program)], options, WUKONG)[0]
    expected = on_origins_simulator(program)
    found = on_a_chip_without_noise(compiled)
    for key, probability in expected.items():
        assert found.get(key, 0.0) == pytest.approx(probability, abs=0.006)  # 5 sigma at 1/2


def test_merging_leaves_one_turn_between_two_couplings():
    program = random_program([(0, 1), (0, 1)], [0, 1])
    merged = merge_turns(program)
    assert len(merged.gates) == 2 + 2 * 3
    assert on_origins_simulator(merged) == pytest.approx(on_origins_simulator(program), abs=1e-9)


def test_a_program_that_fits_stays_where_it_is():
    program = Program(72, (U3(7, 0.5, 0.0, 0.0), CZ(7, 8)), (8, 7))
    assert compile_programs([to_originir(program)], PLAIN, WUKONG) == [program]
    assert compile_programs([to_originir(program)], TaskOptions(), WUKONG) == [program]


def test_a_mapped_program_stays_in_its_block():
    block = (30, 31, 42, 43)
    options = TaskOptions(block=block)
    program = random_program([(0, 1), (1, 2), (2, 3), (3, 0)], [0, 1, 2, 3])
    compiled = compile_programs([to_originir(program)], options, WUKONG)[0]
    used = {gate[0] for gate in compiled.gates} | set(compiled.measured)
    assert used == set(block)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("QINIT 2\nCREG 1\nFOO q[0]\nMEASURE q[0],c[0]\n", PLAIN, "Program 0: OriginIR line 3"),
        ("QINIT 2\nCREG 1\nCZ q[0],q[1]\nMEASURE q[0],c[0]\n", TaskOptions(block=(99,)), "block"),
        (to_originir(random_program([(0, 20)], range(21))), TaskOptions(), "up to 8 qubits"),
    ],
)
def test_what_cannot_run_is_refused_with_the_program_it_is_in(text, options, words):
    with pytest.raises(ConfigError, match=words):
        compile_programs([text], options, WUKONG)
