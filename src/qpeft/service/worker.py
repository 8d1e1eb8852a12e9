"""Runs the tasks of the queue on the emulated chips, one after the other, in a thread of its own."""

import signal
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

from qpeft.chips.amendment import amended_probabilities
from qpeft.chips.programs import CZ, Program
from qpeft.chips.simulation import run_programs
from qpeft.errors import ConfigError, MissingExtraError
from qpeft.service.cloud import Audit
from qpeft.service.compiling import TaskOptions, compile_programs
from qpeft.service.machines import Machines
from qpeft.service.store import Store, Task, TaskState
from qpeft.service.wire import outcome_text

_IDLE_SECONDS = 0.5
_LAST_SECONDS = 2.0
_MAX_JOINT_BITS = 12


class Worker:
    """Takes due tasks from the queue and keeps their results.

    Args:
        store: The queue.
        machines: The chips.
        audit: Where steps are noted.
        wake: Set when there is something new in the queue.
        queue_delay: Seconds that a task waits before it may run.
    """

    def __init__(
        self,
        store: Store,
        machines: Machines,
        audit: Audit,
        wake: threading.Event,
        queue_delay: float,
    ):
        self._store, self._machines, self._audit = store, machines, audit
        self._wake, self._queue_delay = wake, queue_delay
        self._is_stopping = False
        # A daemon, so that a long simulation does not hold up the end of the process; its task is queued again.
        self._thread = threading.Thread(target=self._work, name="chip", daemon=True)

    def start(self) -> None:
        """Queue again what was interrupted, and begin."""
        self._store.requeue_interrupted()
        self._thread.start()

    def stop(self) -> bool:
        """Begin no further task, and say whether the present one has ended within two seconds."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join(_LAST_SECONDS)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            while not self._is_stopping:
                task = self._store.next_due(before=time.time() - self._queue_delay)
                if task is None:
                    self._wake.wait(_IDLE_SECONDS)
                    self._wake.clear()
                elif self._store.start(task):
                    self._run(task)
        finally:
            if not self._is_stopping:
                # Without this thread (a full disk, say) the queue would stand still and nobody would know.
                signal.raise_signal(signal.SIGTERM)

    def _run(self, task: Task) -> None:
        try:
            result = self._compute(task)
        except (ConfigError, MissingExtraError) as error:
            self._fail(task, str(error))
            return
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError) as error:
            # A defect of the emulator must not hold up the tasks behind this one.
            self._fail(task, f"The emulator failed ({type(error).__name__}: {error}).")
            return
        if self._store.finish(task, result):
            self._audit.note(task, TaskState.FINISHED)

    def _fail(self, task: Task, text: str) -> None:
        if self._store.fail(task, text):
            self._audit.note(task, TaskState.FAILED)

    def _compute(self, task: Task) -> dict[str, Any]:
        """Return the fields of the answer that hold the result."""
        options = TaskOptions.from_json(task.options)
        calibration = self._machines.calibration(task.chip)
        programs = compile_programs(self._store.programs(task), options, calibration)
        seed = (self._store.seed, task.number)
        counts = run_programs(programs, calibration, task.shots, seed)
        if options.is_amended:
            probabilities = [
                amended_probabilities(outcome, _joined(program), calibration)
                for outcome, program in zip(counts, programs, strict=True)
            ]
        else:
            probabilities = [
                {key: count / task.shots for key, count in outcome.items()} for outcome in counts
            ]
        result: dict[str, Any] = {
            "measureQubitSize": [len(program.measured) for program in programs],
            "taskResult": [outcome_text(outcome) for outcome in probabilities],
        }
        if options.has_counts:
            result["probCount"] = [outcome_text(outcome) for outcome in counts]
        return result


def _joined(program: Program) -> Program:
    """Return a program whose outcomes are corrected jointly, where there are not too many of them.

    The correction goes block by block and loses correlations between blocks, so that two qubits that never meet
    would look entangled. It reads nothing of the gates but which qubits they join.
    """
    if len(program.measured) > _MAX_JOINT_BITS:
        return program
    joints = tuple(CZ(first, second) for first, second in pairwise(program.measured))
    return replace(program, gates=(*program.gates, *joints))
