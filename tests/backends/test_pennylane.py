"""The PennyLane remote: angles, bits, broadcasting, and devices of every kind."""

import json
import sys
from typing import Any

import numpy as np
import pennylane as qml
import pytest

from qpeft.backends import pennylane_remote
from qpeft.backends.conformance_circuits import (
    basis_angles,
    basis_circuit,
    count_bounds,
    gate_circuit,
    random_angles,
    reference_distributions,
)
from qpeft.backends.pennylane_remote import PennylaneRemote
from qpeft.backends.remote import CircuitBatch, Distributions, JobState, Remote
from qpeft.circuits import Circuit, Gate, build_ansatz
from qpeft.circuits.gates import GATES
from qpeft.errors import (
    ConfigError,
    CorruptResultError,
    MissingExtraError,
    RemoteError,
    UnknownJobError,
)

DEVICES = ["default.qubit", "lightning.qubit", "default.mixed"]


def run(remote: Remote, circuit: Circuit, angles: np.ndarray, shots: int | None) -> Distributions:
    parts = []
    for request in remote.prepare(CircuitBatch(circuit, angles, shots)):
        job_id = remote.submit(request, "tag")
        assert remote.status(job_id).state is JobState.FINISHED
        parts.append(remote.read(request, json.loads(json.dumps(remote.fetch(job_id)))))
    return np.concatenate(parts)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_exact_probabilities_are_those_of_the_reference(device: str, n_rows: int) -> None:
    for name in GATES:
        circuit = gate_circuit(name)
        angles = random_angles(circuit, n_rows, seed=1)
        found = run(PennylaneRemote(device), circuit, angles, None)
        np.testing.assert_allclose(found, reference_distributions(circuit, angles), atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_counts_are_those_of_the_reference(device: str, n_rows: int) -> None:
    circuit = build_ansatz("reupload", 3, 1)
    angles = random_angles(circuit, n_rows, seed=1)
    wanted = reference_distributions(circuit, angles)
    counts = run(PennylaneRemote(device, seed=1), circuit, angles, 2000)
    assert (np.abs(counts - 2000 * wanted) <= count_bounds(wanted, 2000)).all()


@pytest.mark.parametrize("device", DEVICES)
def test_wire_0_is_the_leftmost_bit(device: str) -> None:
    states = np.array([0b100, 0b110, 0b001])
    counts = run(PennylaneRemote(device), basis_circuit(3), basis_angles(states, 3), 50)
    assert (counts[range(3), states] == 50).all()


def test_a_batch_is_one_execution_where_the_device_broadcasts() -> None:
    device = qml.device("default.qubit", wires=2)
    circuit = build_ansatz("reupload", 2, 1)
    with qml.Tracker(device) as tracker:
        run(PennylaneRemote(device), circuit, random_angles(circuit, 81, seed=0), None)
    assert (tracker.totals["batches"], tracker.totals["simulations"]) == (1, 1)


def test_a_batch_is_split_where_the_device_does_not_broadcast() -> None:
    device = qml.device("lightning.qubit", wires=2)
    circuit = build_ansatz("reupload", 2, 1)
    angles = random_angles(circuit, 5, seed=0)
    with qml.Tracker(device) as tracker:
        found = run(PennylaneRemote(device), circuit, angles, None)
    assert (tracker.totals["batches"], tracker.totals["simulations"]) == (1, 5)
    np.testing.assert_allclose(found, reference_distributions(circuit, angles), atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_circuit_without_angles_is_drawn_anew_for_each_row(device: str) -> None:
    circuit = Circuit(2, (Gate("H", (1,)),), "no angle")
    counts = run(PennylaneRemote(device, seed=1), circuit, np.zeros((6, 0)), 500)
    assert (counts[:, :2].sum(axis=1) == 500).all()
    assert len(np.unique(counts, axis=0)) > 1
    exact = run(PennylaneRemote(device), circuit, np.zeros((2, 0)), None)
    np.testing.assert_allclose(exact, [[0.5, 0.5, 0, 0]] * 2, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_seeded_device_repeats_a_job_and_no_other(device: str) -> None:
    circuit = build_ansatz("reupload", 2, 1)
    angles = random_angles(circuit, 2, seed=0)
    first = run(PennylaneRemote(device, seed=5), circuit, angles, 1000)
    remote = PennylaneRemote(device, seed=5)
    assert (run(remote, circuit, angles, 1000) == first).all()
    assert (run(remote, circuit, angles + 1e-9, 1000) != first).any()
    assert (run(PennylaneRemote(device, seed=6), circuit, angles, 1000) != first).any()


def test_options_reach_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Device(qml.devices.DefaultQubit):
        def __init__(self, wires: Any, colour: str):
            super().__init__(wires=wires)
            opened.append((len(self.wires), colour))

    monkeypatch.setattr(qml, "device", lambda name, **options: Device(**options))
    circuit = build_ansatz("reupload", 2, 1)
    remote = PennylaneRemote("default.qubit", {"colour": "blue"})
    (request,) = remote.prepare(CircuitBatch(circuit, random_angles(circuit, 3, seed=0), None))
    remote.submit(request, "tag")
    assert opened == [(2, "blue")]
    with pytest.raises(RemoteError, match=r"options {'colour': 'blue'} was given to .* with {}"):
        PennylaneRemote("default.qubit").submit(request, "tag")


def test_batches_are_cut_to_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pennylane_remote, "MAX_NUMBERS", 2**8)
    circuit = build_ansatz("reupload", 2, 1)
    angles = random_angles(circuit, 100, seed=0)
    sizes = {}
    for device in DEVICES:
        remote = PennylaneRemote(device)
        requests = remote.prepare(CircuitBatch(circuit, angles, 100))
        sizes[device] = [request.n_circuits for request in requests]
        assert remote.limits.max_qubits == (4 if device == "default.mixed" else 8)
    assert sizes["default.qubit"] == [64, 36]
    assert sizes["default.mixed"] == [16] * 6 + [4]
    found = run(PennylaneRemote("default.mixed"), circuit, angles, None)
    np.testing.assert_allclose(found, reference_distributions(circuit, angles), atol=1e-6)


def test_only_known_simulators_are_repeatable_unless_the_caller_says_so() -> None:
    class Paid(qml.devices.DefaultQubit):
        name = "paid.device"

    limits = PennylaneRemote(Paid(wires=2)).limits
    assert (limits.is_repeatable, limits.has_exact_results, limits.max_qubits) == (False, False, 2)
    assert PennylaneRemote(Paid(wires=2), is_repeatable=True).limits.has_exact_results
    assert not PennylaneRemote("default.qubit", is_repeatable=False).limits.is_repeatable
    circuit = build_ansatz("reupload", 2, 1)
    batch = CircuitBatch(circuit, random_angles(circuit, 1, 0), None)
    with pytest.raises(ConfigError, match="no exact results"):
        PennylaneRemote(Paid(wires=2)).prepare(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "lightening.qubit"}, "Did you mean 'lightning.qubit'"),
        ({"device": "braket.aws.qubit"}, "plug-in may have to be installed"),
        ({"device": 3}, "got int"),
        ({"options": {"c_dtype": complex}}, "must be JSON data"),
        ({"options": {"aws_secret": "x"}}, "'aws_secret' looks like a key"),
        ({"options": {"shots": 5}}, "'shots' is set by qpeft"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_work(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PennylaneRemote(**arguments)


def test_options_beside_a_device_object_are_refused() -> None:
    with pytest.raises(ConfigError, match="made already"):
        PennylaneRemote(qml.device("default.qubit", wires=2), seed=1)


def test_an_option_that_the_device_does_not_know_is_named() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    remote = PennylaneRemote("default.qubit", {"colour": "blue"})
    (request,) = remote.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), 10))
    with pytest.raises(ConfigError, match=r"does not take its options \['colour'\]"):
        remote.submit(request, "tag")


