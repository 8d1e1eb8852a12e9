"""What is written as OpenQASM or OriginIR is the same circuit when it is read again."""

import re

import pytest
import torch

from qpeft.backends.reference_sim import ReferenceBackend
from qpeft.circuits import ANSATZE, Circuit, Gate, Input, Weight, build_ansatz, z_on_each
from qpeft.circuits.text_formats import to_openqasm2, to_openqasm3, to_originir
from qpeft.errors import ConfigError

ALL_GATES = Circuit(
    3,
    (
        Gate("H", (2,)),
        Gate("RX", (0,), Input(0)),
        Gate("RY", (1,), Weight(0)),
        Gate("CNOT", (0, 2)),
        Gate("RZ", (2,), Input(1)),
        Gate("CRZ", (2, 0), Weight(1)),
        Gate("H", (0,)),
        Gate("CZ", (1, 2)),
        Gate("RZZ", (2, 1), Weight(2)),
        Gate("RX", (1,), Weight(3)),
        Gate("RY", (2,), Weight(0)),
    ),
    "all gates",
)
CIRCUITS = [ALL_GATES, *(build_ansatz(name, 3, 2) for name in ANSATZE)]
GATE = re.compile(r"(\w+)\s*(?:\(([^)]*)\))?\s*(q\[\d+\](?:,q\[\d+\])?)(?:,\(([^)]*)\))?;?$")
NAMES = {"cx": "CNOT"}


def angles(circuit: Circuit) -> tuple[list[float], list[float]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(circuit.n_inputs, generator=generator).tolist()
    return inputs, torch.randn(circuit.n_weights, generator=generator).tolist()


def expected(circuit: Circuit, inputs: list[float], weights: list[float]) -> list[float]:
    bound = ReferenceBackend().bind(
        circuit, z_on_each(circuit.n_qubits), torch.tensor(weights, dtype=torch.float64)
    )
    return bound(torch.tensor([inputs], dtype=torch.float64))[0].tolist()


def read(text: str, n_qubits: int) -> tuple[Circuit, list[float]]:
    """Read gates with numbers back as a circuit of weights; other lines must be declarations."""
    gates: list[Gate] = []
    numbers: list[float] = []
    for line in text.splitlines():
        if re.match(r"OPENQASM|include|[qc]reg|measure|QINIT|CREG|MEASURE", line):
            continue
        found = GATE.match(line)
        assert found, line
        name, before, places, after = found.groups()
        angle = None
        if before or after:
            numbers.append(float(before or after))
            angle = Weight(len(numbers) - 1)
        qubits = tuple(int(place) for place in re.findall(r"\d+", places))
        gates.append(Gate(NAMES.get(name, name.upper()), qubits, angle))
    return Circuit(n_qubits, tuple(gates)), numbers


def z_from_probabilities(probabilities: dict[str, float], n_qubits: int) -> list[float]:
    """Return <Z> of each qubit from the probabilities of keys whose last character is qubit 0."""
    return [
        sum(p * (-1) ** int(key[-1 - qubit]) for key, p in probabilities.items())
        for qubit in range(n_qubits)
    ]


@pytest.mark.parametrize("write", [to_openqasm2, to_originir])
@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda circuit: circuit.name)
def test_numbers_read_back_give_the_same_expectations(write: object, circuit: Circuit) -> None:
    inputs, weights = angles(circuit)
    again, numbers = read(write(circuit, inputs, weights), circuit.n_qubits)  # type: ignore[operator]
    assert expected(again, [], numbers) == pytest.approx(expected(circuit, inputs, weights))


def test_openqasm2_is_written_line_by_line() -> None:
    circuit = Circuit(2, (Gate("RY", (1,), Input(0)), Gate("CRZ", (1, 0), Weight(0))))
    assert to_openqasm2(circuit, [0.25], [-2]).splitlines() == [
        "OPENQASM 2.0;",
        'include "qelib1.inc";',
        "qreg q[2];",
        "creg c[2];",
        "ry(0.25) q[1];",
        "crz(-2.0) q[1],q[0];",
        "measure q -> c;",
    ]


def test_openqasm3_keeps_angles_as_parameters() -> None:
    circuit = Circuit(2, (Gate("RY", (1,), Input(0)), Gate("CRZ", (1, 0), Weight(0))))
    assert to_openqasm3(circuit).splitlines() == [
        "OPENQASM 3.0;",
        'include "stdgates.inc";',
        "input float z0;",
        "input float theta0;",
        "qubit[2] q;",
        "bit[2] c;",
        "ry(z0) q[1];",
        "crz(theta0) q[1],q[0];",
        "c = measure q;",
    ]


