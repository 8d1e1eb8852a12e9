"""What the journal's file keeps, and what it refuses."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_batches import make_batch, make_runner

from qpeft.backends.fake_remote import FakeRemote
from qpeft.errors import JobsError
from qpeft.jobs import Budget, Journal, State
from qpeft.jobs.claims import Role, Worker, claim, take
from qpeft.jobs.owners import Presence, _birth, at_work, presence
from qpeft.jobs.rows import NEXT


def worker(owner: str, can_settle: bool = False) -> Worker:
    return Worker(owner, "fake_remote", "", Budget(), can_settle)


def requests(folder: Path, n_circuits: int = 2) -> dict:
    found = FakeRemote(folder, max_programs=2).prepare(make_batch(n_circuits))
    return {request.key: request for request in found}


def test_every_commit_is_durable_and_references_are_enforced(tmp_path: Path) -> None:
    store = Journal(tmp_path / "new" / "j.sqlite").store
    settings = {
        name: store.select(f"PRAGMA {name}")[0][0]
        for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
    }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "user_version": 1,
    }


def test_a_request_comes_back_from_the_file_with_the_same_content_hash(tmp_path: Path) -> None:
    journal, asked = Journal(tmp_path / "j.sqlite"), requests(tmp_path)
    with at_work() as owner:
        claim(journal, worker(owner), asked)
    journal.close()
    row = Journal(tmp_path / "j.sqlite").rows()[0]
    assert journal.request(row).key == row.key == next(iter(asked))


def test_a_newer_file_is_refused_with_the_way_out(tmp_path: Path) -> None:
    Journal(tmp_path / "j.sqlite").close()
    with sqlite3.connect(tmp_path / "j.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(JobsError, match=r"schema 99.* knows schema 1\. Update qpeft"):
        Journal(tmp_path / "j.sqlite")


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "notes.db") as database:
        database.execute("CREATE TABLE notes (a)")
    database.close()
    with pytest.raises(JobsError, match="another program"):
        Journal(tmp_path / "notes.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j.sqlite").write_text("these are not the rows you are looking for\n" * 50)
    with pytest.raises(JobsError, match="not a database"):
        Journal(tmp_path / "j.sqlite")


@pytest.mark.parametrize(
    ("pragma", "words"),
    [
        ("query_only = 1", "readonly.*Nothing was sent"),
        ("max_page_count = 1", "full.*Nothing was sent"),
    ],
)
def test_a_file_that_cannot_grow_stops_a_run_before_it_sends(
    tmp_path: Path, pragma: str, words: str
) -> None:
    remote = FakeRemote(tmp_path, max_programs=1)
    runner = make_runner(tmp_path, remote)
    runner.journal.store.select(f"PRAGMA {pragma}")
    with pytest.raises(JobsError, match=words):
        runner.run(make_batch(60))
    assert "submit" not in remote.witness().calls
    assert runner.journal.rows() == []


def test_an_illegal_transition_is_a_defect(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    with at_work() as owner:
        [(_, row)] = claim(journal, worker(owner), requests(tmp_path)).values()
        with pytest.raises(AssertionError, match="planned -> submitted"):
            journal.set_submitted(row, owner, "id")
    assert all(state in NEXT for state in State)


def test_only_the_worker_that_holds_a_row_changes_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    with at_work() as first:
        [(_, row)] = claim(journal, worker(first), requests(tmp_path)).values()
        with at_work() as second:
            [(role, _)] = claim(journal, worker(second), requests(tmp_path)).values()
            assert role is Role.THEIRS
            with pytest.raises(JobsError, match="no longer held by this run"):
                journal.set_prepared(row, second)
        journal.set_prepared(row, first)


def test_a_plan_of_a_dead_worker_is_taken_over_and_costs_the_budget_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    for _ in range(3):
        with at_work() as owner:
            one_job = Worker(owner, "fake_remote", "", Budget(max_jobs=1), False)
            [(role, row)] = claim(journal, one_job, requests(tmp_path)).values()
            assert (role, row.id, row.owner) == (Role.MINE, 1, owner)


def test_a_row_that_a_dead_worker_was_sending_becomes_uncertain(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    with at_work() as owner:
        [(_, row)] = claim(journal, worker(owner), requests(tmp_path)).values()
        row = journal.set_prepared(row, owner)
    with at_work() as heir:
        assert take(journal, row, heir).state is State.UNCERTAIN


def test_a_worker_of_another_host_is_not_taken_for_dead(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite")
    with at_work() as owner:
        claim(journal, worker(owner), requests(tmp_path))
    with journal.store.transaction() as database:
        database.execute("UPDATE jobs SET owner = 'elsewhere:1:2:3', state = 'submitted'")
    with at_work() as heir:
        with pytest.raises(JobsError, match=r"another host.*--take-over"):
            claim(journal, worker(heir), requests(tmp_path))
        row = journal.row(1)
        assert take(journal, row, heir, is_forced=True).owner == heir


def test_presence_tells_a_process_from_its_successor_of_the_same_number() -> None:
    with at_work() as owner:
        assert presence(owner) is Presence.ALIVE
        host, pid, birth, token = owner.split(":")
        assert presence(f"{host}:1:{birth}0:{token}") is Presence.GONE
    assert presence(owner) is Presence.GONE  # this process lives, but that run is over
    assert presence(None) is Presence.GONE
    assert presence(f"not-{host}:{pid}:{birth}:{token}") is Presence.UNSEEN


def test_presence_of_another_process_ends_with_it() -> None:
    with at_work() as mine:
        host, _, _, token = mine.split(":")
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        owner = f"{host}:{child.pid}:{_birth(child.pid)}:{token}"
        assert presence(owner) is Presence.ALIVE
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, its number not yet free
        assert presence(owner) is Presence.GONE
    assert presence(owner) is Presence.GONE


def test_threads_share_one_journal(tmp_path: Path) -> None:
    remote = FakeRemote(tmp_path, max_programs=1, delay=1)
    runner = make_runner(tmp_path, remote)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            runner.run(make_batch(4, shots=10))
        except JobsError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(remote.witness().by_key.values()) == {1}


def test_a_damaged_result_in_the_file_is_told_with_its_row(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, FakeRemote(tmp_path))
    runner.run(make_batch(2))
    with runner.journal.store.transaction() as database:
        database.execute("UPDATE jobs SET result = x'00ff'")
    with pytest.raises(JobsError, match=r"result of row 1 .* is damaged"):
        runner.run(make_batch(2))
