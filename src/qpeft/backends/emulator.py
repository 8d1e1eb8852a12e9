"""The 72-qubit chip on this machine, behind the words of a cloud: submit, wait, fetch.

    batch  --pack-->  programs of up to 72 qubits  --job, queue-->  noisy counts  --cut apart-->  distributions

Nothing outlives the process, and nothing needs to: the outcomes of a job depend on its content and the emulator's
seed alone, so that a run that was killed and submits again goes on with the numbers that it would have had.
"""

import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpeft.backends.chip_jobs import prepare_chip_jobs, programs_of, read_chip_jobs
from qpeft.backends.local_jobs import LocalJobs
from qpeft.backends.remote import (
    CircuitBatch,
    Distributions,
    JobRequest,
    JobState,
    JobStatus,
    Limits,
    Price,
)
from qpeft.chips.amendment import amended_probabilities
from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.chips.noise import NoiseModel
from qpeft.chips.packing import PackingOptions
from qpeft.chips.simulation import MAX_BLOCK_QUBITS, run_programs
from qpeft.errors import ConfigError, RemoteError

MAX_PROGRAMS = 200
"""Programs in a job, as on Origin's cloud."""
MAX_SHOTS = 100_000
"""Shots of a program. Our own choice: that of Origin's cloud is not documented."""

_KEPT_CHARACTERS = 2**26  # of the payloads of jobs that were fetched; the oldest are dropped


@dataclass
class _Job:
    """A job and when it came; `state` is set where somebody cancelled it."""

    request: JobRequest
    submitted_at: float
    state: JobState | None = None


