"""Origin Wukong and its sisters, through pyqpanda3.

    batch  --pack on the chip's calibration-->  programs of U3 and CZ  --QProg, one submission-->  job id
    job id  --taskDetail-->  counts or amended probabilities  --cut apart-->  distributions

Nothing of this was tried on the live cloud: docs/origin.md says what was seen, and where.
"""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qpeft.backends.chip_jobs import prepare_chip_jobs, programs_of, read_chip_jobs
from qpeft.backends.origin_chip import calibration_of
from qpeft.backends.origin_client import OriginClient, import_origin
from qpeft.backends.remote import (
    CircuitBatch,
    Distributions,
    JobRequest,
    JobState,
    JobStatus,
    Limits,
    Price,
)
from qpeft.chips.calibration import Calibration, load_calibration
from qpeft.chips.packing import PackingOptions
from qpeft.chips.programs import Program
from qpeft.errors import (
    ConfigError,
    JobFailedError,
    NotSentError,
    RemoteError,
    TransientError,
    did_you_mean,
)

MAX_PROGRAMS = 200
"""Programs in a job."""
MAX_SHOTS = 10_000
"""Shots of a program that we send unasked. The provider's own limit is not documented."""

_QUBITS = {"origin_wukong": 72, "WK_C102_400": 102, "WK_C180": 180, "WK_C180_2": 180}
# The client reads 1 to 5. In Origin's older public clients 6 and 9 are steps on a real chip's way, 7 and 8 errors.
_STATES = {
    "1": JobState.QUEUED,
    "2": JobState.RUNNING,
    "3": JobState.FINISHED,
    "4": JobState.FAILED,
    "5": JobState.QUEUED,
    "6": JobState.RUNNING,
    "7": JobState.FAILED,
    "8": JobState.FAILED,
    "9": JobState.RUNNING,
}


