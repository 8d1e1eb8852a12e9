"""What a runner sends, waits for, refuses and remembers."""

import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from race import run_race
from small_batches import MIXED, by_hand, make_batch, make_runner

from qpeft.backends.fake_remote import FakeRemote, Fault
from qpeft.backends.remote import CircuitBatch, JobRequest, JobStatus
from qpeft.circuits import build_ansatz
from qpeft.errors import (
    BudgetError,
    ConfigError,
    ConnectionLostError,
    CorruptResultError,
    JobFailedError,
    JobsError,
    NotSentError,
    RemoteError,
    UncertainJobError,
)
from qpeft.jobs import Budget, Journal, Runner, State, Tally
from qpeft.jobs.calls import MAX_TRIES
from qpeft.jobs.runner import Pause


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored; here it interrupts."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def states(runner: Runner) -> list[State]:
    return [row.state for row in runner.journal.rows()]


def test_exact_results_equal_amplitudes_worked_out_by_hand(tmp_path: Path) -> None:
    batch = make_batch(5, circuit=MIXED)
    found = make_runner(tmp_path, FakeRemote(tmp_path, max_programs=2)).run(batch)
    np.testing.assert_allclose(found, by_hand(batch), rtol=0, atol=1e-12)


def test_a_batch_is_cut_into_jobs_and_its_rows_keep_their_order(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, [Fault("slow", 1)], max_programs=3))
    batch = make_batch(8, shots=100)
    found = runner.run(batch)
    assert runner.counts.sent == Tally(8, 8, 3, 800)
    assert (found.sum(axis=1) == 100).all()
    assert np.abs(found / 100 - by_hand(batch)).max() < 0.25  # five standard errors
    assert [row.n_circuits for row in runner.journal.rows()] == [3, 3, 2]


def test_a_finished_batch_is_answered_from_the_journal(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, max_programs=2)
    first = make_runner(tmp_path, remote).run(make_batch(5, shots=20))
    again = make_runner(tmp_path, remote)
    np.testing.assert_array_equal(again.run(make_batch(5, shots=20)), first)
    assert again.counts.sent == Tally()
    assert again.counts.reused.n_circuits == 5
    assert remote.witness().calls["submit"] == 3


def test_other_shots_are_another_request(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path))
    for shots in (10, 20):
        assert runner.run(make_batch(2, shots)).sum() == 2 * shots
    assert runner.counts.sent.n_jobs == 2


def test_another_machine_does_not_answer_for_this_one(tmp_path: Path) -> None:
    for name in ("one", "other"):
        runner = make_runner(tmp_path, FakeRemote(tmp_path / name, name=name))
        runner.run(make_batch(2))
        assert runner.counts.sent.n_jobs == 1


def test_equal_requests_of_one_batch_are_sent_once(tmp_path: Path) -> None:
    angles = np.tile(make_batch(1).angles, (6, 1))
    runner = make_runner(tmp_path, FakeRemote(tmp_path, max_programs=2))
    found = runner.run(CircuitBatch(make_batch().circuit, angles, None))
    assert found.shape == (6, 4)
    assert runner.counts.sent.n_jobs == 1


def test_an_empty_batch_sends_nothing(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path))
    assert runner.run(make_batch(0)).shape == (0, 4)
    assert states(runner) == []


def test_three_processes_running_the_same_batches_send_them_once(tmp_path: Path) -> None:
    results = run_race(tmp_path, 3)
    for found in results[1:]:
        np.testing.assert_array_equal(found, results[0])
    witness = FakeRemote(tmp_path).witness()
    assert len(witness.by_key) == 12
    assert set(witness.by_key.values()) == {1}