def test_a_device_that_cannot_play_the_gates_is_a_remote_error() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    remote = PennylaneRemote("default.clifford")
    (request,) = remote.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), 10))
    with pytest.raises(RemoteError, match=r"pennylane:default\.clifford refuses"):
        remote.submit(request, "tag")


def test_too_many_qubits_are_refused() -> None:
    circuit = build_ansatz("reupload", 3, 1)
    batch = CircuitBatch(circuit, random_angles(circuit, 1, 0), 10)
    with pytest.raises(ConfigError, match="at most 2 qubits; circuit 'reupload' has 3"):
        PennylaneRemote(qml.device("default.qubit", wires=2)).prepare(batch)


def test_a_job_of_another_process_is_unknown_here() -> None:
    remote = PennylaneRemote()
    for ask in (remote.status, remote.fetch, remote.cancel):
        with pytest.raises(UnknownJobError, match="has no job 'elsewhere'"):
            ask("elsewhere")
    with pytest.raises(RemoteError, match="keeps no tags"):
        remote.find("tag")


def test_old_results_that_were_fetched_make_room_and_others_stay() -> None:
    from qpeft.backends.local_jobs import KEPT, LocalJobs

    jobs: LocalJobs[int] = LocalJobs("toy")
    for number in range(KEPT + 5):
        jobs.add(str(number), number)
    for number in range(1, KEPT + 3):
        jobs.mark_fetched(str(number))
        jobs.mark_fetched(str(number))
    kept = [number for number in range(KEPT + 5) if jobs.has(str(number))]
    assert kept == [0, *range(3, KEPT + 5)]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([{"00": 10}, {"0": 10}], "basis state '0'"),
        ([{"00": 10}, {"02": 10}], "basis state '02'"),
        ([{"00": 10}, {"00": 9}], "9 shots where 10"),
        ([{"00": 10}], "1 circuits where 2"),
    ],
)
def test_a_damaged_result_is_corrupt(counts: list[dict[str, int]], message: str) -> None:
    remote = PennylaneRemote()
    circuit = build_ansatz("reupload", 2, 1)
    (request,) = remote.prepare(CircuitBatch(circuit, random_angles(circuit, 2, 0), 10))
    with pytest.raises(CorruptResultError, match=message):
        remote.read(request, {"counts": counts})


def test_pennylane_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pennylane", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qpeft\[pennylane\]'"):
        PennylaneRemote()
