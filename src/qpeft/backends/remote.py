"""What stands behind a job interface: a machine, a cloud or a simulator that behaves like one.

    CircuitBatch  --prepare-->  JobRequest, JobRequest, ...  --submit-->  job id
    job id  --status, fetch-->  raw result (JSON)  --read-->  distributions (n_circuits, 2^n)

A `Remote` translates and nothing more: `qpeft.jobs` decides when to submit, records it and never does it twice.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from qpeft.circuits import Circuit, Gate, Input, Weight
from qpeft.errors import ConfigError

if TYPE_CHECKING:
    from qpeft.chips.calibration import Calibration

Distributions = np.ndarray
"""(n_circuits, 2^n_qubits) float64: counts, or probabilities where a result is exact. Index b is the basis state
with qubit 0 as its leftmost (most significant) bit."""


@dataclass(frozen=True)
class Limits:
    """What a remote takes and how it behaves.

    Args:
        max_qubits: Qubits of the largest circuit.
        max_programs: Programs in one job.
        max_shots: Shots of one program; None where there is no limit.
        has_exact_results: `shots=None` is possible and gives exact probabilities.
        is_repeatable: Submitting the same request twice costs nobody anything (a simulator of this machine).
        can_find: `find` tells whether a submission with a tag has arrived.
    """

    max_qubits: int
    max_programs: int
    max_shots: int | None = None
    has_exact_results: bool = False
    is_repeatable: bool = False
    can_find: bool = False


@dataclass(frozen=True, eq=False)
class CircuitBatch:
    """Circuits of one shape, each with its own angles.

    Args:
        circuit: The template.
        angles: (n_circuits, n_inputs + n_weights) float64, radians: the inputs' columns, then the weights'.
        shots: Shots of each circuit; None for exact probabilities.

    Raises:
        ConfigError: Shapes do not fit, an angle is not finite, or shots is not positive.
    """

    circuit: Circuit
    angles: np.ndarray
    shots: int | None

    def __post_init__(self) -> None:
        n_angles = self.circuit.n_inputs + self.circuit.n_weights
        if self.angles.ndim != 2 or self.angles.shape[1] != n_angles:
            raise ConfigError(
                f"Circuit '{self.circuit.name}' has {n_angles} angles; got a batch of shape "
                f"{self.angles.shape}, which must be (n_circuits, {n_angles})."
            )
        if not np.isfinite(self.angles).all():
            row = int(np.argwhere(~np.isfinite(self.angles))[0][0])
            raise ConfigError(
                f"Circuit {row} of a batch of '{self.circuit.name}' has an angle that is not finite. "
                f"Has the training diverged? Nothing was sent."
            )
        if self.shots is not None and self.shots < 1:
            raise ConfigError(f"shots must be at least 1; got {self.shots}.")

    def __len__(self) -> int:
        return len(self.angles)


@dataclass(frozen=True)
class JobRequest:
    """One job, ready to be sent.

    Args:
        payload: All that the result depends on, as JSON data; it is what the remote submits.
        n_circuits: Circuits in it: the next ones of the batch, in order.
        n_programs: Programs that the chip runs, each `shots` times.
        shots: Shots of each program; None for exact probabilities.
    """

    payload: Mapping[str, Any]
    n_circuits: int
    n_programs: int
    shots: int | None

    @cached_property
    def text(self) -> str:
        """The payload as canonical JSON."""
        return json.dumps(self.payload, sort_keys=True, separators=(",", ":"))

    @cached_property
    def key(self) -> str:
        """The content hash (SHA-256, hexadecimal) that identifies the request."""
        return hashlib.sha256(f"{self.shots}\n{self.text}".encode()).hexdigest()


class JobState(StrEnum):
    """Where a job stands at the remote."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether it stays as it is."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class JobStatus:
    """What a remote says of a job.

    Args:
        state: Where it stands.
        message: The remote's own words, for example why it failed.
        position: Place in the queue, 0 for the next; None where it is not told.
    """

    state: JobState
    message: str = ""
    position: int | None = None


@dataclass(frozen=True)
class Price:
    """What a remote charges and how long it takes, as far as is known; None where it is not.

    Args:
        seconds_per_shot: Run time of one shot.
        seconds_per_job: Overhead of a job, queue included.
        cost_per_shot: In `currency`.
        cost_per_job: In `currency`.
        currency: For example "CNY".
        source: Where the numbers are from.
    """

    seconds_per_shot: float | None = None
    seconds_per_job: float | None = None
    cost_per_shot: float | None = None
    cost_per_job: float | None = None
    currency: str = ""
    source: str = "not known"


@runtime_checkable
class Remote(Protocol):
    """Translates between our words and one provider's.

    Every method may raise, from `qpeft.errors`: `NotSentError` (a transient failure; the request certainly has not
    arrived), `ConnectionLostError` (a transient failure; it may have), `RemoteError` (the provider refused, or
    there is no key: trying again does not help).
    """

    name: str
    limits: Limits
    price: Price

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        """Compile, pack and cut a batch into jobs within the limits; deterministic, nothing is sent.

        Raises:
            ConfigError: The batch does not fit the remote.
        """
        ...

    def submit(self, request: JobRequest, tag: str) -> str:
        """Send a job and return the provider's id of it.

        Args:
            request: From `prepare`, perhaps of an earlier process.
            tag: A name of this submission, by which `find` knows it again.
        """
        ...

    def find(self, tag: str) -> str | None:
        """Return the id of the submission with this tag, or None if it has not arrived.

        Only where `limits.can_find`.
        """
        ...

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands; works for jobs of earlier processes too."""
        ...

    def fetch(self, job_id: str) -> Any:
        """Return the raw result of a finished job as JSON data, uninterpreted."""
        ...

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        """Interpret a raw result.

        Returns:
            (request.n_circuits, 2^n_qubits): what sums to request.shots (corrected counts need not be whole), or
            probabilities where shots is None.

        Raises:
            CorruptResultError: Circuits, shots or keys do not add up.
        """
        ...

    def cancel(self, job_id: str) -> None:
        """Ask the remote not to run a job."""
        ...

    def calibration(self) -> "Calibration | None":
        """Return the chip's present calibration, or None where there is none."""
        ...


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """Return an array as JSON data, bit for bit (little-endian float64, base64)."""
    data = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(data.shape), "float64": base64.b64encode(data.tobytes()).decode("ascii")}


def decode_array(data: Mapping[str, Any]) -> np.ndarray:
    """Return the array of `encode_array`."""
    flat = np.frombuffer(base64.b64decode(data["float64"]), dtype="<f8")
    return flat.reshape(data["shape"]).astype(np.float64)


def circuit_to_json(circuit: Circuit) -> dict[str, Any]:
    """Return a circuit as JSON data."""
    gates = [
        [
            g.name,
            list(g.qubits),
            None if g.angle is None else [type(g.angle).__name__, g.angle.index],
        ]
        for g in circuit.gates
    ]
    return {"name": circuit.name, "n_qubits": circuit.n_qubits, "gates": gates}


def circuit_from_json(data: Mapping[str, Any]) -> Circuit:
    """Return the circuit of `circuit_to_json`."""
    kinds: dict[str, type[Input] | type[Weight]] = {"Input": Input, "Weight": Weight}
    gates = tuple(
        Gate(name, tuple(qubits), None if angle is None else kinds[angle[0]](angle[1]))
        for name, qubits, angle in data["gates"]
    )
    return Circuit(data["n_qubits"], gates, data["name"])
