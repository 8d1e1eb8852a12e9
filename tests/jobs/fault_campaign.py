"""Kills, drops and damages jobs by the hundred, and holds the journal to what the machine has seen.

    python fault_campaign.py 60 0        scenarios, seed  ->  one line of JSON: faults that struck, by kind

A scenario is a workload of a few batches on a scripted machine. A child process works on it and is killed at an
instant; another goes on, until the work is done. Children are forked, because importing torch takes longer than
a life.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from small_batches import by_hand, make_batch, no_sleep

from qpeft.backends.fake_remote import FAULTS, FakeRemote, Fault
from qpeft.backends.remote import CircuitBatch, JobRequest
from qpeft.errors import JobsError, RemoteError, UncertainJobError
from qpeft.jobs import Journal, Row, Runner, SendAgain, State, WasSent, resume, totals
from qpeft.jobs.resuming import Decision
from qpeft.jobs.store import Store

_AROUND_SUBMIT = ("kill_before_submit", "kill_after_submit")
_PLANS = (
    *("kill", "kill", "kill_by_time", *_AROUND_SUBMIT),
    *("disk_full", "read_only", "interrupt", "terminate"),
)
DONE, STOPPED, UNSURE, INTERRUPTED, BROKEN = 0, 3, 4, 5, 6
MAX_LIVES = 40


def run_campaign(n_scenarios: int, seed: int) -> dict[str, int]:
    """Run scenarios in a process of their own and return how many faults struck, by kind.

    Raises:
        AssertionError: Something was lost, sent twice or wrong.
    """
    command = [sys.executable, __file__, str(n_scenarios), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


@dataclass(frozen=True)
class Scenario:
    """One workload on one machine.

    Args:
        seed: What everything else follows from.
        can_find: Of the remote.
        is_repeatable: Of the remote.
        delay: Looks before a job is finished.
        script: What the machine does wrong.
        batches: The work: circuits and shots of each batch; the last is the first once more.
        plans: What happens to each process: a kind and a number.
    """

    seed: int
    can_find: bool
    is_repeatable: bool
    delay: int
    script: tuple[Fault, ...]
    batches: tuple[tuple[int, int | None], ...]
    plans: tuple[tuple[str, int], ...]

    def remote(self, folder: Path) -> FakeRemote:
        return FakeRemote(
            folder,
            self.script,
            max_programs=2,
            delay=self.delay,
            can_find=self.can_find,
            is_repeatable=self.is_repeatable,
        )

    def work(self) -> list[CircuitBatch]:
        sizes = enumerate(self.batches)
        batches = [make_batch(n, shots, 100 * self.seed + i) for i, (n, shots) in sizes]
        return [*batches, batches[0]]


def draw(seed: int) -> Scenario:
    """Draw a scenario; half of the remotes can neither find nor be asked twice, as most real ones."""
    rng = random.Random(seed)
    can_find, is_repeatable = rng.choice(
        [(False, False), (False, False), (True, False), (False, True)]
    )
    script = [
        Fault(kind, rng.randint(1, 12), rng.random() < 0.3)
        for kind in rng.choices(sorted(FAULTS), k=rng.randint(3, 9))
    ]
    if rng.random() < 0.15:  # an outage that outlasts all tries of one call
        kind, start = rng.choice(["drop_status", "drop_fetch", "not_sent"]), rng.randint(1, 8)
        script += [Fault(kind, start + i) for i in range(5)]
    if rng.random() < 0.15:  # a machine that fails the retry too
        start = rng.randint(1, 5)
        script += [Fault("fail", start + i) for i in range(3)]
    batches = tuple((rng.randint(1, 7), rng.choice([None, 200])) for _ in range(rng.randint(1, 3)))
    kinds = rng.choices(_PLANS, k=rng.randint(2, 6))
    plans = tuple((k, rng.randint(1, 4 if k in _AROUND_SUBMIT else 90)) for k in kinds)
    return Scenario(seed, can_find, is_repeatable, rng.randint(0, 2), tuple(script), batches, plans)


@dataclass
class Troubles:
    """What happens to one process, counted in instants: around every commit and every call.

    Args:
        kind: What happens.
        at: At which instant.
        log: A file that gets a line when it has happened and the process lives on.
    """

    kind: str
    at: int
    log: Path
    n_instants: int = 0

    def instant(self, name: str = "") -> None:
        """Let pass one instant at which a process may die; some kinds count only those of one name."""
        if self.kind in _AROUND_SUBMIT and self.kind != f"kill_{name}":
            return
        self.n_instants += 1
        if self.n_instants != self.at:
            return
        if self.kind == "kill" or self.kind in _AROUND_SUBMIT:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind in ("interrupt", "terminate"):
            self._note()
            os.kill(os.getpid(), signal.SIGINT if self.kind == "interrupt" else signal.SIGTERM)

    def refuse(self, database: sqlite3.Connection) -> None:
        """Fail from the chosen instant on, as a disk does: a full one stays full."""
        if self.n_instants < self.at:
            return
        if self.kind == "disk_full":
            self._note()
            raise sqlite3.OperationalError("database or disk is full")
        if self.kind == "read_only":
            self._note()
            database.execute("PRAGMA query_only = 1")  # SQLite itself refuses the next write

    def _note(self) -> None:
        with self.log.open("a") as file:
            file.write(f"{self.kind}\n")


class ShakyStore(Store):
    """The journal's file, in a process that may die around every commit."""

    troubles: Troubles

    @contextmanager
    def transaction(self, consequence: str = "") -> Iterator[sqlite3.Connection]:
        self.troubles.instant()
        with super().transaction(consequence) as database:
            self.troubles.refuse(database)
            yield database
            self.troubles.instant()
        self.troubles.instant()


