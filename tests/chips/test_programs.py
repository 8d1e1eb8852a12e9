"""Programs as OriginIR: what is written is what pyqpanda3 reads, and what it writes is read here."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_chips import probabilities_of, unitary_of

from qpeft.chips.originir_gates import GATE_TABLE
from qpeft.chips.programs import CZ, U3, Program, from_originir, to_originir
from qpeft.errors import ConfigError

START = "QINIT 3\nCREG 3\n"
END = "".join(f"MEASURE q[{qubit}],c[{qubit}]\n" for qubit in range(3))
angles = st.floats(-7, 7, allow_subnormal=False)
gates = st.one_of(
    st.builds(U3, st.integers(0, 4), angles, angles, angles),
    st.permutations(range(5)).map(lambda order: CZ(order[0], order[1])),
)


def random_program(n_qubits: int, n_gates: int, seed: int) -> Program:
    draw = random.Random(seed)
    made: list[U3 | CZ] = []
    for _ in range(n_gates):
        first, second = draw.sample(range(n_qubits), 2)
        numbers = [round(draw.uniform(-3, 3), 8) for _ in range(3)]
        made.append(U3(first, *numbers) if draw.random() < 0.7 else CZ(first, second))
    return Program(n_qubits, tuple(made), tuple(range(n_qubits)))


def are_equal_up_to_phase(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(abs(abs(np.trace(one.conj().T @ other)) - len(one)) < 1e-6)


def test_the_text_of_a_small_program() -> None:
    program = Program(72, (U3(3, 0.5, -1.0, 1e-10), CZ(0, 12)), (3, 12))
    assert to_originir(program).splitlines() == [
        "QINIT 72",
        "CREG 2",
        "U3 q[3],(0.5,-1.0,0.0000000001)",
        "CZ q[0],q[12]",
        "MEASURE q[3],c[0]",
        "MEASURE q[12],c[1]",
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(gates, max_size=20), st.permutations(range(5)), st.integers(1, 5))
def test_reading_gives_back_what_was_written(
    made: list[U3 | CZ], order: list[int], n_measured: int
) -> None:
    program = Program(5, tuple(made), tuple(order[:n_measured]))
    back = from_originir(to_originir(program))
    assert (back.n_qubits, back.measured) == (program.n_qubits, program.measured)
    assert [type(gate) for gate in back.gates] == [type(gate) for gate in program.gates]
    for one, other in zip(back.gates, program.gates, strict=True):
        assert one == pytest.approx(other, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_pyqpanda3_runs_what_is_written_with_the_right_numbers(seed: int) -> None:
    core = pytest.importorskip("pyqpanda3.core")
    compiler = pytest.importorskip("pyqpanda3.intermediate_compiler")
    program = random_program(4, 25, seed)
    # A program that measures gives sampled probabilities there, so the state is asked for without.
    text = to_originir(program).partition("MEASURE")[0]
    machine = core.CPUQVM()
    machine.run(compiler.convert_originir_string_to_qprog(text), 1)
    found = machine.result().get_prob_dict([3, 1, 0, 2])
    # pyqpanda3 writes the first qubit of the list rightmost.
    mine = probabilities_of(program, [2, 0, 1, 3])
    assert [found[f"{index:04b}"] for index in range(16)] == pytest.approx(list(mine), abs=1e-7)


def test_classical_bit_0_is_the_rightmost_of_a_key_of_pyqpanda3() -> None:
    core = pytest.importorskip("pyqpanda3.core")
    compiler = pytest.importorskip("pyqpanda3.intermediate_compiler")
    program = Program(3, (U3(2, np.pi, 0.0, 0.0),), (2, 0, 1))
    machine = core.CPUQVM()
    machine.run(compiler.convert_originir_string_to_qprog(to_originir(program)), 10)
    assert machine.result().get_counts() == {"001": 10}


def check_against_pyqpanda3(body: str) -> None:
    """Compare a body of gates, as it is and as pyqpanda3 writes it again, with its matrix there."""
    compiler = pytest.importorskip("pyqpanda3.intermediate_compiler")
    padded = f"{START}{body}\nI q[0]\nI q[1]\nI q[2]\n"
    expected = np.asarray(compiler.convert_originir_string_to_qprog(padded).to_circuit().matrix())
    text = f"{START}{body}\n{END}"
    assert are_equal_up_to_phase(unitary_of(from_originir(text)), expected), body
    again = compiler.convert_qprog_to_originir(compiler.convert_originir_string_to_qprog(text))
    assert are_equal_up_to_phase(unitary_of(from_originir(again)), expected), again


def line_of(name: str, qubits: list[int], draw: random.Random) -> str:
    numbers = [f"{draw.uniform(-6, 6):.8f}" for _ in range(GATE_TABLE[name].n_angles)]
    places = ",".join(f"q[{qubit}]" for qubit in qubits)
    return f"{name} {places}" + (f",({','.join(numbers)})" if numbers else "")


@pytest.mark.parametrize("name", GATE_TABLE)
def test_a_gate_is_what_pyqpanda3_means_by_it(name: str) -> None:
    draw = random.Random(name)
    order = draw.sample(range(3), 3)
    line = line_of(name, order[: GATE_TABLE[name].n_qubits], draw)
    check_against_pyqpanda3(line)
    check_against_pyqpanda3(f"DAGGER\n{line}\nT q[{order[0]}]\nH q[{order[0]}]\nENDDAGGER")
    if GATE_TABLE[name].n_qubits == 1:
        check_against_pyqpanda3(f"CONTROL q[{order[1]}]\n{line}\nENDCONTROL")
        check_against_pyqpanda3(
            f"DAGGER\nCONTROL q[{order[1]}]\n{line}\nDAGGER\n{line}\nENDDAGGER\n"
            f"S q[{order[0]}]\nENDCONTROL\nENDDAGGER"
        )


def test_all_that_the_client_writes_for_chip_programs_is_read() -> None:
    core = pytest.importorskip("pyqpanda3.core")
    compiler = pytest.importorskip("pyqpanda3.intermediate_compiler")
    made: list[Callable[[], object]] = [
        lambda: core.U3(0, 0.1, 0.2, 0.3),
        lambda: core.RX(1, 0.4),
        lambda: core.RY(2, -0.5),
        lambda: core.RZ(0, 0.6),
        lambda: core.RPHI(1, 0.7, 0.8),
        lambda: core.H(2),
        lambda: core.X(0),
        lambda: core.S(1).dagger(),
        lambda: core.CNOT(0, 1),
        lambda: core.BARRIER([0, 1, 2]),
        lambda: core.CRZ(1, 2, 0.9),
        lambda: core.CP(2, 0, 1.0),
        lambda: core.CU(0, 2, 0.1, 0.2, 0.3, 0.4),
        lambda: core.H(0).control(1),
        lambda: core.ISWAP(0, 2),
        lambda: core.RZZ(0, 1, 1.1),
    ]
    program = core.QProg()
    for gate in made:
        program << gate()
    expected = np.asarray(program.to_circuit().matrix())
    program << core.measure([0, 1, 2], [2, 0, 1])
    mine = from_originir(compiler.convert_qprog_to_originir(program))
    assert mine.measured == (1, 2, 0)
    assert are_equal_up_to_phase(unitary_of(mine), expected)


def test_blank_lines_and_spaces_do_not_matter() -> None:
    text = (
        "\n QINIT 2\n\nCREG 1\n  U3 q[0], (1, -.5, 2e-1)\nCZ q[0] , q[1]\n\nMEASURE q[1], c[0]\n\n"
    )
    assert from_originir(text) == Program(2, (U3(0, 1, -0.5, 0.2), CZ(0, 1)), (1,))


def test_barriers_and_identities_leave_nothing() -> None:
    text = "QINIT 2\nCREG 1\nBARRIER q[0],q[1]\nI q[0]\nBARRIER \nMEASURE q[0],c[0]"
    assert from_originir(text).gates == ()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("U9 q[0]", r"line 3 \(U9 q\[0\]\): unknown statement 'U9'"),
        ("u3 q[0],(0.1,0.2,0.3)", "unknown statement 'u3'"),
        ("RESET q[0]", "unknown statement 'RESET'"),
        ("H q[7]", r"there is no qubit q\[7\]; QINIT says 3"),
        ("U3 q[7],(0.1,0.2,0.3)", r"there is no qubit q\[7\]"),
        ("U3 q[0],(0.1,0.2)", "takes 1 qubits and 3 angles; got 1 and 2"),
        ("RX q[0],(1e999)", "'1e999' is not a finite number"),
        ("RX q[0],(nan)", "'nan' is not a finite number"),
        ("RX q[0],(pi/2)", "is not a finite number"),
        ("RX q[0],()", "'' is not a finite number"),
        ("CZ q[1],q[1]", "must differ"),
        ("CNOT q[1],q[1]", "must differ"),
        ("H q[0] q[1]", "expected NAME"),
        ("{}", "no statement of OriginIR"),
        ("QINIT 4", "once each"),
        ("ENDDAGGER", "no such block"),
        ("DAGGER\nH q[0]\nENDCONTROL", "line 5 .*no such block"),
        ("DAGGER\nH q[0]", "line 5 .*MEASURE.*outside of any block"),
        ("CONTROL q[0],q[1]\nX q[2]\nENDCONTROL", "CONTROL takes one qubit here; got 2"),
        ("CONTROL q[0]\nCZ q[1],q[2]\nENDCONTROL", "around one-qubit gates only"),
        ("CONTROL q[0]\nH q[0]\nENDCONTROL", r"q\[0\] controls itself"),
        ("MEASURE q[0],c[5]", "there are 3 classical bits"),
        ("MEASURE q[0],c[0]\nH q[0]", r"line 4 .*q\[0\] is already measured"),
        ("MEASURE q[1],c[0]", r"line 4 .*c\[0\] is already written"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(body: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_originir(f"{START}{body}\n{END}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "QINIT"),
        ("H q[0]", "line 1"),
        ("CREG 1\nQINIT 1\n", "QINIT comes first"),
        ("QINIT 0\n", "one whole number"),
        ("QINIT 2\nCREG 2\nH q[0]\n", "measures no qubit"),
        ("QINIT 2\nCREG 2\nMEASURE q[0],c[1]\n", r"c\[0\] is not measured"),
        ("QINIT 2\nCREG 2\nMEASURE q[0],c[0]\nDAGGER\n", "not closed"),
    ],
)
def test_an_incomplete_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_originir(text)


@pytest.mark.parametrize("filler", [" ", ",", "q[0],", "q[0] ", "(", "A"])
def test_a_hostile_line_is_refused_at_once(filler: str) -> None:
    with pytest.raises(ConfigError, match="line 3"):
        from_originir(f"{START}H q[0]{filler * 200_000}]\n{END}")
    with pytest.raises(ConfigError, match="line 3"):
        from_originir(f"{START}RX q[0],({'1' * 200_000}{filler})\n{END}")


def test_a_long_bad_line_is_cut_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        from_originir(f"{START}X q[0],({'1' * 5000})\n")
    assert len(str(caught.value)) < 300