@pytest.mark.parametrize(
    ("options", "batch", "words"),
    [
        ({}, make_batch(1, circuit=build_ansatz("reupload", 9, 1)), "8 qubits"),
        ({"max_shots": 50}, make_batch(5, shots=51), "at most 50 shots"),
    ],
)
def test_what_the_remote_does_not_take_is_refused_before_anything_is_sent(
    tmp_path: Path, options: dict[str, Any], batch: CircuitBatch, words: str
) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, **options))
    with pytest.raises(ConfigError, match=words):
        runner.run(batch)
    assert states(runner) == []


def test_a_batch_beyond_the_budget_is_refused_as_a_whole(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, max_programs=2)
    runner = make_runner(tmp_path, remote, budget=Budget(max_circuits=9), label="trial")
    runner.run(make_batch(5))
    with pytest.raises(BudgetError, match=r"'trial' has used 5 circuits; .* needs 5 .* by 1"):
        runner.run(make_batch(5, seed=1))
    assert remote.witness().calls["submit"] == 3
    assert len(states(runner)) == 3
    runner.run(make_batch(5))  # what is in the journal stays free
    runner.run(make_batch(4, seed=2))
    make_runner(tmp_path, remote, budget=Budget(max_circuits=3), label="other").run(
        make_batch(3, seed=3)
    )


def test_a_retry_is_charged_too(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("fail", 1)])
    runner = make_runner(tmp_path, remote, budget=Budget(max_jobs=1))
    with pytest.raises(BudgetError, match="used 1 jobs; this batch needs 1 more"):
        runner.run(make_batch(2))
    assert states(runner) == [State.FAILED]


def test_a_failed_job_is_sent_again_as_a_row_of_its_own(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, [Fault("fail", 2)], max_programs=2))
    batch = make_batch(5)
    np.testing.assert_allclose(runner.run(batch), by_hand(batch), atol=1e-12)
    failed, retry = runner.journal.rows()[1], runner.journal.rows()[-1]
    assert (failed.state, failed.error) == (State.FAILED, "failed (scripted)")
    assert (retry.retry_of, retry.attempt, retry.key) == (failed.id, 2, failed.key)
    assert runner.counts.sent.n_jobs == 4


def test_a_request_that_fails_again_stops_the_run_with_its_number_and_id(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("fail", 1), Fault("fail", 2), Fault("fail", 3)])
    runner = make_runner(tmp_path, remote)
    with pytest.raises(JobFailedError, match=r"'fake-2' .*row 2.* sent 2 times"):
        runner.run(make_batch(2))
    assert states(runner) == [State.FAILED] * 2
    runner.run(make_batch(2))  # asked for again by a person: one more row and its one retry
    assert states(runner) == [State.FAILED] * 3 + [State.FINISHED]


def test_a_cancelled_job_is_not_sent_again_by_itself(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, [Fault("cancel", 1)]))
    with pytest.raises(JobFailedError, match="was cancelled"):
        runner.run(make_batch(2))
    assert runner.counts.sent.n_jobs == 1


def test_a_request_that_may_have_arrived_is_never_sent_again(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("drop_after", 2)], max_programs=2)
    runner = make_runner(tmp_path, remote)
    for _ in range(2):
        with pytest.raises(UncertainJobError, match="qpeft jobs resume"):
            runner.run(make_batch(5))
    assert remote.witness().calls["submit"] == 2
    assert states(runner) == [State.SUBMITTED, State.UNCERTAIN, State.PLANNED]


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "late"])
def test_a_remote_that_can_find_settles_a_lost_answer(tmp_path: Path, kind: str) -> None:
    remote = FakeRemote(tmp_path, [Fault(kind, 2)], max_programs=2, can_find=True)
    runner = make_runner(tmp_path, remote)
    batch = make_batch(5)
    np.testing.assert_allclose(runner.run(batch), by_hand(batch), atol=1e-12)
    assert set(remote.witness().by_key.values()) == {1}


def test_a_repeatable_remote_gets_a_lost_request_again_as_a_new_row(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("drop_after", 1)], is_repeatable=True)
    runner = make_runner(tmp_path, remote)
    runner.run(make_batch(2))
    assert states(runner) == [State.CANCELLED, State.FINISHED]