class ShakyRemote(FakeRemote):
    """The machine, called by a process that may die around every call."""

    troubles: Troubles

    def submit(self, request: JobRequest, tag: str) -> str:
        return self._around(lambda: super(ShakyRemote, self).submit(request, tag), "submit")

    def find(self, tag: str) -> str | None:
        return self._around(lambda: super(ShakyRemote, self).find(tag))

    def fetch(self, job_id: str) -> Any:
        return self._around(lambda: super(ShakyRemote, self).fetch(job_id))

    def _around(self, call: Callable[[], Any], name: str = "call") -> Any:
        self.troubles.instant(f"before_{name}")
        answer = call()
        self.troubles.instant(f"after_{name}")
        return answer


@dataclass
class Case:
    """A scenario under way in a folder."""

    scenario: Scenario
    folder: Path
    faults: Counter[str] = field(default_factory=Counter)
    n_unsure: int = 0

    def open(self) -> Journal:
        return Journal(self.folder / "jobs.sqlite")

    def play(self) -> None:
        """Let processes live and die until the work is done, then compare journal and machine."""
        plans = list(self.scenario.plans)
        resolves = False
        for life in range(MAX_LIVES):
            plan = plans.pop(0) if plans else ("none", 0)
            if self._live(life, plan, resolves) == DONE:
                self._check()
                self.faults.update(self.scenario.remote(self.folder).witness().faults)
                return
            # Where the machine can be asked, half of the processes find out by themselves.
            needs_person = not (self.scenario.can_find or self.scenario.is_repeatable)
            resolves = self._has_unsure() and (needs_person or life % 2 == 0)
            if resolves and needs_person and life % 2:
                self._check_not_sent_blindly()
        raise AssertionError(f"scenario {self.scenario.seed} was not done after {MAX_LIVES} lives")

    def _live(self, life: int, plan: tuple[str, int], resolves: bool) -> int:
        kind, number = plan
        log = self.folder / f"troubles-{life}"
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = BROKEN
            try:
                code = _child(self, Troubles(kind, number, log), resolves)
            finally:
                if code == BROKEN:
                    traceback.print_exc()
                os._exit(code)
        if kind == "kill_by_time":
            time.sleep(number / 1000)
            os.kill(child, signal.SIGKILL)  # a child that has ended waits for us and feels nothing
        _, status = os.waitpid(child, 0)
        struck = set(log.read_text().split()) if log.exists() else set()
        self.faults.update(struck)  # a full disk counts once a life, however often it refuses
        if os.WIFSIGNALED(status):
            died_of = os.WTERMSIG(status)
            assert died_of in (signal.SIGKILL, signal.SIGTERM), died_of
            if died_of == signal.SIGKILL:
                self.faults[kind] += 1
            return STOPPED
        code = os.WEXITSTATUS(status)
        assert code in (DONE, STOPPED, UNSURE, INTERRUPTED), f"life {life} {plan}: exit {code}"
        assert code != INTERRUPTED or kind == "interrupt"
        self.n_unsure += code == UNSURE
        return code

    def _has_unsure(self) -> bool:
        return bool(self._unsure_rows())

    def _unsure_rows(self) -> list[Row]:
        journal = self.open()
        rows = journal.rows("state IN ('prepared', 'uncertain')")
        journal.close()
        return rows

    def _check_not_sent_blindly(self) -> None:
        """Run once more without asking anybody: an uncertain request must not be sent again."""
        scenario = self.scenario
        keys = {row.key for row in self._unsure_rows()}
        before = scenario.remote(self.folder).witness().by_key
        code = self._live(MAX_LIVES, ("none", 0), resolves=False)
        assert code in (UNSURE, STOPPED), code
        after = scenario.remote(self.folder).witness().by_key
        late = 1  # a request that was on its way may have arrived since
        for key in keys:
            assert after.get(key, 0) <= before.get(key, 0) + late * (before.get(key, 0) == 0)
        assert {row.key for row in self._unsure_rows()} >= keys

    def _check(self) -> None:
        """Hold the journal to the machine's own count."""
        results = np.load(self.folder / "results.npz")
        for index, batch in enumerate(self.scenario.work()):
            _check_numbers(batch, results[f"batch{index}"], self.folder)
        journal, machine = self.open(), self.scenario.remote(self.folder).witness()
        rows = journal.rows()
        assert not [row for row in rows if row.state.is_open], "something was left open"
        assert journal.store.select("PRAGMA integrity_check")[0][0] == "ok"
        assert all(n == 1 for n in machine.by_tag.values()), "one submission was accepted twice"
        known = {row.tag: row for row in rows}
        assert set(machine.by_tag) <= set(known), "the machine has a job that the journal lacks"
        if not self.scenario.is_repeatable:
            self._check_once(machine.by_key, machine.by_tag, rows)
        sent = [total.sent.n_jobs for total in totals(journal)]
        not_sent = sum(row.state is State.NOT_SENT for row in rows)
        assert sum(sent) == len(rows) - not_sent
        journal.close()

    def _check_once(self, by_key: Any, by_tag: Any, rows: list[Row]) -> None:
        """Every accepted job is a row with its id; a second one of a key stands for a failure."""
        for row in rows:
            arrived = row.tag in by_tag
            assert arrived == (row.job_id is not None), f"row {row.id}: {row.state}"
        for key, n_accepted in by_key.items():
            mine = [row for row in rows if row.key == key and row.job_id is not None]
            ended = [row for row in mine if row.state in (State.FAILED, State.CANCELLED)]
            assert n_accepted == len(mine)
            assert n_accepted - len(ended) == 1, f"{n_accepted} accepted, {len(ended)} failed"


