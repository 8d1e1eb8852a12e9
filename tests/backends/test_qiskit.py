"""The Qiskit remote: angles find their gates, bits their qubits, jobs their results, and errors their words."""

import json
import sys
from typing import Any

import numpy as np
import pytest
from qiskit.primitives import BackendSamplerV2, StatevectorSampler
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import SamplerV2 as AerSampler
from qiskit_ibm_runtime import executor_sampler
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from qiskit_ibm_runtime.fake_provider.local_runtime_job import LocalRuntimeJob

from qpeft.backends.conformance_circuits import (
    basis_angles,
    basis_circuit,
    count_bounds,
    gate_circuit,
    noise_bound,
    random_angles,
    reference_distributions,
    sampling_bound,
)
from qpeft.backends.qiskit_remote import QiskitRemote
from qpeft.backends.remote import CircuitBatch, Distributions, JobRequest, JobState, Remote
from qpeft.circuits import Circuit, Gate, Input, Weight, build_ansatz
from qpeft.errors import (
    ConfigError,
    CorruptResultError,
    JobFailedError,
    MissingExtraError,
    RemoteError,
    UnknownJobError,
)

AER = QiskitRemote("aer", seed=1)


def run(remote: Remote, circuit: Circuit, angles: np.ndarray, shots: int | None) -> Distributions:
    parts = []
    for request in remote.prepare(CircuitBatch(circuit, angles, shots)):
        raw = remote.fetch(remote.submit(request, "tag"))
        parts.append(remote.read(request, json.loads(json.dumps(raw))))
    return np.concatenate(parts)


def many_angles_circuit() -> Circuit:
    """Return a circuit with 4 inputs and 13 weights, in no order, one of each not used."""
    inputs, weights = [3, 0, 2], [12, 1, 10, 2, 0, 11, 9, 3, 8, 4, 7, 5]
    gates = [Gate("RY", (qubit,), Input(column)) for qubit, column in enumerate(inputs)]
    for place, column in enumerate(weights):
        axis = ("RX", "RY", "RZ")[place % 3]
        gates.append(Gate(axis, (place % 3,), Weight(column)))
        if place % 4 == 3:
            gates.append(Gate("CNOT", (place % 3, (place + 1) % 3)))
    return Circuit(3, tuple(gates), "many angles")


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_more_than_ten_angles_reach_their_gates_at_every_optimization_level(level: int) -> None:
    circuit = many_angles_circuit()
    assert (circuit.n_inputs, circuit.n_weights) == (4, 13)
    angles = random_angles(circuit, 3, seed=level)
    found = run(QiskitRemote("aer", level), circuit, angles, None)
    np.testing.assert_allclose(found, reference_distributions(circuit, angles), atol=1e-12)


def test_angles_that_the_compiler_removes_do_not_move_the_others() -> None:
    """A turn about z in front of a measurement cannot change it; level 3 knows that."""
    gates = [Gate("RY", (qubit,), Input(qubit)) for qubit in range(3)]
    gates += [Gate("RZ", (0,), Weight(0)), Gate("RX", (1,), Weight(1)), Gate("RZ", (1,), Weight(2))]
    circuit = Circuit(3, (*gates, Gate("RX", (2,), Weight(3))), "turns about z at the end")
    remote = QiskitRemote("aer", optimization_level=3)
    template = remote._compile(circuit, 3, 0)
    assert template.columns == (0, 1, 2, 4, 6)
    angles = random_angles(circuit, 3, seed=0)
    found = run(remote, circuit, angles, None)
    np.testing.assert_allclose(found, reference_distributions(circuit, angles), atol=1e-12)


def test_controlled_rotations_are_swept_right_by_aer() -> None:
    """Aer itself sweeps CRZ wrongly, so none may reach it; two equal rows must agree with the reference."""
    circuit = gate_circuit("CRZ")
    angles = np.repeat(random_angles(circuit, 1, seed=1), 2, axis=0)
    assert "crz" not in AER._compile(circuit, 1, 1).circuit.count_ops()
    found = run(AER, circuit, angles, None)
    np.testing.assert_allclose(found, reference_distributions(circuit, angles), atol=1e-12)


