"""What the person who pays is shown, and what a budget refuses."""

import csv
from pathlib import Path

import pytest
from small_batches import make_batch, make_runner

from qpeft.backends.fake_remote import FakeRemote, Fault
from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.errors import BudgetError, ConfigError, JobFailedError, JobsError, RemoteError
from qpeft.jobs import Budget, State, Tally, export_csv, list_jobs, show_job, totals


class CalibratedRemote(FakeRemote):
    def calibration(self) -> Calibration:
        return load_calibration("wukong")


def test_totals_count_retries_and_not_what_was_never_sent(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, [Fault("fail", 1), Fault("refuse", 3)], max_programs=2)
    runner = make_runner(tmp_path, remote, label="a")
    runner.run(make_batch(2, shots=10))
    other = make_runner(tmp_path, remote, label="b")
    with pytest.raises(RemoteError, match="refuses"):
        other.run(make_batch(2, shots=10, seed=1))
    first, second = totals(runner.journal)
    assert (first.backend, first.label, first.sent) == ("fake_remote", "a", Tally(4, 4, 2, 40))
    assert first.n_rows == {State.FAILED: 1, State.FINISHED: 1}
    assert (second.sent, second.n_rows) == (Tally(), {State.NOT_SENT: 1})
    assert first.seconds_waited >= 0


def test_rows_are_listed_by_backend_label_state_and_number(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, max_programs=1), label="a")
    runner.run(make_batch(3))
    journal = runner.journal
    assert len(list_jobs(journal)) == 3
    assert [row.id for row in list_jobs(journal, n_last=2)] == [2, 3]
    assert list_jobs(journal, label="b") == list_jobs(journal, backend="b") == []
    assert list_jobs(journal, states=[State.FAILED]) == []
    assert len(list_jobs(journal, label="a", states=[State.FINISHED])) == 3


def test_a_row_is_shown_with_its_attempts_result_and_calibration(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, CalibratedRemote(tmp_path, [Fault("fail", 1)]))
    runner.run(make_batch(2))
    shown = show_job(runner.journal, 2)
    assert [row.id for row in shown.attempts] == [1, 2]
    assert shown.raw["job"] == "fake-2"
    assert shown.payload["circuit"]["n_qubits"] == 2
    assert shown.calibration == load_calibration("wukong").to_json()
    with pytest.raises(JobsError, match="no row 3"):
        show_job(runner.journal, 3)


def test_one_calibration_is_stored_once(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, CalibratedRemote(tmp_path, max_programs=1))
    runner.run(make_batch(4))
    assert runner.journal.store.select("SELECT count(*) FROM calibrations")[0][0] == 1


def test_the_exported_table_has_a_line_a_row(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, max_programs=1))
    runner.run(make_batch(3, shots=7))
    assert export_csv(runner.journal, tmp_path / "jobs.csv") == 3
    with (tmp_path / "jobs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["job_id"], line["shots"], line["state"]) for line in lines] == [
        (f"fake-{n}", "7", "finished") for n in (1, 2, 3)
    ]
    with pytest.raises(JobsError, match="Cannot write"):
        export_csv(runner.journal, tmp_path / "nowhere" / "jobs.csv")


@pytest.mark.parametrize("what", ["circuits", "programs", "shots", "jobs"])
def test_each_cap_lets_its_own_number_through_and_no_more(what: str) -> None:
    used = Tally(2, 2, 2, 2)
    Budget(**{f"max_{what}": 5}).charge(used, Tally(3, 3, 3, 3), "b", "")
    with pytest.raises(BudgetError, match=f"used 2 {what}; .* needs 4 .*max_{what}=5 by 1"):
        Budget(**{f"max_{what}": 5}).charge(used, Tally(4, 4, 4, 4), "b", "")


def test_a_negative_cap_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_jobs must be at least 0"):
        Budget(max_jobs=-1)


def test_an_error_of_a_failed_job_is_in_its_row(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path, [Fault("fail", 1)]), max_retries=0)
    with pytest.raises(JobFailedError):
        runner.run(make_batch(1))
    [row] = list_jobs(runner.journal, states=[State.FAILED])
    assert row.error == "failed (scripted)"
    assert row.finished_at is not None
