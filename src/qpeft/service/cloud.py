"""What each request does: who may do it, and what the queue says."""

import json
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpeft.errors import ConfigError, MissingExtraError
from qpeft.service import wire
from qpeft.service.compiling import compile_programs
from qpeft.service.keys import KeyRing
from qpeft.service.machines import Machines, best_blocks
from qpeft.service.settings import ServiceSettings
from qpeft.service.store import Store, Task, TaskState
from qpeft.service.wire import RefusalError

_SECONDS_PER_DAY = 86400.0


class Audit:
    """One line of JSON for each step of a task; no key and no program is in it.

    Args:
        path: The file; lines are added at its end.
    """

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()

    def note(self, task: Task, state: TaskState) -> None:
        """Write that a task has come to a state."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "user": task.user,
            "task_id": task.task_id,
            "chip": task.chip,
            "programs": task.n_programs,
            "shots": task.shots,
            "state": state.value,
        }
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Cloud:
    """The requests of known users.

    Args:
        settings: What is offered.
        keys: Who may use it.
        store: The queue.
        machines: The chips.
        audit: Where steps are noted.
        wake: Set when there is something new in the queue.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        keys: KeyRing,
        store: Store,
        machines: Machines,
        audit: Audit,
        wake: threading.Event,
    ):
        self._settings, self._keys, self._store = settings, keys, store
        self._machines, self._audit, self._wake = machines, audit, wake
        self._admission = threading.Lock()

    def user_of(self, authorization: str) -> str:
        """Return who sends a request.

        Raises:
            RefusalError: The key is missing or nobody's.
        """
        key = wire.key_of(authorization)
        user = None if key is None else self._keys.user_of(key)
        if user is None:
            raise RefusalError(wire.BAD_KEY, "The key is not known here. Check your API key.")
        return user

    def resources(self) -> list[dict[str, Any]]:
        """List the machines."""
        return wire.resource_list(self._machines.names)

    def submit(self, user: str, body: bytes) -> dict[str, Any]:
        """Queue a task.

        Raises:
            RefusalError: It cannot run, or the user has too much.
        """
        asked = wire.parse_submission(body, self._settings.max_shots)
        chip = self._machines.named(asked.chip)
        try:
            compile_programs(asked.programs, asked.options, self._machines.calibration(chip))
        except (ConfigError, MissingExtraError) as error:
            raise RefusalError(wire.BAD_REQUEST, str(error)) from error
        with self._admission:  # so that two requests at once do not both take the last place
            self._admit(user, asked.shots * len(asked.programs))
            options = asked.options.to_json()
            task = self._store.add(user, chip, asked.programs, asked.shots, options)
        self._audit.note(task, TaskState.QUEUED)
        self._wake.set()
        return {"taskId": task.task_id}

    def task_detail(self, user: str, body: bytes) -> dict[str, Any]:
        """Say where a task stands, with its result when it is finished.

        Raises:
            RefusalError: The user has no such task.
        """
        data = wire.parse_object(body)
        task = self._task(user, data)
        is_due = time.time() - task.created >= self._settings.queue_delay
        result = self._store.result(task) if task.state is TaskState.FINISHED else None
        answer = wire.task_answer(task, result, is_due)
        if "qprog" in (data.get("keys") or []):
            answer["qprog"] = self._store.programs(task)
        return answer

    def cancel(self, user: str, body: bytes) -> None:
        """Cancel a task.

        Raises:
            RefusalError: The user has no such task, or it is at its end.
        """
        task = self._task(user, wire.parse_object(body))
        if not self._store.cancel(task):
            raise RefusalError(
                wire.BAD_REQUEST, f"Task {task.task_id} is at its end and cannot be cancelled."
            )
        self._audit.note(task, TaskState.CANCELLED)

    def chip_info(self, user: str, body: bytes) -> dict[str, Any]:
        """Describe a chip as it is now."""
        wire_id = wire.text_field(wire.parse_object(body), "ChipID")
        return wire.chip_answer(self._machines.calibration(self._machines.named(wire_id)), wire_id)

    def best_blocks(self, user: str, body: bytes) -> dict[str, Any]:
        """Propose places on a chip; the label is given back and has no meaning here."""
        data = wire.parse_object(body)
        wire_id = wire.text_field(data, "chipId")
        calibration = self._machines.calibration(self._machines.named(wire_id))
        n_qubits = wire.count_field(data, "qubitNum", calibration.n_qubits)
        n_blocks = wire.count_field(data, "qubitBlockNum", calibration.n_qubits)
        return {
            "ChipID": wire_id,
            "QubitNum": n_qubits,
            "Label": data.get("label", 1),
            "QubitBlockNum": n_blocks,
            "QubitBlocks": best_blocks(calibration, n_qubits, n_blocks),
        }

    def _task(self, user: str, data: Any) -> Task:
        task_id = wire.text_field(data, "taskId")
        task = self._store.find(user, task_id)
        if task is None:
            raise RefusalError(wire.UNKNOWN, f"There is no task '{task_id[:64]}' of yours here.")
        return task

    def _admit(self, user: str, shots: int) -> None:
        limits = self._keys.limits_of(user, self._settings.limits)
        if self._store.n_open(user) >= limits.max_open_tasks:
            raise RefusalError(
                wire.TOO_MUCH,
                f"You have {limits.max_open_tasks} open tasks, which is your limit. Wait until one ends.",
            )
        used = self._store.shots_since(user, time.time() - _SECONDS_PER_DAY)
        if used + shots > limits.max_shots_a_day:
            raise RefusalError(
                wire.TOO_MUCH,
                f"This task has {shots} shots; you have used {used} of {limits.max_shots_a_day} "
                f"within 24 hours. Wait, or use fewer shots.",
            )
