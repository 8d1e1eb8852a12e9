"""The machine of a folder: right numbers, and the troubles it was told to make."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_batches import MIXED, by_hand, make_batch

from qpeft.backends.fake_remote import FAULTS, FakeRemote, Fault, probabilities
from qpeft.backends.remote import JobState, Remote
from qpeft.circuits import build_ansatz
from qpeft.errors import (
    ConfigError,
    ConnectionLostError,
    CorruptResultError,
    NotSentError,
    RemoteError,
)


def fetched(folder: Path, *faults: Fault, shots: int | None = None) -> tuple[FakeRemote, Any, Any]:
    """Return a remote, a request of three circuits and its raw result."""
    remote = FakeRemote(folder, faults)
    [request] = remote.prepare(make_batch(3, shots, circuit=MIXED))
    return remote, request, remote.fetch(remote.submit(request, "tag"))


@pytest.mark.parametrize("circuit", [MIXED, build_ansatz("reupload", 4, 2)])
def test_probabilities_equal_amplitudes_worked_out_by_hand(circuit: Any) -> None:
    batch = make_batch(3, circuit=circuit)
    found = probabilities(batch.circuit, batch.angles)
    np.testing.assert_allclose(found, by_hand(batch), rtol=0, atol=1e-12)


def test_counts_follow_the_probabilities_and_the_seed(tmp_path: Path) -> None:
    batch = make_batch(4, shots=10_000, circuit=MIXED)
    exact, found = by_hand(batch), []
    for seed in (0, 0, 1):
        remote = FakeRemote(tmp_path, seed=seed)
        [request] = remote.prepare(batch)
        found.append(remote.read(request, remote.fetch(remote.submit(request, f"{seed}"))))
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    spread = np.sqrt(10_000 * exact * (1 - exact))
    assert (np.abs(found[0] - 10_000 * exact) <= 5 * spread + 1).all()


def test_it_is_a_remote(tmp_path: Path) -> None:
    assert isinstance(FakeRemote(tmp_path), Remote)


@pytest.mark.parametrize("kind", ["partial", "duplicate", "bit_flip", "wrong_sum"])
@pytest.mark.parametrize("shots", [None, 40])
def test_a_damaged_result_is_noticed_and_the_next_one_is_whole(
    tmp_path: Path, kind: str, shots: int | None
) -> None:
    remote, request, raw = fetched(tmp_path, Fault(kind, 1), shots=shots)
    with pytest.raises(CorruptResultError):
        remote.read(request, raw)
    assert remote.read(request, remote.fetch("fake-1")).shape == (3, 8)
    assert remote.witness().faults == {kind: 1}


def test_a_lasting_damage_stays(tmp_path: Path) -> None:
    remote, request, _ = fetched(tmp_path, Fault("partial", 1, is_lasting=True))
    with pytest.raises(CorruptResultError, match="missing"):
        remote.read(request, remote.fetch("fake-1"))


def test_circuits_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    remote, request, raw = fetched(tmp_path, Fault("out_of_order", 1))
    assert [entry["index"] for entry in raw["circuits"]] == [2, 1, 0]
    expected = by_hand(make_batch(3, circuit=MIXED))
    np.testing.assert_allclose(remote.read(request, raw), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "error", "n_accepted"),
    [
        ("not_sent", NotSentError, 0),
        ("refuse", RemoteError, 0),
        ("drop_before", ConnectionLostError, 0),
        ("drop_after", ConnectionLostError, 1),
    ],
)
def test_a_fault_on_the_way_leaves_the_machine_as_its_name_says(
    tmp_path: Path, kind: str, error: type[RemoteError], n_accepted: int
) -> None:
    remote = FakeRemote(tmp_path, [Fault(kind, 1)], can_find=True)
    [request] = remote.prepare(make_batch(2))
    with pytest.raises(error):
        remote.submit(request, "tag")
    assert remote.witness().by_tag == ({"tag": 1} if n_accepted else {})
    assert (remote.find("tag") is not None) == bool(n_accepted)


def test_a_late_request_arrives_once_after_its_connection_was_lost(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("late", 1)], can_find=True)
    [request] = remote.prepare(make_batch(2))
    with pytest.raises(ConnectionLostError):
        remote.submit(request, "tag")
    assert remote.witness().by_tag == {}
    assert remote.find("tag") == remote.find("tag") == "fake-1"
    assert remote.witness().by_key == {request.key: 1}


def test_the_machine_outlives_its_client_and_counts_what_was_sent_twice(tmp_path: Path) -> None:
    for _ in range(2):
        remote = FakeRemote(tmp_path)
        [request] = remote.prepare(make_batch(2))
        remote.submit(request, "tag")
    witness = FakeRemote(tmp_path).witness()
    assert (witness.by_tag, witness.by_key) == ({"tag": 2}, {request.key: 2})


def test_a_slow_job_ends_after_a_later_one(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("slow", 1), Fault("flap", 2)])
    [request] = remote.prepare(make_batch(2))
    slow, quick = remote.submit(request, "a"), remote.submit(request, "b")
    seen = [remote.status(slow).state for _ in range(2)]
    assert seen == [JobState.RUNNING, JobState.QUEUED]
    assert remote.status(quick).state is JobState.FINISHED
    assert remote.status(slow).state is JobState.RUNNING
    assert remote.status(slow).state is JobState.FINISHED


def test_a_running_job_can_be_cancelled(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, delay=1)
    [request] = remote.prepare(make_batch(2))
    job_id = remote.submit(request, "tag")
    remote.cancel(job_id)
    remote.status(job_id)
    assert remote.status(job_id).state is JobState.CANCELLED


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    for job_id in ("fake-7", "other"):
        with pytest.raises(RemoteError, match=f"no job '{job_id}'"):
            FakeRemote(tmp_path).status(job_id)


def test_mistakes_in_a_script_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'drop_after'"):
        Fault("drop_aftr")
    with pytest.raises(ConfigError, match="counted from 1"):
        Fault("fail", 0)
    with pytest.raises(ConfigError, match="can_find=False"):
        FakeRemote(tmp_path).find("tag")
    assert {method for method, _ in FAULTS.values()} == {"submit", "job", "status", "find", "fetch"}
