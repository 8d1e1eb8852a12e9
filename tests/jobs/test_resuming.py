"""What is collected afterwards, and what a person is asked."""

from pathlib import Path

import numpy as np
import pytest
from small_batches import by_hand, make_batch, make_runner, no_sleep

from qpeft.backends.fake_remote import FakeRemote, Fault
from qpeft.errors import JobsError, UncertainJobError
from qpeft.jobs import (
    Forget,
    Journal,
    Later,
    Resumed,
    Row,
    SendAgain,
    State,
    WasSent,
    forget,
    resume,
)
from qpeft.jobs.resuming import Decision


def left_uncertain(folder: Path, kind: str) -> tuple[FakeRemote, Journal]:
    """Lose the answer to the second of three submissions."""
    remote = FakeRemote(folder, [Fault(kind, 2)], max_programs=2)
    runner = make_runner(folder, remote)
    with pytest.raises(UncertainJobError):
        runner.run(make_batch(5))
    return remote, runner.journal


def asked(remote: FakeRemote, journal: Journal, decision: Decision) -> tuple[Resumed, list[int]]:
    rows: list[int] = []

    def ask(row: Row) -> Decision:
        rows.append(row.id)
        return decision

    return resume(journal, lambda name: remote, ask, sleep=no_sleep), rows


def test_a_job_that_a_person_found_is_collected_and_not_sent_again(tmp_path: Path) -> None:
    remote, journal = left_uncertain(tmp_path, "drop_after")
    report, rows = asked(remote, journal, WasSent("fake-2"))
    assert rows == [2]
    assert [row.id for row in report.finished] == [1, 2]
    assert remote.witness().calls["submit"] == 2  # the third stays planned
    found = make_runner(tmp_path, remote).run(make_batch(5))
    np.testing.assert_allclose(found, by_hand(make_batch(5)), atol=1e-12)
    assert set(remote.witness().by_key.values()) == {1}


def test_a_job_that_a_person_says_was_not_sent_becomes_a_new_row(tmp_path: Path) -> None:
    remote, journal = left_uncertain(tmp_path, "drop_before")
    report, _ = asked(remote, journal, SendAgain())
    assert [(row.id, row.retry_of) for row in report.finished] == [(1, None), (4, 2)]
    assert journal.row(2).state is State.NOT_SENT
    assert set(remote.witness().by_key.values()) == {1}


def test_a_job_that_is_given_up_counts_as_used(tmp_path: Path) -> None:
    remote, journal = left_uncertain(tmp_path, "drop_after")
    report, _ = asked(remote, journal, Forget())
    assert [row.id for row in report.forgotten] == [2]
    assert journal.row(2).state is State.CANCELLED


def test_a_job_that_is_left_stays_uncertain(tmp_path: Path) -> None:
    remote, journal = left_uncertain(tmp_path, "drop_after")
    report, _ = asked(remote, journal, Later())
    assert [row.state for row in report.waiting] == [State.UNCERTAIN]
    assert asked(remote, journal, Later())[1] == [2]


@pytest.mark.parametrize("job_id", ["fake-99", "fake-1"])
def test_an_id_that_is_unknown_or_taken_is_not_believed(tmp_path: Path, job_id: str) -> None:
    remote, journal = left_uncertain(tmp_path, "drop_after")
    report, _ = asked(remote, journal, WasSent(job_id))
    assert [row.id for row, _ in report.problems] == [2]
    assert journal.row(2).state is State.UNCERTAIN


def test_nobody_is_asked_where_the_machine_can_tell(tmp_path: Path) -> None:
    _, journal = left_uncertain(tmp_path, "drop_after")
    remote = FakeRemote(tmp_path, can_find=True)
    report, rows = asked(remote, journal, Forget())
    assert rows == []
    assert [row.id for row in report.finished] == [1, 2]


def test_one_look_leaves_what_is_still_running(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("drop_after", 2)], max_programs=2, delay=3)
    runner = make_runner(tmp_path, remote)
    with pytest.raises(UncertainJobError):
        runner.run(make_batch(5))
    report = resume(runner.journal, lambda name: remote, lambda row: Later(), waits=False)
    assert [row.id for row in report.waiting] == [2, 1]


def test_an_open_job_can_be_given_up_and_a_finished_one_cannot(tmp_path: Path) -> None:
    _, journal = left_uncertain(tmp_path, "drop_after")
    assert forget(journal, 1).state is State.CANCELLED
    with pytest.raises(JobsError, match="it is cancelled"):
        forget(journal, 1)
    with pytest.raises(JobsError, match="no row 77"):
        forget(journal, 77)