class EmulatorRemote:
    """Runs jobs of packed programs on a chip that exists as a calibration.

    Args:
        calibration: A packaged name, a file or the calibration itself.
        seed: Of the outcomes and of the drift.
        queue_seconds: From the submission to the result; the job is queued, in the second half it runs.
        drift_hours: The chip is used so many hours after its calibration was taken.
        drift_start: ISO 8601; since then the chip drifts further, in steps of an hour. None: it does not.
        is_amended: Results are corrected for read-out errors.
        is_packed: Circuits share programs.
        has_idle_ring: An idle qubit lies between any two circuits of a program.
        min_cz_fidelity: Couplers below this are not used.
        max_blocks: Most circuits in one program; None for as many as fit.
        scale: Factor on all error rates; 0 leaves only the shots' own noise.
        has_idle_noise: Whether waiting qubits relax.
        clock: Seconds since 1970; tests give their own.

    Raises:
        ConfigError: An option cannot work, or there is no such calibration.

    Example:
        >>> remote = EmulatorRemote()
        >>> remote.limits.max_programs, remote.calibration().n_qubits
        (200, 72)
    """

    name = "emulator"
    price = Price(
        seconds_per_shot=1e-4,
        seconds_per_job=3.4,
        source="what Origin Wukong takes: 100 us a shot, and about 3.4 s for a job of one circuit",
    )

    def __init__(
        self,
        calibration: str | Path | Calibration = "wukong",
        seed: int = 0,
        *,
        queue_seconds: float = 0.0,
        drift_hours: float = 0.0,
        drift_start: str | None = None,
        is_amended: bool = False,
        is_packed: bool = True,
        has_idle_ring: bool = False,
        min_cz_fidelity: float = 0.0,
        max_blocks: int | None = None,
        scale: float = 1.0,
        has_idle_noise: bool = True,
        clock: Callable[[], float] = time.time,
    ):
        _check_options(seed, queue_seconds, drift_hours)
        self._chip = (
            calibration if isinstance(calibration, Calibration) else load_calibration(calibration)
        )
        NoiseModel(self._chip, scale)  # refuses a scale that cannot work
        self._packing = PackingOptions(is_packed, has_idle_ring, min_cz_fidelity, max_blocks)
        self._seed, self._queue_seconds, self._clock = seed, queue_seconds, clock
        self._drift_hours = drift_hours
        self._drift_start = None if drift_start is None else _seconds_of(drift_start)
        self._settings = {
            "seed": seed,
            "is_amended": is_amended,
            "scale": scale,
            "has_idle_noise": has_idle_noise,
            "calibration_sha256": _hash_of(self._chip),
        }
        self.limits = Limits(
            max_qubits=MAX_BLOCK_QUBITS,
            max_programs=MAX_PROGRAMS,
            max_shots=MAX_SHOTS,
            is_repeatable=True,
            can_find=True,
        )
        self._jobs: LocalJobs[_Job] = LocalJobs(self.name, _KEPT_CHARACTERS)
        self._ids: dict[str, str] = {}

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        """Compile, pack and cut a batch into jobs of at most 200 programs, for the chip as it is now.

        Raises:
            ConfigError: More than 8 qubits, no or too many shots, or a circuit that has no place on the chip.
            MissingExtraError: The circuit needs SWAPs and qiskit is not installed.
        """
        chip = self.calibration()
        requests = prepare_chip_jobs(batch, chip, self.limits, self._packing, self._settings)
        for request in requests:
            n_wires = len(request.payload["places"][0])
            if n_wires > MAX_BLOCK_QUBITS:
                raise ConfigError(
                    f"Circuit '{batch.circuit.name}' takes {n_wires} qubits of the chip with its SWAPs; the "
                    f"emulator simulates at most {MAX_BLOCK_QUBITS}. Use a smaller rank, or groups."
                )
        return requests

    def submit(self, request: JobRequest, tag: str) -> str:
        """Put a job into the queue and return its id.

        Raises:
            RemoteError: Too many programs, shots out of range, or a request of an emulator with other options.
        """
        self._check_request(request)
        job_id = f"emulator-{uuid.uuid4().hex}"
        self._ids[tag] = job_id
        return self._jobs.add(job_id, _Job(request, self._clock()))

    def find(self, tag: str) -> str | None:
        """Return the id of the latest submission with this tag, or None if this process has none."""
        job_id = self._ids.get(tag)
        return job_id if job_id is not None and self._jobs.has(job_id) else None

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands.

        Raises:
            RemoteError: There is no such job.
        """
        job = self._jobs.get(job_id)
        if job.state is not None:
            return JobStatus(job.state)
        waited = self._clock() - job.submitted_at
        if waited >= self._queue_seconds:
            return JobStatus(JobState.FINISHED)
        is_running = waited >= self._queue_seconds / 2
        return JobStatus(JobState.RUNNING if is_running else JobState.QUEUED)

    def fetch(self, job_id: str) -> Any:
        """Return {"programs": [...]}: for each program its counts, or probabilities, by hexadecimal key.

        The chip is simulated in this call, from the job's content alone.

        Raises:
            RemoteError: There is no such job, or it has no result.
        """
        state = self.status(job_id).state
        if state is not JobState.FINISHED:
            raise RemoteError(f"Job '{job_id}' of the emulator is {state}; it has no result.")
        request = self._jobs.get(job_id).request
        raw = self._run(request)
        self._jobs.mark_fetched(job_id, len(request.text))
        return raw

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        """Cut the raw result of a job apart, see `chip_jobs.read_chip_jobs`.

        Corrected probabilities are given as that share of the shots: counts that are not whole.
        """
        distributions = read_chip_jobs(request, raw)
        if request.payload["settings"]["is_amended"] and request.shots is not None:
            return distributions * request.shots
        return distributions

    def cancel(self, job_id: str) -> None:
        """Take a job that is not finished out of the queue."""
        if not self.status(job_id).state.is_final:
            self._jobs.get(job_id).state = JobState.CANCELLED

    def calibration(self) -> Calibration:
        """Return the chip as it is now."""
        hours = self._drift_hours
        if self._drift_start is not None:
            hours += max(0.0, (self._clock() - self._drift_start) // 3600)
        # Whole seconds, which is what `taken_at` can tell a later process.
        return self._chip.drifted(round(3600 * hours) / 3600, self._seed)

    def _run(self, request: JobRequest) -> dict[str, Any]:
        payload = request.payload
        chip, settings = self._calibration_of(payload["calibration"]), payload["settings"]
        programs = programs_of(payload)
        if request.shots is None:
            raise AssertionError("a request without shots was accepted")
        counts = run_programs(
            programs,
            chip,
            request.shots,
            (settings["seed"], int(request.key, 16)),
            scale=settings["scale"],
            has_idle_noise=settings["has_idle_noise"],
        )
        if not settings["is_amended"]:
            return {"programs": [{hex(key): n for key, n in each.items()} for each in counts]}
        amended = [
            amended_probabilities(each, program, chip, scale=settings["scale"])
            for each, program in zip(counts, programs, strict=True)
        ]
        return {"programs": [{hex(key): p for key, p in each.items()} for each in amended]}

    def _calibration_of(self, taken_at: str) -> Calibration:
        """Return the snapshot for which a job was prepared, whenever that was."""
        age = datetime.fromisoformat(taken_at) - datetime.fromisoformat(self._chip.taken_at)
        return self._chip.drifted(age.total_seconds() / 3600, self._seed)

    def _check_request(self, request: JobRequest) -> None:
        if request.n_programs > MAX_PROGRAMS:
            raise RemoteError(
                f"The emulator takes at most {MAX_PROGRAMS} programs in a job; got {request.n_programs}."
            )
        if request.shots is None or not 1 <= request.shots <= MAX_SHOTS:
            raise RemoteError(
                f"The emulator measures 1 to {MAX_SHOTS} shots a program; got {request.shots}."
            )
        if request.payload["settings"] != self._settings:
            raise RemoteError(
                f"A job was prepared for an emulator with options {request.payload['settings']}; this one has "
                f"{self._settings}. Open the emulator with the options of the run that prepared it."
            )


def _check_options(seed: int, queue_seconds: float, drift_hours: float) -> None:
    if seed < 0:
        raise ConfigError(f"The emulator's seed is at least 0; got {seed}.")
    for name, value in (("queue_seconds", queue_seconds), ("drift_hours", drift_hours)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"The emulator's {name} is a number of at least 0; got {value}.")


def _seconds_of(text: str) -> float:
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"The emulator's drift_start is ISO 8601, such as 2025-01-01T00:00:00+00:00; got '{text}'."
        ) from error
    return (start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp()


def _hash_of(chip: Calibration) -> str:
    text = json.dumps(chip.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