@pytest.mark.parametrize("device", ["aer", "fake:FakeManilaV2"])
def test_qubit_0_is_the_leftmost_bit(device: str) -> None:
    states = np.array([0b100, 0b110, 0b001])
    counts = run(QiskitRemote(device, seed=1), basis_circuit(3), basis_angles(states, 3), 400)
    assert counts.argmax(axis=1).tolist() == [0b100, 0b110, 0b001]


def test_counts_of_nine_qubits_cross_a_byte() -> None:
    states = np.array([0b100000000, 0b000000001, 0b101100000])
    counts = run(AER, basis_circuit(9), basis_angles(states, 9), 50)
    assert (counts[range(3), states] == 50).all()


def test_a_batch_is_one_pub(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    original = AerSampler.run

    def spy(self: Any, pubs: Any, **options: Any) -> Any:
        sent.append([(pub[1], pub[2]) for pub in pubs])
        return original(self, pubs, **options)

    monkeypatch.setattr(AerSampler, "run", spy)
    circuit = build_ansatz("reupload", 4, 1)
    run(AER, circuit, random_angles(circuit, 81, seed=0), 100)
    ((values, shots),) = sent[0]
    assert len(sent) == 1
    assert shots == 100
    assert [array.shape for array in values.values()] == [(81, 20)]


@pytest.mark.parametrize("device", ["aer", "fake:FakeManilaV2"])
def test_a_circuit_without_angles_is_drawn_anew_for_each_row(device: str) -> None:
    circuit = Circuit(2, (Gate("H", (1,)),), "no angle")
    counts = run(QiskitRemote(device, seed=1), circuit, np.zeros((6, 0)), 500)
    assert (counts.sum(axis=1) == 500).all()
    assert len(np.unique(counts, axis=0)) > 1
    assert (np.abs(counts[:, :2] - 250) < 100).all()
    exact = run(AER, circuit, np.zeros((6, 0)), None)
    np.testing.assert_allclose(exact, np.tile([0.5, 0.5, 0, 0], (6, 1)), atol=1e-12)


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = QiskitRemote("aer")
    circuit = build_ansatz("reupload", 2, 1)
    for seed in range(3):
        run(remote, circuit, random_angles(circuit, 2, seed), 10)
    assert remote._compile.cache_info().misses == 1


def test_a_seeded_simulator_repeats_a_job_and_no_other() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    angles = random_angles(circuit, 2, seed=0)
    first = run(QiskitRemote("aer", seed=5), circuit, angles, 1000)
    assert (run(QiskitRemote("aer", seed=5), circuit, angles, 1000) == first).all()
    assert (run(QiskitRemote("aer", seed=6), circuit, angles, 1000) != first).any()
    # A job of its own although its distributions are almost the same: its shots are drawn apart.
    assert (run(QiskitRemote("aer", seed=5), circuit, angles + 1e-9, 1000) != first).any()


def test_a_fake_device_runs_in_the_runtimes_local_mode_with_its_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = []
    original = executor_sampler.Sampler.run

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        jobs.append(original(self, *args, **options))
        return jobs[-1]

    monkeypatch.setattr(executor_sampler.Sampler, "run", spy)
    remote = QiskitRemote("fake:FakeManilaV2", seed=2)
    assert remote.limits.max_qubits == 5
    circuit = gate_circuit("CRZ", 2)
    angles = random_angles(circuit, 3, seed=2)
    counts = run(remote, circuit, angles, 4000)
    assert [type(job) for job in jobs] == [LocalRuntimeJob]
    wanted = reference_distributions(circuit, angles)
    distances = np.abs(counts / 4000 - wanted).sum(axis=1) / 2
    assert distances.max() < noise_bound(circuit) + sampling_bound(4, 3, 4000)
    assert (np.abs(counts - 4000 * wanted) > count_bounds(wanted, 4000)).any()  # it is noisy


@pytest.mark.parametrize(
    "remote",
    [
        QiskitRemote(AerSimulator(), seed=1),
        QiskitRemote(StatevectorSampler(seed=1)),
        QiskitRemote(AerSampler(seed=1), compile_for=AerSimulator()),
        QiskitRemote(BackendSamplerV2(backend=AerSimulator())),
    ],
    ids=["AerSimulator", "StatevectorSampler", "AerSampler", "BackendSamplerV2"],
)
def test_a_callers_backend_or_sampler_gives_the_counts_of_the_reference(
    remote: QiskitRemote,
) -> None:
    circuit = gate_circuit("CRZ")
    angles = random_angles(circuit, 3, seed=3)
    wanted = reference_distributions(circuit, angles)
    counts = run(remote, circuit, angles, 1000)
    assert (np.abs(counts - 1000 * wanted) <= count_bounds(wanted, 1000)).all()
    assert not remote.limits.is_repeatable


def test_a_callers_fake_device_has_its_noise() -> None:
    remote = QiskitRemote(FakeManilaV2(), seed=1)
    circuit = gate_circuit("CRZ", 2)
    angles = random_angles(circuit, 3, seed=3)
    wanted = reference_distributions(circuit, angles)
    distances = np.abs(run(remote, circuit, angles, 2000) / 2000 - wanted).sum(axis=1) / 2
    assert (distances < noise_bound(circuit) + sampling_bound(4, 3, 2000)).all()


def test_what_an_object_is_only_its_owner_can_say() -> None:
    assert QiskitRemote(AerSimulator(), is_repeatable=True).limits.is_repeatable
    assert QiskitRemote(FakeManilaV2()).limits.max_qubits == 5
    with pytest.raises(ConfigError, match="a seed of its own"):
        QiskitRemote(StatevectorSampler(), seed=1)
    with pytest.raises(ConfigError, match="got int"):
        QiskitRemote(3)


def test_a_job_holds_at_most_ten_million_executions() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    batch = CircuitBatch(circuit, random_angles(circuit, 5, seed=0), 4_000_000)
    requests = AER.prepare(batch)
    assert [request.n_circuits for request in requests] == [2, 2, 1]
    with pytest.raises(ConfigError, match="at most 10,000,000 shots; got 10,000,001"):
        AER.prepare(CircuitBatch(circuit, batch.angles, 10_000_001))


def test_a_job_of_large_circuits_holds_few_of_them() -> None:
    circuit = basis_circuit(16)
    requests = AER.prepare(CircuitBatch(circuit, np.zeros((130, 16)), None))
    assert [request.n_circuits for request in requests] == [64, 64, 2]
    joined = np.concatenate([_angles(request) for request in requests])
    assert joined.shape == (130, 16)


def _angles(request: JobRequest) -> np.ndarray:
    from qpeft.backends.remote import decode_array

    return decode_array(request.payload["angles"])


def test_a_request_keeps_its_own_seed_and_level_in_a_remote_with_others() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    batch = CircuitBatch(circuit, random_angles(circuit, 2, seed=0), 500)
    (request,) = QiskitRemote("aer", seed=5).prepare(batch)
    one, two = QiskitRemote("aer", seed=5), QiskitRemote("aer", 3, seed=9)
    assert one.fetch(one.submit(request, "")) == two.fetch(two.submit(request, ""))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "aer:statevektor"}, "Did you mean 'statevector'"),
        ({"device": "fake:FakeManilla"}, "Did you mean 'FakeManilaV2'"),
        ({"device": "fake:FakeProviderForBackendV2"}, "Unknown fake device"),
        ({"device": "ibm:torino"}, "Unknown Qiskit device 'ibm:torino'"),
        ({"device": ""}, "Unknown Qiskit device ''"),
        ({"optimization_level": 4}, "0, 1, 2 or 3; got 4"),
    ],
)
def test_a_wrong_option_is_refused_with_what_would_work(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        QiskitRemote(**options)


def test_what_does_not_fit_is_refused_before_anything_runs() -> None:
    small = QiskitRemote("fake:FakeManilaV2")
    circuit = build_ansatz("reupload", 6, 1)
    with pytest.raises(ConfigError, match="at most 5 qubits; circuit 'reupload' has 6"):
        small.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), 100))
    circuit = build_ansatz("reupload", 2, 1)
    with pytest.raises(ConfigError, match="no exact results"):
        small.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), None))


