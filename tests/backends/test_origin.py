"""Origin's remote: its programs, its words, its errors, and whole jobs against the service of another process."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from qpeft.backends.chip_jobs import programs_of
from qpeft.backends.conformance import check_conformance
from qpeft.backends.origin import OriginRemote, build_qprog
from qpeft.backends.origin_chip import grid_shape
from qpeft.backends.origin_client import KEY_VARIABLES
from qpeft.backends.reference_sim import ReferenceBackend
from qpeft.backends.remote import CircuitBatch, JobRequest, JobState
from qpeft.chips.calibration import load_calibration
from qpeft.circuits import ZProduct, build_ansatz
from qpeft.errors import (
    ConfigError,
    ConnectionLostError,
    CorruptResultError,
    JobFailedError,
    NotSentError,
    RemoteError,
)
from service.running import KEYS, answering, running_service, start_service, wait_until

core = pytest.importorskip("pyqpanda3.core")
pytest.importorskip("uvicorn")

CIRCUIT = build_ansatz("reupload", 4, 1)
SECRET = "a-key-that-nobody-may-see"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORIGIN_API_KEY", KEYS["ada"])


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("cloud"), has_drift=False) as running:
        yield running


def make_batch(n_circuits=5, shots=1000, seed=0):
    generator = np.random.default_rng(seed)
    angles = generator.uniform(-3, 3, (n_circuits, CIRCUIT.n_inputs + CIRCUIT.n_weights))
    return CircuitBatch(CIRCUIT, angles, shots)


def offline(**options):
    return OriginRemote(calibration="wukong", **options)


def run(remote, batch):
    rows = []
    for request in remote.prepare(batch):
        job_id = remote.submit(request, "a-tag")
        wait_until(lambda job_id=job_id: remote.status(job_id).state.is_final)
        rows.append(remote.read(request, json.loads(json.dumps(remote.fetch(job_id)))))
    return np.concatenate(rows)


def exact_z(batch):
    """<Z> of each qubit, from the simulator of Kronecker products: (n_circuits, 4)."""
    import torch

    angles = torch.from_numpy(batch.angles)
    observables = [ZProduct((qubit,)) for qubit in range(4)]
    rows = []
    for row in angles:
        bound = ReferenceBackend().bind(CIRCUIT, observables, row[CIRCUIT.n_inputs :])
        rows.append(bound(row[None, : CIRCUIT.n_inputs])[0])
    return torch.stack(rows).numpy()


def z_of(distributions):
    """<Z> of each of four qubits; qubit 0 is the leftmost bit."""
    bits = (np.arange(16)[:, None] >> np.arange(3, -1, -1)) & 1
    return (distributions / distributions.sum(axis=1, keepdims=True)) @ (1 - 2 * bits)


def test_built_programs_give_the_numbers_of_the_reference_on_origins_simulator():
    batch = make_batch(n_circuits=3, seed=4)
    request = offline(is_packed=False).prepare(batch)[0]
    for program, expected in zip(programs_of(request.payload), exact_z(batch), strict=True):
        machine = core.CPUQVM()
        built = build_qprog(program)
        machine.run(_without_gaps(built, program), 1)
        probabilities = machine.result().get_prob_dict(list(range(4)))
        found = [0.0] * 4
        for bits, probability in probabilities.items():
            for qubit in range(4):  # the rightmost character is classical bit 0, which is qubit 0
                found[qubit] += probability * (1 - 2 * int(bits[-1 - qubit]))
        assert found == pytest.approx(expected, abs=1e-7)  # angles travel with 8 decimals


def _without_gaps(built, program):
    """The same gates on qubits 0 to 3, which is all that a simulator of 72 qubits could hold."""
    place = {qubit: index for index, qubit in enumerate(program.measured)}
    moved = core.QProg()
    for line in built.originir().splitlines():
        name, _, rest = line.partition(" ")
        qubits = [place[int(part.split("]")[0])] for part in rest.split("q[")[1:]]
        if name == "U3":
            angles = [float(text) for text in rest.split("(")[1].rstrip(")").split(",")]
            moved << core.U3(qubits[0], *angles)
        elif name == "CZ":
            moved << core.CZ(*qubits)
    return moved


def test_measured_qubits_are_classical_bits_in_order():
    program = programs_of(offline().prepare(make_batch())[0].payload)[0]
    lines = [x for x in build_qprog(program).originir().splitlines() if x.startswith("MEASURE")]
    assert lines == [f"MEASURE q[{q}],c[{bit}]" for bit, q in enumerate(program.measured)]


def test_jobs_come_back_near_the_truth_and_amended_ones_nearer(service):
    batch = make_batch(n_circuits=40, shots=4000)
    exact = exact_z(batch)
    slopes = {}
    for is_amended in (False, True):
        found = run(OriginRemote(url=service.url, is_amended=is_amended), batch)
        assert found.shape == (40, 16)
        assert found.sum(axis=1) == pytest.approx(4000)
        assert np.corrcoef(z_of(found).ravel(), exact.ravel())[0, 1] > 0.95
        slopes[is_amended] = (z_of(found) * exact).sum() / (exact**2).sum()
    # Read-out of fidelity f shrinks every <Z> by 2 f - 1, here 0.84 to 0.88; amendment takes that away.
    assert slopes[False] / slopes[True] == pytest.approx(0.86, abs=0.04)


def test_the_calibration_is_read_back_from_chip_information(service):
    found = OriginRemote(url=service.url).calibration()
    true = load_calibration("wukong")
    assert (found.shape, found.n_qubits) == (true.shape, 72)
    assert dict(found.couplers) == pytest.approx(dict(true.couplers))
    for number, quality in true.qubits.items():
        assert found.qubits[number].t1_us == pytest.approx(quality.t1_us)
        mean = (quality.readout_0 + quality.readout_1) / 2
        assert found.qubits[number].readout_0 == pytest.approx(mean)


def test_another_process_collects_a_job(service):
    remote = OriginRemote(url=service.url)
    request = remote.prepare(make_batch())[0]
    job_id = remote.submit(request, "a-tag")
    script = (
        "import json, sys, time\n"
        "from qpeft.backends.origin import OriginRemote\n"
        "remote = OriginRemote(url=sys.argv[1])\n"
        "while not remote.status(sys.argv[2]).state.is_final: time.sleep(0.05)\n"
        "print(json.dumps(remote.fetch(sys.argv[2])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, service.url, job_id],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "ORIGIN_API_KEY": KEYS["ada"]},
    )
    raw = json.loads(done.stdout)
    assert raw["programs"] == remote.fetch(job_id)["programs"]
    assert remote.read(request, raw).sum(axis=1) == pytest.approx(1000)


@pytest.mark.slow
def test_a_restart_of_the_service_in_the_middle_loses_nothing(tmp_path):
    first = start_service(tmp_path, has_drift=False, queue_delay=1.5)
    remote = OriginRemote(url=first.url)
    request = remote.prepare(make_batch())[0]
    job_id = remote.submit(request, "a-tag")
    assert remote.status(job_id).state is JobState.QUEUED
    first.stop()
    with pytest.raises(ConnectionLostError, match="No answer"):
        remote.status(job_id)
    with running_service(tmp_path, has_drift=False, port=first.port):
        wait_until(lambda: remote.status(job_id).state is JobState.FINISHED)
        assert remote.read(request, remote.fetch(job_id)).shape == (5, 16)
    first.process.stdout.close()


def test_a_cancelled_job_has_failed_in_the_providers_words(tmp_path):
    with running_service(tmp_path, queue_delay=3600) as slow:
        remote = offline(url=slow.url)
        job_id = remote.submit(remote.prepare(make_batch())[0], "a-tag")
        with pytest.raises(RemoteError, match="no result yet"):
            remote.fetch(job_id)
        remote.cancel(job_id)
        assert remote.status(job_id).state is JobState.FAILED
        assert "cancelled" in remote.status(job_id).message
        with pytest.raises(JobFailedError, match="cancelled"):
            remote.fetch(job_id)
        with pytest.raises(RemoteError, match="at its end"):
            remote.cancel(job_id)


def test_a_job_of_somebody_else_is_refused_and_not_called_failed(service, monkeypatch):
    remote = offline(url=service.url)
    job_id = remote.submit(remote.prepare(make_batch())[0], "a-tag")
    monkeypatch.setenv("ORIGIN_API_KEY", KEYS["bob"])
    with pytest.raises(RemoteError, match="no task"):
        remote.status(job_id)


@pytest.mark.slow
def test_two_remotes_of_two_services_do_not_mix_up_their_jobs(service, tmp_path):
    with running_service(tmp_path, has_drift=False) as other:
        remotes = [offline(url=service.url), offline(url=other.url)]
        ids = [remote.submit(remote.prepare(make_batch())[0], "a-tag") for remote in remotes]
        for remote, job_id in zip(remotes, ids, strict=True):
            wait_until(lambda r=remote, j=job_id: r.status(j).state is JobState.FINISHED)
        with pytest.raises(RemoteError, match="no task"):
            remotes[0].status(ids[1])


def test_nothing_known_to_be_wrong_is_sent(service):
    remote = offline(url=service.url)
    request = remote.prepare(make_batch())[0]
    for shots in (None, 0, 10_001):
        bad = JobRequest(request.payload, request.n_circuits, request.n_programs, shots)
        with pytest.raises(ConfigError, match="1 to 10000 shots"):
            remote.submit(bad, "a-tag")
    with pytest.raises(ConfigError, match="1 to 200 programs"):
        remote.submit(JobRequest(request.payload, 5, 201, 10), "a-tag")
    with pytest.raises(ConfigError, match="prepared for chip 'WK_C180'"):
        remote.submit(offline(chip="WK_C180").prepare(make_batch())[0], "a-tag")
    lost = offline(url=service.url, chip="origin_wokung")
    with pytest.raises(RemoteError, match="Did you mean 'origin_wukong'"):
        lost.submit(lost.prepare(make_batch())[0], "a-tag")
    with pytest.raises(ConfigError, match="10000 shots"):
        remote.prepare(make_batch(shots=10_001))


def test_without_a_key_one_line_says_what_to_do(monkeypatch):
    monkeypatch.delenv("ORIGIN_API_KEY")
    remote = offline()
    request = remote.prepare(make_batch())[0]
    with pytest.raises(RemoteError, match="QPEFT_ORIGIN_API_KEY") as caught:
        remote.submit(request, "a-tag")
    assert not isinstance(caught.value, NotSentError)
    assert "\n" not in str(caught.value)


def test_our_own_variable_comes_first(service, monkeypatch):
    monkeypatch.setenv("ORIGIN_API_KEY", SECRET)
    monkeypatch.setenv("QPEFT_ORIGIN_API_KEY", KEYS["bob"])
    assert OriginRemote(url=service.url).calibration().n_qubits == 72


def test_a_wrong_key_is_refused_without_being_shown(service, monkeypatch):
    monkeypatch.setenv("ORIGIN_API_KEY", SECRET)
    remote = offline(url=service.url)
    request = remote.prepare(make_batch())[0]
    remote._is_checked = True  # the client asks three times, but submits once
    for call in (lambda: remote.submit(request, "a-tag"), lambda: remote.status("an-id")):
        with pytest.raises(RemoteError, match="does not accept the API key") as caught:
            call()
        assert SECRET not in f"{caught.value!r} {caught.value.__context__!s}"
    assert SECRET not in f"{remote!r} {request.text} {vars(remote)!r}"


def test_a_key_that_would_forge_a_header_is_refused(monkeypatch):
    monkeypatch.setenv("ORIGIN_API_KEY", "good\nX-Other: 1")
    with pytest.raises(RemoteError, match="ORIGIN_API_KEY holds"):
        offline(url="http://127.0.0.1:9").status("an-id")


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://host", "http://me:secret@host", ""])
def test_a_url_that_cannot_work_or_has_a_password_is_refused(url):
    with pytest.raises(ConfigError, match="url must look like"):
        OriginRemote(url=url)


def test_without_a_network_nothing_is_sent_and_one_line_says_so():
    remote = offline(url=f"http://127.0.0.1:{_closed_port()}")
    remote._is_checked = True  # the submission itself, not the question before it
    request = remote.prepare(make_batch())[0]
    with pytest.raises(NotSentError, match="No answer from the service") as caught:
        remote.submit(request, "a-tag")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConnectionLostError, match="No answer"):
        remote.status("an-id")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, ConnectionLostError),  # the connection is reset once the request has come
        ("HTTP/1.1 500 Oops", ConnectionLostError),
        ("HTTP/1.1 429 Slow down", NotSentError),
        ("HTTP/1.1 400 No", RemoteError),
        ("HTTP/1.1 200 OK\r\n\r\n<html>a proxy speaks</html>", ConnectionLostError),
        ('HTTP/1.1 200 OK\r\n\r\n{"success": true, "obj": {}}', ConnectionLostError),
        ('HTTP/1.1 200 OK\r\n\r\n{"success": false, "message": "No credit"}', RemoteError),
    ],
)
def test_a_submission_that_may_have_arrived_is_told_from_one_that_has_not(
    answer, expected, tmp_path
):
    request = offline().prepare(make_batch())[0]
    with answering(answer, tmp_path / "seen") as url:
        remote = offline(url=url)
        remote._is_checked = True
        with pytest.raises(RemoteError) as caught:
            remote.submit(request, "a-tag")
    assert caught.type is expected, caught.value
    assert "\n" not in str(caught.value)
    seen = (tmp_path / "seen").read_text("utf-8").splitlines()
    assert seen == ["POST /oqcs/task/origin/submit.json HTTP/1.1"]  # never repeated by itself


def test_unknown_states_keep_a_paid_job_open():
    from qpeft.backends.origin import _status_of

    states = {"1": "queued", "5": "queued", "2": "running", "3": "finished", "4": "failed"}
    states |= {"6": "running", "7": "failed", "8": "failed", "9": "running", "77": "running"}
    for code, state in states.items():
        assert _status_of({"taskState": code}).state == state
    assert _status_of({"taskStatus": "3"}).state is JobState.FINISHED
    assert "bad chip" in _status_of({"taskState": "4", "errInfo": "bad\nchip"}).message


def test_rounded_probabilities_are_normalised_and_lost_ones_noticed():
    remote = offline(is_packed=False)
    request = remote.prepare(make_batch(n_circuits=1))[0]
    text = '{"key": ["0x0", "0x1"], "value": [%s, 0.7]}'
    good = {"programs": None, "field": "probCount", "provider": {"taskResult": [text % "0.3002"]}}
    assert remote.read(request, good).sum() == pytest.approx(1000)
    bad = {"programs": None, "field": "probCount", "provider": {"taskResult": [text % "0.299"]}}
    with pytest.raises(CorruptResultError, match="sum"):
        remote.read(request, bad)


def test_chips_of_other_shapes_are_recognised():
    assert grid_shape(72, load_calibration("wukong").couplers) == (6, 12)
    rows = [(q, q + 1) for q in range(180) if q % 9 != 8] + [(q, q + 9) for q in range(171)]
    assert grid_shape(180, rows) == (20, 9)
    with pytest.raises(ConfigError, match="no grid"):
        grid_shape(6, [(0, 1), (0, 2), (0, 3)])


@pytest.mark.slow
def test_it_conforms_against_the_service(service):
    def fresh():
        return OriginRemote(url=service.url, is_amended=False, calibration="wukong")

    report = check_conformance(fresh(), is_noisy=True, fresh=fresh, max_circuits=60)
    failed = {check.name for check in report.checks if check.outcome == "failed"}
    # Angles travel with 8 decimals, and the kit may turn one by less.
    assert failed <= {"tells different batches apart"}, str(report)


def _closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