def _check_numbers(batch: CircuitBatch, found: np.ndarray, folder: Path) -> None:
    exact = by_hand(batch)
    if batch.shots is None:
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-9)
        return
    assert (found.sum(axis=1) == batch.shots).all()
    # The same request gives the same counts on a machine that nothing happens to.
    calm = FakeRemote(folder / "calm", max_programs=2)
    expected = []
    for request in calm.prepare(batch):
        expected.append(calm.read(request, calm.fetch(calm.submit(request, "calm"))))
    np.testing.assert_array_equal(found, np.concatenate(expected))
    spread = np.sqrt(batch.shots * exact * (1 - exact))
    assert (np.abs(found - batch.shots * exact) <= 6 * spread + 1).all()


def _child(case: Case, troubles: Troubles, resolves: bool) -> int:
    """Do the work of a scenario, as the process of a user would."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ShakyStore.troubles = ShakyRemote.troubles = troubles
    try:
        journal = case.open()
        journal.store.__class__ = ShakyStore
        remote = case.scenario.remote(case.folder)
        remote.__class__ = ShakyRemote
        if resolves:
            truth = FakeRemote(case.folder, can_find=True)
            resume(journal, lambda name: remote, lambda row: _person(truth, row), sleep=no_sleep)
        runner = Runner(remote, journal, sleep=no_sleep, first_poll_seconds=0)
        results = {f"batch{i}": runner.run(batch) for i, batch in enumerate(case.scenario.work())}
        np.savez(case.folder / "results.npz", **results)
    except UncertainJobError:
        return UNSURE
    except (RemoteError, JobsError):
        return STOPPED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def _person(truth: FakeRemote, row: Row) -> Decision:
    """Look the submission up at the provider, as a person would."""
    job_id = truth.find(row.tag)
    return SendAgain() if job_id is None else WasSent(job_id)


def main(n_scenarios: int, seed: int) -> None:
    """Run scenarios and print the faults that struck, by kind."""
    faults: Counter[str] = Counter()
    for number in range(n_scenarios):
        folder = Path(tempfile.mkdtemp(prefix="qpeft-faults-"))
        case = Case(draw(1000 * seed + number), folder)
        try:
            case.play()
        except BaseException:
            print(f"scenario {case.scenario}", file=sys.stderr)
            raise
        finally:
            shutil.rmtree(folder)
        faults.update(case.faults)
        faults["(left uncertain, and reported)"] += case.n_unsure
    print(json.dumps(dict(sorted(faults.items()))))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