def test_a_job_of_another_device_is_not_run() -> None:
    circuit = build_ansatz("reupload", 2, 1)
    batch = CircuitBatch(circuit, random_angles(circuit, 1, 0), 100)
    (request,) = QiskitRemote("aer:density_matrix").prepare(batch)
    with pytest.raises(RemoteError, match="'aer:density_matrix' was given to 'aer'"):
        AER.submit(request, "tag")


def test_a_job_of_another_process_is_unknown_here() -> None:
    for ask in (AER.status, AER.fetch, AER.cancel):
        with pytest.raises(UnknownJobError, match="has no job 'elsewhere'"):
            ask("elsewhere")
    with pytest.raises(RemoteError, match="keeps no tags"):
        AER.find("tag")


def test_a_circuit_that_cannot_be_compiled_is_a_remote_error() -> None:
    device = QiskitRemote(GenericBackendV2(2, basis_gates=["h"], seed=1), seed=1)
    circuit = build_ansatz("reupload", 2, 1)
    (request,) = device.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), 100))
    with pytest.raises(RemoteError, match="'reupload' cannot be compiled for qiskit:"):
        device.submit(request, "tag")


def test_a_job_that_breaks_is_failed_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    from qiskit.exceptions import QiskitError

    class Breaks(StatevectorSampler):
        def _run(self, pubs: Any) -> Any:
            raise QiskitError("the fridge is warm")

    remote = QiskitRemote(Breaks())
    circuit = build_ansatz("reupload", 2, 1)
    (request,) = remote.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), 100))
    job_id = remote.submit(request, "tag")
    with pytest.raises(JobFailedError, match=f"{job_id} .* failed: the fridge is warm"):
        remote.fetch(job_id)
    assert remote.status(job_id).state is JobState.FAILED


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"counts": [{"0x0": 100}]}, "1 circuits where 2"),
        ({"counts": [{"0x0": 100}, {"0x1": 99}]}, "99 shots where 100"),
        ({"counts": [{"0x0": 100}, {"0x4": 100}]}, "'0x4' of 2 qubits"),
        ({"counts": [{"0x0": 100}, {"-0x1": 100}]}, "'-0x1' of 2 qubits"),
        ({"counts": [{"0x0": 100}, {"zero": 100}]}, "basis state 'zero'"),
        ({"counts": [{"0x0": 100}, {"0x0": 101, "0x1": -1}]}, "count -1"),
        ({"counts": [{"0x0": 100}, {"0x0": 99.5, "0x1": 0.5}]}, "count 99.5"),
        ({"counts": [{"0x0": 100}, {"0x0": 99, "0x1": True}]}, "count True"),
        ({"counts": [{"0x0": 100}, {"0x0": float("nan")}]}, "count nan"),
        ({"counts": [{"0x0": 100}, 100]}, "no counts"),
        ({"counts": None}, "NoneType where 2"),
        ({"probabilities": []}, "has no counts"),
        (None, "has no counts"),
    ],
)
def test_a_damaged_result_is_corrupt(raw: Any, message: str) -> None:
    circuit = build_ansatz("reupload", 2, 1)
    (request,) = AER.prepare(CircuitBatch(circuit, random_angles(circuit, 2, 0), 100))
    with pytest.raises(CorruptResultError, match=message):
        AER.read(request, raw)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.5, 0.5, 0.5, 0.5]], "sum to 1"),
        ([[1.1, -0.1, 0.0, 0.0]], "negative"),
        ([[np.nan, 1.0, 0.0, 0.0]], "negative"),
        ([[1.0, 0.0]], r"shape \(1, 2\)"),
    ],
)
def test_damaged_probabilities_are_corrupt(rows: list[list[float]], message: str) -> None:
    from qpeft.backends.remote import encode_array

    circuit = build_ansatz("reupload", 2, 1)
    (request,) = AER.prepare(CircuitBatch(circuit, random_angles(circuit, 1, 0), None))
    with pytest.raises(CorruptResultError, match=message):
        AER.read(request, {"probabilities": encode_array(np.array(rows))})
    with pytest.raises(CorruptResultError, match="no probabilities"):
        AER.read(request, {"probabilities": {"shape": [1, 4]}})


@pytest.mark.parametrize(
    ("module", "device"),
    [
        ("qiskit.primitives", "aer"),
        ("qiskit_aer", "aer"),
        ("qiskit_ibm_runtime.fake_provider", "fake:FakeManilaV2"),
        ("qiskit_ibm_runtime.executor_sampler", "ibm_torino"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    module: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qpeft\[qiskit\]'"):
        QiskitRemote(device)