def test_an_unreachable_machine_is_tried_a_bounded_number_of_times(tmp_path: Path) -> None:
    waits: list[float] = []
    faults = [Fault("not_sent", call) for call in range(1, 20)]
    remote = FakeRemote(tmp_path, faults)
    runner = Runner(remote, Journal(tmp_path / "j.sqlite"), sleep=waits.append)
    with pytest.raises(NotSentError, match="Nothing of row 1 was sent"):
        runner.run(make_batch(2))
    assert remote.witness().calls["submit"] == MAX_TRIES
    assert len(waits) == MAX_TRIES - 1
    assert all(later > earlier for earlier, later in pairwise(waits))
    assert states(runner) == [State.NOT_SENT]


def test_an_outage_while_waiting_leaves_the_jobs_in_the_journal(tmp_path: Path) -> None:
    faults = [Fault("drop_status", call) for call in range(1, MAX_TRIES + 1)]
    remote = FakeRemote(tmp_path, faults)
    runner = make_runner(tmp_path, remote)
    with pytest.raises(ConnectionLostError, match="in the journal"):
        runner.run(make_batch(2))
    assert states(runner) == [State.SUBMITTED]
    runner.run(make_batch(2))
    assert remote.witness().calls["submit"] == 1


def test_a_refused_job_is_not_tried_again(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("refuse", 1)])
    runner = make_runner(tmp_path, remote)
    with pytest.raises(RemoteError, match="refuses"):
        runner.run(make_batch(2))
    assert states(runner) == [State.NOT_SENT]
    assert remote.witness().calls["submit"] == 1


def test_a_damaged_result_is_fetched_once_more(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("wrong_sum", 1)])
    runner = make_runner(tmp_path, remote)
    runner.run(make_batch(2, shots=30))
    assert states(runner) == [State.FINISHED]
    assert remote.witness().calls["fetch"] == 2


def test_a_result_that_stays_damaged_is_kept_and_its_request_sent_again(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("bit_flip", 1, is_lasting=True)])
    runner = make_runner(tmp_path, remote)
    runner.run(make_batch(2))
    failed, _ = runner.journal.rows()
    assert failed.state is State.FAILED
    assert "no state" in (failed.error or "")
    assert runner.journal.raw(failed)["job"] == "fake-1"


class UnreadableRemote(FakeRemote):
    """A remote whose reader has a defect."""

    def read(self, request: JobRequest, raw: Any) -> np.ndarray:
        raise CorruptResultError("not understood")


def test_a_mended_reader_reads_what_was_paid_for_without_sending(tmp_path: Path) -> None:
    broken = make_runner(tmp_path, UnreadableRemote(tmp_path), max_retries=0)
    with pytest.raises(JobFailedError, match="not understood"):
        broken.run(make_batch(2))
    mended = make_runner(tmp_path, FakeRemote(tmp_path))
    np.testing.assert_allclose(mended.run(make_batch(2)), by_hand(make_batch(2)), atol=1e-12)
    assert mended.counts.sent == Tally()
    assert states(mended) == [State.FINISHED]


class WrongRemote(FakeRemote):
    """A remote that reads a circuit too few, or shots too many."""

    def read(self, request: JobRequest, raw: Any) -> np.ndarray:
        found = super().read(request, raw)
        return found[1:] if request.shots is None else found + 1


@pytest.mark.parametrize(("shots", "words"), [(None, "2 circuits were sent"), (10, "sums to 14")])
def test_a_result_is_held_to_the_request_whatever_the_remote_says(
    tmp_path: Path, shots: int | None, words: str
) -> None:
    with pytest.raises(JobFailedError, match=words):
        make_runner(tmp_path, WrongRemote(tmp_path), max_retries=0).run(make_batch(2, shots))