def test_originir_uses_only_gates_of_its_first_versions_and_measures_every_qubit() -> None:
    text = to_originir(ALL_GATES, *angles(ALL_GATES))
    names = {line.split()[0] for line in text.splitlines()}
    assert names == {"QINIT", "CREG", "H", "RX", "RY", "RZ", "CNOT", "CZ", "MEASURE"}
    assert text.endswith("MEASURE q[0],c[0]\nMEASURE q[1],c[1]\nMEASURE q[2],c[2]\n")


@pytest.mark.parametrize("write", [to_openqasm2, to_originir])
def test_tiny_and_large_angles_are_written_without_an_exponent(write: object) -> None:
    circuit = Circuit(1, (Gate("RX", (0,), Weight(0)), Gate("RX", (0,), Weight(1))))
    text = write(circuit, [], [1.25e-9, -12345678.5])  # type: ignore[operator]
    assert "(0.00000000125)" in text
    assert "(-12345678.5)" in text


@pytest.mark.parametrize("write", [to_openqasm2, to_originir])
@pytest.mark.parametrize(
    ("inputs", "weights", "message"),
    [
        ([1.0], [1.0] * 8, "Circuit 'reupload' has 2 inputs; got 1."),
        ([1.0, 2.0], [1.0] * 9, "Circuit 'reupload' has 8 weights; got 9."),
        ([1.0, float("nan")], [1.0] * 8, r"inputs\[1\] is nan; an angle must be a finite number"),
    ],
)
def test_angles_that_do_not_fit_are_refused(
    write: object, inputs: list[float], weights: list[float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write(build_ansatz("reupload", 2, 1), inputs, weights)  # type: ignore[operator]


def qiskit_expectations(program: object, n_qubits: int) -> list[float]:
    quantum_info = pytest.importorskip("qiskit.quantum_info")
    program.remove_final_measurements()  # type: ignore[attr-defined]
    return z_from_probabilities(quantum_info.Statevector(program).probabilities_dict(), n_qubits)


@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda circuit: circuit.name)
def test_qiskit_reads_openqasm2(circuit: Circuit) -> None:
    qasm2 = pytest.importorskip("qiskit.qasm2")
    inputs, weights = angles(circuit)
    program = qasm2.loads(to_openqasm2(circuit, inputs, weights))
    assert qiskit_expectations(program, circuit.n_qubits) == pytest.approx(
        expected(circuit, inputs, weights)
    )


@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda circuit: circuit.name)
def test_qiskit_reads_openqasm3_and_binds_its_parameters(circuit: Circuit) -> None:
    pytest.importorskip("qiskit_qasm3_import")
    qasm3 = pytest.importorskip("qiskit.qasm3")
    inputs, weights = angles(circuit)
    values = {f"z{i}": value for i, value in enumerate(inputs)}
    values |= {f"theta{i}": value for i, value in enumerate(weights)}
    program = qasm3.loads(to_openqasm3(circuit))
    assert {parameter.name for parameter in program.parameters} == set(values)
    program = program.assign_parameters(values)
    assert qiskit_expectations(program, circuit.n_qubits) == pytest.approx(
        expected(circuit, inputs, weights)
    )


@pytest.mark.parametrize("write", [to_openqasm2, to_originir])
@pytest.mark.parametrize("circuit", CIRCUITS, ids=lambda circuit: circuit.name)
def test_pyqpanda_reads_openqasm2_and_originir(write: object, circuit: Circuit) -> None:
    core = pytest.importorskip("pyqpanda3.core")
    compiler = pytest.importorskip("pyqpanda3.intermediate_compiler")
    load = {
        to_openqasm2: compiler.convert_qasm_string_to_qprog,
        to_originir: compiler.convert_originir_string_to_qprog,
    }[write]
    inputs, weights = angles(circuit)
    text = write(circuit, inputs, weights)  # type: ignore[operator]
    measured = [str(pair) for pair in load(text).get_measure_qubits_cbits()]
    assert measured == [f"(Qubit({qubit}), CBit({qubit}))" for qubit in range(circuit.n_qubits)]
    without = [line for line in text.splitlines() if not line.lower().startswith("measure")]
    machine = core.CPUQVM()
    machine.run(load("\n".join(without) + "\n"), 1)
    state = machine.result().get_state_vector()
    keys = [format(index, f"0{circuit.n_qubits}b") for index in range(len(state))]
    probabilities = {key: abs(entry) ** 2 for key, entry in zip(keys, state, strict=True)}
    assert z_from_probabilities(probabilities, circuit.n_qubits) == pytest.approx(
        expected(circuit, inputs, weights), abs=1e-7
    )