class OriginRemote:
    """Runs batches on a chip of Origin's cloud. The key comes from QPEFT_ORIGIN_API_KEY or ORIGIN_API_KEY.

    Args:
        chip: Its name at the provider.
        url: Of another service that speaks the same protocol, such as `qpeft emulator`; None for Origin's.
        is_amended: The provider corrects read-out errors; results are then probabilities.
        has_mapping: The provider may move programs to other qubits than ours.
        has_optimization: The provider may rewrite programs.
        is_packed: Circuits share programs.
        has_idle_ring: An idle qubit lies between any two circuits of a program.
        min_cz_fidelity: Couplers below this are not used.
        max_shots: Most shots of a program.
        calibration: A packaged name or a file with which circuits are placed, so that `prepare` needs no network;
            None asks the provider once. Results are comparable, and found again, as long as it stays the same.

    Raises:
        ConfigError: An option cannot work, or there is no such calibration.

    Example:
        >>> OriginRemote("origin_wukong").limits.max_programs
        200
    """

    price = Price(
        seconds_per_shot=1e-4,
        seconds_per_job=3.3,
        source="a job of one circuit on Origin Wukong: about 3.4 s, 100 us a shot; queue and charge not known",
    )

    def __init__(
        self,
        chip: str = "origin_wukong",
        url: str | None = None,
        is_amended: bool = True,
        has_mapping: bool = False,
        has_optimization: bool = False,
        is_packed: bool = True,
        has_idle_ring: bool = False,
        min_cz_fidelity: float = 0.0,
        max_shots: int = MAX_SHOTS,
        calibration: str | Path | Calibration | None = None,
    ):
        if not chip or max_shots < 1:
            raise ConfigError(
                f"chip must have a name and max_shots be at least 1; got {chip!r}, {max_shots}."
            )
        self._client = OriginClient(url)
        self.name = f"origin:{chip}" if url is None else f"origin:{chip}@{self._client.url}"
        self._chip = chip
        self._packing = PackingOptions(is_packed, has_idle_ring, min_cz_fidelity)
        self._settings = {
            "chip": chip,
            "is_amended": is_amended,
            "has_mapping": has_mapping,
            "has_optimization": has_optimization,
        }
        if isinstance(calibration, str | Path):
            calibration = load_calibration(calibration)
        self._placed_on = calibration
        self._lock = threading.Lock()
        self._is_checked = False
        n_qubits = _QUBITS.get(chip, 72) if calibration is None else calibration.n_qubits
        self.limits = Limits(max_qubits=n_qubits, max_programs=MAX_PROGRAMS, max_shots=max_shots)

    def __repr__(self) -> str:
        return f"OriginRemote({self._chip!r}, url={self._client.url!r})"

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        """Compile, pack and cut a batch into jobs of at most 200 programs.

        Raises:
            ConfigError: The batch does not fit the chip or its limits.
            RemoteError: The calibration must be asked for and cannot be had.
        """
        with self._lock:
            if self._placed_on is None:
                self._placed_on = self.calibration()
            chip = self._placed_on
        return prepare_chip_jobs(batch, chip, self.limits, self._packing, self._settings)

    def submit(self, request: JobRequest, tag: str) -> str:
        """Build the programs and send them once; the tag goes along as the batch id.

        Raises:
            ConfigError: The request is for another chip, or past a limit that the client does not check.
            NotSentError: It has certainly not arrived.
            ConnectionLostError: It may have arrived.
            RemoteError: No key, a wrong key, no such chip, or the provider refuses.
        """
        settings = request.payload["settings"]
        self._check_request(request, settings)
        client = import_origin("qcloud")
        options = client.QCloudOptions(
            amend_flag=1 if settings["is_amended"] else 0,
            mapping=settings["has_mapping"],
            optimization=settings["has_optimization"],
            is_prob_counts=True,
        )
        programs = [build_qprog(program) for program in programs_of(request.payload)]
        self._check_chip()
        assert request.shots is not None
        return self._client.submit(self._chip, programs, request.shots, options, tag)

    def find(self, tag: str) -> str | None:
        """Refuse: no request of the protocol looks a job up by its batch id."""
        raise RemoteError(
            "Origin's cloud cannot be asked for a job by its tag. Look the task list of your account up."
        )

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands; works for jobs of earlier processes too."""
        return _status_of(self._client.task(job_id))

    def fetch(self, job_id: str) -> Any:
        """Return the raw result of a finished job.

        Returns:
            {"programs": [{"0x1f": 12, ...}, ...], "field": the provider's field that they are from,
            "provider": all its other words}. Amended results are probabilities; others are counts where there are
            any. Where the field cannot be read, "programs" is None and "provider" has it.

        Raises:
            JobFailedError: The job has failed.
            RemoteError: It is not finished.
        """
        answer = self._client.task(job_id)
        status = _status_of(answer)
        if status.state is JobState.FAILED:
            raise JobFailedError(f"Job {job_id} failed at Origin: {status.message}")
        if status.state is not JobState.FINISHED:
            raise RemoteError(f"Job {job_id} is {status.state.value}; it has no result yet.")
        return _raw_result(answer)

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        """Interpret a raw result.

        Probabilities whose sum is off by less than half a shot were rounded on their way, and are normalised.

        Returns:
            (request.n_circuits, 2^n_qubits), each row with the sum request.shots; not whole if amended.

        Raises:
            CorruptResultError: Programs, keys or sums do not add up.
        """
        raw = _choose_amended(raw, request.payload["settings"]["is_amended"])
        found = read_chip_jobs(request, _normalised(raw, request.shots))
        return found * (request.shots or 1) / found.sum(axis=1, keepdims=True)

    def cancel(self, job_id: str) -> None:
        """Ask the provider not to run a job.

        Raises:
            RemoteError: It refuses, for example because the job has run.
        """
        if not self._client.cancel(job_id):
            raise RemoteError(f"Origin does not cancel job {job_id}; it may be at its end already.")

    def calibration(self) -> Calibration:
        """Ask the provider for the chip as it is now.

        Raises:
            RemoteError: It cannot be had.
        """
        info = self._client.chip_info(self._chip)
        return calibration_of(info, self._chip, datetime.now(UTC).isoformat(timespec="seconds"))

    def _check_request(self, request: JobRequest, settings: Mapping[str, Any]) -> None:
        """The client sends whatever it is given; all that is known to be wrong stops here."""
        if settings["chip"] != self._chip:
            raise ConfigError(
                f"The job was prepared for chip '{settings['chip']}'; this is '{self._chip}'."
            )
        most = self.limits.max_shots
        if request.shots is None or not 1 <= request.shots <= (most or request.shots):
            raise ConfigError(f"A job has 1 to {most} shots; got {request.shots}.")
        if not 1 <= request.n_programs <= MAX_PROGRAMS:
            raise ConfigError(f"A job has 1 to {MAX_PROGRAMS} programs; got {request.n_programs}.")

    def _check_chip(self) -> None:
        """Refuse a chip that the provider does not list; asked once, before the first submission."""
        if self._is_checked:
            return
        try:
            machines = self._client.machines()
        except TransientError as error:
            raise NotSentError(f"{error} Nothing was sent.") from error
        if self._chip not in machines:
            hint = did_you_mean(self._chip, machines)
            raise RemoteError(f"The cloud lists no chip '{self._chip}'.{hint} Nothing was sent.")
        if not machines[self._chip]:
            raise RemoteError(f"Chip '{self._chip}' is offline. Try later; nothing was sent.")
        self._is_checked = True


def build_qprog(program: Program) -> Any:
    """Return a program as a `pyqpanda3.core.QProg`, gate by gate."""
    core = import_origin("core")
    built = core.QProg()
    for gate in program.gates:
        built << (core.U3(*gate) if len(gate) == 4 else core.CZ(*gate))
    for bit, qubit in enumerate(program.measured):
        built << core.measure(qubit, bit)
    return built


def _status_of(answer: Mapping[str, Any]) -> JobStatus:
    code = str(answer.get("taskState", answer.get("taskStatus", "")))
    said = str(answer.get("errInfo") or answer.get("errorMessage") or "")
    state = _STATES.get(code)
    if state is None:
        # Not a failure: a paid job whose state nobody has a word for may still end well.
        return JobStatus(
            JobState.RUNNING, f"Origin gives the unknown state '{code}'. {said}".strip()
        )
    if state is JobState.FAILED and not said:
        said = f"no reason given (state {code}, errCode {answer.get('errCode')})"
    return JobStatus(state, " ".join(said.split()))


def _raw_result(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Take the counts out of an answer, or the probabilities where there are none."""
    for field in ("probCount", "taskResult"):
        programs = _outcomes(answer.get(field), is_count=field == "probCount")
        if programs:
            rest = {name: value for name, value in answer.items() if name != field}
            return {"programs": programs, "field": field, "provider": rest}
    return {"programs": None, "field": None, "provider": dict(answer)}


