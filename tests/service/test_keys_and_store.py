"""Keys are known and never kept; the queue on disk moves one way only."""

import json
import threading

import pytest

from qpeft.errors import ConfigError
from qpeft.service import KeyRing, ServiceSettings, run_service
from qpeft.service.keys import add_user
from qpeft.service.machines import Machines
from qpeft.service.settings import UserLimits
from qpeft.service.store import Store, TaskState


def test_a_key_leads_to_its_user_and_no_other_does():
    ring = KeyRing.from_pairs({"ada": "a-long-key", "bob": "another-key"})
    for _ in range(2):  # the second time from memory
        assert ring.user_of("a-long-key") == "ada"
        assert ring.user_of("another-key") == "bob"
        assert ring.user_of("a-long-kez") is None
        assert ring.user_of("") is None
    assert "a-long-key" not in f"{ring!r} {vars(ring)!r}"


def test_a_key_file_holds_hashes_and_limits_only(tmp_path):
    path = tmp_path / "keys.json"
    ada = add_user(path, "ada")
    bob = add_user(path, "bob", UserLimits(max_open_tasks=3))
    assert ada not in path.read_text("utf-8")
    assert path.stat().st_mode & 0o077 == 0
    ring = KeyRing.from_file(path)
    assert (ring.user_of(ada), ring.user_of(bob)) == ("ada", "bob")
    assert ring.limits_of("bob", UserLimits()).max_open_tasks == 3
    assert ring.limits_of("ada", UserLimits(7, 8)) == UserLimits(7, 8)
    newer = add_user(path, "ada")
    ring = KeyRing.from_file(path)
    assert (ring.user_of(ada), ring.user_of(newer)) == (None, "ada")


@pytest.mark.parametrize(
    "text", ["", "ada", "ada=short", "a b=long-enough", "ada=long-enough,ada=long-enough-2"]
)
def test_an_environment_without_good_keys_is_refused_without_showing_them(text, monkeypatch):
    monkeypatch.setenv("QPEFT_EMULATOR_KEYS", text)
    with pytest.raises(ConfigError) as caught:
        KeyRing.from_environment()
    assert "long-enough" not in str(caught.value)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"salt": "zz", "users": {}}', '{"users": {}}'])
def test_a_broken_key_file_is_refused(text, tmp_path):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(ConfigError, match="not of its form"):
        KeyRing.from_file(tmp_path / "keys.json")


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "tasks.sqlite", seed=5)
    yield made
    made.close()


def test_a_task_ends_once(store):
    task = store.add("ada", "chip", ["a", "b"], 10, {"x": 1})
    assert store.start(task)
    assert not store.start(task)
    assert store.cancel(task)
    assert not store.finish(task, {"late": True})
    assert not store.fail(task, "late")
    found = store.find("ada", task.task_id)
    assert (found.state, found.options, found.n_programs) == (TaskState.CANCELLED, {"x": 1}, 2)
    assert store.find("bob", task.task_id) is None


def test_tasks_come_in_order_and_after_their_delay(store):
    tasks = [store.add("ada", "chip", ["a"], 10, {}) for _ in range(3)]
    assert store.next_due(before=tasks[0].created - 1) is None
    assert store.next_due(before=tasks[2].created).number == 1
    store.cancel(tasks[0])
    assert store.next_due(before=tasks[2].created).number == 2


def test_what_was_computing_is_queued_again_and_the_seed_stays(tmp_path):
    first = Store(tmp_path / "tasks.sqlite", seed=5)
    task = first.add("ada", "chip", ["a"], 10, {})
    first.start(task)
    made_at = first.made_at
    first.close()
    second = Store(tmp_path / "tasks.sqlite", seed=6)
    assert second.requeue_interrupted() == 1
    assert second.next_due(before=task.created).task_id == task.task_id
    assert second.programs(task) == ["a"]
    assert (second.seed, second.made_at) == (5, made_at)
    second.close()


def test_task_ids_are_long_and_differ(store):
    ids = {store.add("ada", "chip", ["a"], 1, {}).task_id for _ in range(50)}
    assert len(ids) == 50
    assert all(len(task_id) == 32 for task_id in ids)


def test_the_store_is_safe_in_threads(store):
    def add():
        for _ in range(20):
            store.add("ada", "chip", ["a"], 3, {})

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.n_open("ada") == store.n_open() == 80
    assert store.shots_since("ada", 0) == 240


def test_the_chip_drifts_by_the_hour():
    now = [1000.0]
    machines = Machines(ServiceSettings(), began_at=1000.0, seed=0, clock=lambda: now[0])
    start = machines.calibration("origin_wukong")
    now[0] += 3599
    assert machines.calibration("origin_wukong") == start
    now[0] += 1
    later = machines.calibration("origin_wukong")
    assert json.dumps(later.to_json()) != json.dumps(start.to_json())
    assert machines.named("72") == "origin_wukong"


def test_a_port_that_is_taken_is_told(tmp_path):
    import socket

    ring = KeyRing.from_pairs({"ada": "a-long-key"})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="Use another port"):
            run_service(tmp_path, ring, port=port)