class InterruptedRemote(FakeRemote):
    """A remote during whose submission somebody presses Ctrl-C, so many times."""

    n_presses = 1

    def submit(self, request: JobRequest, tag: str) -> str:
        job_id = super().submit(request, tag)
        for _ in range(self.n_presses):
            signal.raise_signal(signal.SIGINT)
        return job_id


def test_ctrl_c_during_a_submission_waits_until_its_id_is_written(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, InterruptedRemote(tmp_path, max_programs=2))
    with pytest.raises(KeyboardInterrupt):
        runner.run(make_batch(4))
    assert states(runner) == [State.SUBMITTED, State.PLANNED]
    assert {row.owner for row in runner.journal.rows()} == {None}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_acts_at_once_and_leaves_the_row_uncertain(tmp_path: Path) -> None:
    remote = InterruptedRemote(tmp_path)
    remote.n_presses = 2
    runner = make_runner(tmp_path, remote)
    with pytest.raises(KeyboardInterrupt):
        runner.run(make_batch(2))
    assert states(runner) == [State.UNCERTAIN]


class DefectiveRemote(FakeRemote):
    """A provider's client that raises something of its own after it has sent."""

    def submit(self, request: JobRequest, tag: str) -> str:
        super().submit(request, tag)
        raise KeyError("taskId")


def test_an_unknown_error_of_a_client_leaves_the_row_uncertain(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, DefectiveRemote(tmp_path))
    with pytest.raises(KeyError):
        runner.run(make_batch(2))
    assert states(runner) == [State.UNCERTAIN]


def test_a_key_in_a_providers_words_does_not_reach_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "abcdef-123456")

    class ChattyRemote(FakeRemote):
        def status(self, job_id: str) -> JobStatus:
            status = super().status(job_id)
            return JobStatus(status.state, "denied for key abcdef-123456")

    remote = ChattyRemote(tmp_path, [Fault("cancel", 1)])
    runner = make_runner(tmp_path, remote)
    with pytest.raises(JobFailedError, match="<SOME_API_KEY>"):
        runner.run(make_batch(2))
    runner.journal.close()
    assert b"abcdef-123456" not in (tmp_path / "jobs.sqlite").read_bytes()


def test_progress_counts_circuits_up_to_the_batch(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    runner = make_runner(
        tmp_path,
        FakeRemote(tmp_path, max_programs=2, delay=1),
        on_progress=lambda n_done, n_total, text: seen.append((n_done, n_total)),
    )
    runner.run(make_batch(5))
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)


def test_waits_double_up_to_a_minute_and_begin_again_after_progress(tmp_path: Path) -> None:
    waits: list[float] = []
    remote = FakeRemote(tmp_path, delay=7)
    Runner(remote, Journal(tmp_path / "j.sqlite"), sleep=waits.append).run(make_batch(2))
    # The first look follows the submission at once; what was sent is progress.
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    pause = Pause(2.0, 60.0)
    assert [pause.next(), pause.next()] == [2, 4]
    pause.reset()
    assert pause.next() == 2


def test_a_full_disk_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = FakeRemote(tmp_path)
    runner = make_runner(tmp_path, remote)
    monkeypatch.setattr("qpeft.jobs.store.MIN_FREE_BYTES", 2**62)
    with pytest.raises(JobsError, match="Nothing was sent"):
        runner.run(make_batch(2))
    assert "submit" not in remote.witness().calls
    assert states(runner) == []


def test_a_journal_that_fills_up_at_the_worst_instant_tells_the_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path))

    def full(*arguments: Any) -> None:
        raise JobsError("Cannot use the journal: database or disk is full.")

    monkeypatch.setattr(runner.journal, "set_submitted", full)
    with pytest.raises(JobsError, match=r"'fake-1'.*KEEP THIS ID"):
        runner.run(make_batch(2))
    monkeypatch.undo()
    with pytest.raises(UncertainJobError, match="Row 1 was"):
        runner.run(make_batch(2))