def _choose_amended(raw: Any, is_amended: bool) -> Any:
    """Prefer probabilities where the provider has corrected them: its counts may be as they were read."""
    if is_amended and isinstance(raw, Mapping) and raw.get("field") == "probCount":
        provider = raw.get("provider")
        told = provider.get("taskResult") if isinstance(provider, Mapping) else None
        programs = _outcomes(told, is_count=False)
        if programs:
            return {"programs": programs}
    return raw


def _outcomes(texts: Any, *, is_count: bool) -> list[dict[str, float]] | None:
    """Read a list of JSON texts {"key": [...], "value": [...]}; None if it is not one."""
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list):
        return None
    programs = []
    for text in texts:
        try:
            outcome = json.loads(text) if isinstance(text, str) else text
            keys, values = outcome["key"], outcome["value"]
            if len(keys) != len(values) or len(set(keys)) != len(keys):
                return None
            programs.append(
                {
                    str(key): value if is_count else float(value)
                    for key, value in zip(keys, values, strict=True)
                }
            )
        except (ValueError, TypeError, KeyError):
            return None
    return programs


def _normalised(raw: Any, shots: int | None) -> Any:
    """Return probabilities that were rounded on their way with a sum of 1; anything else as it is."""
    programs = raw.get("programs") if isinstance(raw, Mapping) else None
    if not isinstance(programs, list) or shots is None:
        return raw
    return {"programs": [_normalised_program(program, shots) for program in programs]}


def _normalised_program(program: Any, shots: int) -> Any:
    values = list(program.values()) if isinstance(program, Mapping) else []
    if not values or not all(type(value) is float and value >= 0 for value in values):
        return program
    total = sum(values)
    if abs(total - 1) >= 0.5 / shots:  # an outcome is missing, or it is no distribution
        return program
    return {key: value / total for key, value in program.items()}
