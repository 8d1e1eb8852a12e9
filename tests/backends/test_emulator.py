"""The emulator behaves as a cloud does and gives the shots that the noisy simulator predicts."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from qpeft.backends.chip_jobs import programs_of
from qpeft.backends.emulator import EmulatorRemote
from qpeft.backends.noisy_sim import NoisyBackend
from qpeft.backends.remote import CircuitBatch, Distributions, JobRequest, JobState, Remote
from qpeft.chips.calibration import load_calibration
from qpeft.chips.simulation import outcome_probabilities
from qpeft.circuits import ZProduct, build_ansatz, z_on_each
from qpeft.errors import ConfigError, RemoteError

CIRCUIT = build_ansatz("reupload", 4, 1)
N_ANGLES = CIRCUIT.n_inputs + CIRCUIT.n_weights
WUKONG = load_calibration("wukong")


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self, now: float = 1_750_000_000.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


def batch_of(n_circuits: int, shots: int = 1000, seed: int = 0) -> CircuitBatch:
    angles = np.random.default_rng(seed).normal(scale=2.0, size=(n_circuits, N_ANGLES))
    return CircuitBatch(CIRCUIT, angles, shots)


def run(remote: Remote, batch: CircuitBatch) -> Distributions:
    parts = []
    for number, request in enumerate(remote.prepare(batch)):
        job_id = remote.submit(request, f"tag {number}")
        parts.append(remote.read(request, remote.fetch(job_id)))
    return np.concatenate(parts)


def z_means(distributions: Distributions) -> np.ndarray:
    signs = np.array([[o.sign(b, 4) for o in z_on_each(4)] for b in range(16)])
    return distributions @ signs / distributions.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("has_idle_noise", [True, False])
def test_exact_outcomes_of_its_programs_are_what_the_noisy_backend_says(
    n_layers: int, has_idle_noise: bool
) -> None:
    """Two independent ways through the same noise: packed programs forwards, observables backwards."""
    circuit = build_ansatz("reupload", 4, n_layers)
    n_angles = circuit.n_inputs + circuit.n_weights
    angles = np.random.default_rng(1).normal(size=(5, n_angles))
    remote = EmulatorRemote(has_idle_noise=has_idle_noise)
    (request,) = remote.prepare(CircuitBatch(circuit, angles, 1000))
    (program,) = programs_of(request.payload)
    ((*blocks,),) = outcome_probabilities([program], WUKONG, has_idle_noise=has_idle_noise)
    assert len(blocks) == 5
    for row, block in zip(torch.from_numpy(angles), blocks, strict=True):
        backend = NoisyBackend(WUKONG, block.qubits, has_idle_noise=has_idle_noise)
        bound = backend.bind(circuit, z_on_each(4), row[circuit.n_inputs :])
        expected = bound(row[None, : circuit.n_inputs])[0]
        found = torch.from_numpy(z_means(block.probabilities[None])[0])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)  # angles have 8 decimals


def test_shots_are_within_binomial_bounds_of_the_noisy_backend() -> None:
    batch = batch_of(20, shots=4000)
    counts = run(EmulatorRemote(is_packed=False, seed=5), batch)
    assert (counts.sum(axis=1) == 4000).all()
    noisy, rows = NoisyBackend(WUKONG), torch.from_numpy(batch.angles)
    expected = np.concatenate(
        [noisy.bind(CIRCUIT, z_on_each(4), row[4:])(row[None, :4]).numpy() for row in rows]
    )
    scores = (z_means(counts) - expected) / np.sqrt((1 - expected**2) / 4000)
    assert np.abs(scores).max() < 4.5
    assert 0.7 < scores.std() < 1.3  # and they are shots: as far away as a binomial is


def test_packed_and_unpacked_circuits_agree_within_noise_of_places_and_shots() -> None:
    batch = batch_of(28, shots=4000)
    packed, alone = EmulatorRemote(scale=0.0), EmulatorRemote(scale=0.0, is_packed=False, seed=1)
    assert [r.n_programs for r in packed.prepare(batch)] == [2]
    assert [r.n_programs for r in alone.prepare(batch)] == [28]
    difference = z_means(run(packed, batch)) - z_means(run(alone, batch))
    assert np.abs(difference).max() < 4.5 * math.sqrt(2 / 4000)
    assert np.abs(difference).max() > 0


def test_a_job_is_queued_then_runs_then_is_finished() -> None:
    clock = Clock()
    remote = EmulatorRemote(queue_seconds=10.0, clock=clock)
    (request,) = remote.prepare(batch_of(2))
    job_id = remote.submit(request, "a")
    states = []
    for elapsed in (0.0, 4.9, 5.0, 9.9, 10.0, 1000.0):
        clock.now = 1_750_000_000.0 + elapsed
        states.append(remote.status(job_id).state)
    queued, running, finished = JobState.QUEUED, JobState.RUNNING, JobState.FINISHED
    assert states == [queued, queued, running, running, finished, finished]


def test_a_result_is_not_there_before_its_job_is_finished() -> None:
    clock = Clock()
    remote = EmulatorRemote(queue_seconds=10.0, clock=clock)
    (request,) = remote.prepare(batch_of(2))
    job_id = remote.submit(request, "a")
    with pytest.raises(RemoteError, match=r"is queued"):
        remote.fetch(job_id)
    clock.now += 10
    assert remote.read(request, remote.fetch(job_id)).shape == (2, 16)


def test_a_cancelled_job_stays_cancelled_and_has_no_result() -> None:
    clock = Clock()
    remote = EmulatorRemote(queue_seconds=10.0, clock=clock)
    (request,) = remote.prepare(batch_of(2))
    first, second = remote.submit(request, "a"), remote.submit(request, "b")
    remote.cancel(first)
    clock.now += 10
    remote.cancel(second)  # too late
    assert remote.status(first).state is JobState.CANCELLED
    assert remote.status(second).state is JobState.FINISHED
    with pytest.raises(RemoteError, match=r"is cancelled"):
        remote.fetch(first)


def test_unknown_jobs_and_tags_are_told_apart_from_known_ones() -> None:
    remote = EmulatorRemote()
    (request,) = remote.prepare(batch_of(2))
    job_id = remote.submit(request, "a")
    assert remote.find("a") == job_id
    assert remote.find("b") is None
    for call in (remote.status, remote.fetch, remote.cancel):
        with pytest.raises(RemoteError, match=r"no job 'nobody'"):
            call("nobody")


def test_fetched_jobs_are_dropped_when_they_take_too_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qpeft.backends.emulator._KEPT_CHARACTERS", 10)
    remote = EmulatorRemote()
    (request,) = remote.prepare(batch_of(2))
    first, second, open_job = (remote.submit(request, tag) for tag in "abc")
    remote.fetch(first)
    remote.fetch(second)
    assert [remote.find(tag) for tag in "abc"] == [None, second, open_job]


def test_the_same_request_gives_the_same_result_in_another_process() -> None:
    """That is what lets a killed run resume: its jobs are submitted again and nothing changes."""
    (request,) = EmulatorRemote().prepare(batch_of(3))
    stored = JobRequest(json.loads(request.text), request.n_circuits, 1, request.shots)
    first, second, other_seed = EmulatorRemote(), EmulatorRemote(), EmulatorRemote(seed=1)
    raw = first.fetch(first.submit(request, "a"))
    assert second.fetch(second.submit(stored, "b")) == raw
    (same_angles,) = other_seed.prepare(batch_of(3))
    assert other_seed.fetch(other_seed.submit(same_angles, "a")) != raw


def test_a_result_is_plain_json() -> None:
    remote = EmulatorRemote()
    (request,) = remote.prepare(batch_of(3))
    raw = remote.fetch(remote.submit(request, "a"))
    assert json.loads(json.dumps(raw)) == raw
    (counts,) = raw["programs"]
    assert sum(counts.values()) == 1000
    assert all(key.startswith("0x") for key in counts)


def test_a_large_batch_is_cut_into_jobs_of_200_programs() -> None:
    remote = EmulatorRemote(is_packed=False)
    requests = remote.prepare(batch_of(401))
    assert [request.n_programs for request in requests] == [200, 200, 1]
    assert sum(request.n_circuits for request in requests) == 401


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_programs": 201}, r"at most 200 programs.*201"),
        ({"shots": None}, r"shots.*None"),
        ({"shots": 0}, r"shots.*0"),
        ({"shots": 100_001}, r"1 to 100000 shots.*100001"),
        ({"payload": {"settings": {"seed": 9}}}, r"prepared for an emulator with options"),
    ],
)
def test_a_job_outside_its_limits_is_refused(change: dict[str, object], message: str) -> None:
    remote = EmulatorRemote()
    (request,) = remote.prepare(batch_of(2))
    with pytest.raises(RemoteError, match=message):
        remote.submit(dataclasses.replace(request, **change), "a")  # type: ignore[arg-type]
    assert remote.find("a") is None


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda: batch_of(2, shots=100_001), r"at most 100000 shots"),
        (lambda: CircuitBatch(CIRCUIT, np.zeros((1, N_ANGLES)), None), r"no exact results"),
        (
            lambda: CircuitBatch(build_ansatz("reupload", 9, 1), np.zeros((1, 9 + 36)), 100),
            r"at most 8",
        ),
    ],
)
def test_a_batch_that_it_cannot_simulate_is_refused_before_it_is_sent(
    batch: Callable[[], CircuitBatch], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        EmulatorRemote().prepare(batch())


def test_a_circuit_that_swaps_make_too_large_is_refused_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qpeft.backends.emulator.MAX_BLOCK_QUBITS", 7)
    ring = CircuitBatch(build_ansatz("reupload", 7, 1), np.zeros((1, 7 + 28)), 100)
    with pytest.raises(ConfigError, match=r"takes 8 qubits of the chip with its SWAPs"):
        EmulatorRemote().prepare(ring)


def test_amendment_undoes_the_read_out_error() -> None:
    """Shots of a chip with read-out errors, amended, have the mean of a chip without them."""
    quiet = {
        n: dataclasses.replace(q, readout_0=1.0, readout_1=1.0) for n, q in WUKONG.qubits.items()
    }
    place = NoisyBackend(WUKONG).site_of(CIRCUIT).place
    perfect = NoisyBackend(dataclasses.replace(WUKONG, qubits=quiet), place)
    batch = batch_of(8, shots=50_000)
    rows = torch.from_numpy(batch.angles)
    wanted = np.concatenate(
        [perfect.bind(CIRCUIT, z_on_each(4), row[4:])(row[None, :4]).numpy() for row in rows]
    )
    amended = run(EmulatorRemote(is_packed=False, is_amended=True), batch)
    assert amended.sum(axis=1) == pytest.approx(50_000)
    assert (amended >= 0).all()
    errors = [
        np.abs(z_means(counts) - wanted).max()
        for counts in (amended, run(EmulatorRemote(is_packed=False), batch))
    ]
    # An inverse confusion matrix makes the shots' error about 1 / (r0 + r1 - 1) = 1.16 times as large.
    assert errors[0] < 4.5 * 1.3 / math.sqrt(50_000) < errors[1]


def test_the_calibration_drifts_by_the_hour_from_a_start() -> None:
    clock = Clock(1_750_000_000.0)
    start = "2025-06-15T15:06:40+00:00"  # the same moment
    remote = EmulatorRemote(drift_start=start, seed=4, clock=clock)
    assert remote.calibration() == WUKONG
    clock.now += 3599
    assert remote.calibration() == WUKONG
    clock.now += 1
    assert remote.calibration() == WUKONG.drifted(1, seed=4)
    clock.now += 10 * 3600
    assert remote.calibration() == WUKONG.drifted(11, seed=4)
    assert EmulatorRemote(drift_hours=2.5, seed=4).calibration() == WUKONG.drifted(2.5, seed=4)
    assert EmulatorRemote(seed=4).calibration() == WUKONG


def test_a_job_runs_on_the_calibration_that_it_was_prepared_for() -> None:
    """So a job that is submitted again hours later still has the result that it would have had."""
    clock = Clock()
    start = "2025-06-15T15:06:40"
    remote = EmulatorRemote(drift_start=start, drift_hours=0.7, clock=clock)
    (request,) = remote.prepare(batch_of(3))
    raw = remote.fetch(remote.submit(request, "a"))
    clock.now += 5 * 3600
    assert remote.fetch(remote.submit(request, "b")) == raw
    (later,) = remote.prepare(batch_of(3))
    assert later.key != request.key
    assert remote.fetch(remote.submit(later, "c")) != raw


def test_requests_for_other_noise_have_other_keys() -> None:
    keys = {
        remote.prepare(batch_of(2))[0].key
        for remote in (
            EmulatorRemote(),
            EmulatorRemote(seed=1),
            EmulatorRemote(scale=0.5),
            EmulatorRemote(is_amended=True),
            EmulatorRemote(has_idle_noise=False),
            EmulatorRemote(dataclasses.replace(WUKONG, cz_ns=50.0)),
        )
    }
    assert len(keys) == 6


def test_a_calibration_file_can_be_the_chip(tmp_path: Path) -> None:
    chip = dataclasses.replace(WUKONG, chip="mine", gate_ns=20.0)
    chip.save(tmp_path / "mine.json")
    assert EmulatorRemote(str(tmp_path / "mine.json")).calibration() == chip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"seed.*-1"),
        ({"queue_seconds": -1.0}, r"queue_seconds.*-1"),
        ({"queue_seconds": math.inf}, r"queue_seconds"),
        ({"drift_hours": math.nan}, r"drift_hours"),
        ({"drift_start": "monday"}, r"drift_start.*monday"),
        ({"scale": -1.0}, r"scale"),
        ({"min_cz_fidelity": 2.0}, r"min_cz_fidelity"),
        ({"calibration": "wukung"}, r"wukung"),
    ],
)
def test_an_option_that_cannot_work_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmulatorRemote(**options)  # type: ignore[arg-type]


def test_its_price_is_that_of_the_real_chip() -> None:
    price = EmulatorRemote().price
    assert (price.seconds_per_shot, price.seconds_per_job) == (1e-4, 3.4)
    assert price.cost_per_job is None
    assert "Wukong" in price.source


def test_products_of_read_bits_follow_the_noisy_backend() -> None:
    """A product of Z sees correlations, and the read-out error of both qubits."""
    batch, pair = batch_of(6, shots=20_000, seed=2), ZProduct((0, 2))
    counts = run(EmulatorRemote(is_packed=False), batch)
    signs = np.array([pair.sign(state, 4) for state in range(16)])
    for row, found in zip(torch.from_numpy(batch.angles), counts @ signs / 20_000, strict=True):
        bound = NoisyBackend(WUKONG).bind(CIRCUIT, (pair,), row[4:])
        assert abs(found - float(bound(row[None, :4]))) < 4.5 / math.sqrt(20_000)
