"""A remote that fails as it is told to: real numbers of small circuits, and the troubles of a far machine.

    FakeRemote(folder, script=[Fault("drop_after", call=2), Fault("fail")])

What the "machine" knows lies in one file of its folder, so it outlives a process that is killed. It also keeps
count of what it accepted: `witness` tells whether anything was sent twice, and which faults struck.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qpeft.backends.fake_server import FakeServer, Witness
from qpeft.backends.reference_sim import ReferenceBackend
from qpeft.backends.remote import (
    CircuitBatch,
    Distributions,
    JobRequest,
    JobState,
    JobStatus,
    Limits,
    Price,
    circuit_from_json,
    circuit_to_json,
    decode_array,
    encode_array,
)
from qpeft.circuits import Circuit, ZProduct
from qpeft.errors import (
    ConfigError,
    ConnectionLostError,
    CorruptResultError,
    NotSentError,
    RemoteError,
    did_you_mean,
)

if TYPE_CHECKING:
    from qpeft.chips.calibration import Calibration

FAULTS: Mapping[str, tuple[str, str]] = {
    "not_sent": ("submit", "no connection: it certainly does not arrive"),
    "drop_before": ("submit", "the connection drops and the request is lost"),
    "drop_after": ("submit", "the request is accepted and the answer is lost"),
    "late": ("submit", "the connection drops; the request arrives at the next call"),
    "refuse": ("submit", "the machine refuses"),
    "fail": ("job", "the machine fails the job"),
    "cancel": ("job", "somebody cancels the job"),
    "slow": ("job", "the job takes three looks longer, so that later ones finish first"),
    "drop_status": ("status", "the connection drops"),
    "flap": ("status", "a running job is said to be queued"),
    "drop_find": ("find", "the connection drops"),
    "drop_fetch": ("fetch", "the connection drops"),
    "partial": ("fetch", "the last circuit is missing"),
    "duplicate": ("fetch", "one circuit is there twice"),
    "out_of_order": ("fetch", "the circuits come in another order, which is no harm"),
    "bit_flip": ("fetch", "one character of a key is damaged"),
    "wrong_sum": ("fetch", "one value is damaged"),
}
"""Every kind of fault: the call that it strikes ("job" counts accepted jobs), and what happens."""

_RESULT_FAULTS = ("partial", "duplicate", "out_of_order", "bit_flip", "wrong_sum")
_MAX_QUBITS = 8
_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Fault:
    """One scripted failure.

    Args:
        kind: A key of `FAULTS`.
        call: It strikes the call of this number, counted from 1 over the life of the machine.
        is_lasting: A damaged result stays damaged when it is fetched again.

    Raises:
        ConfigError: The kind is unknown, or call is less than 1.
    """

    kind: str
    call: int = 1
    is_lasting: bool = False

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ConfigError(f"Unknown fault '{self.kind}'.{did_you_mean(self.kind, FAULTS)}")
        if self.call < 1:
            raise ConfigError(
                f"Calls are counted from 1; fault '{self.kind}' has call={self.call}."
            )


class FakeRemote:
    """A machine of this folder, for tests: small circuits, one program each.

    Args:
        folder: Where the machine keeps its file; it is made where it is missing.
        script: What fails, and when.
        name: Name of the remote.
        max_programs: Programs in one job; few, so that batches become several jobs.
        max_shots: Most shots of a program.
        delay: Looks at a job before it is finished.
        seed: Of the counts; the same request gives the same counts.
        can_find: `find` works.
        is_repeatable: It may be sent the same request twice.

    Raises:
        ConfigError: max_programs is less than 1 or delay negative.
    """

    price = Price(
        seconds_per_shot=0.0, seconds_per_job=0.0, source="nothing is run and nothing paid"
    )

    def __init__(
        self,
        folder: str | Path,
        script: Sequence[Fault] = (),
        *,
        name: str = "fake_remote",
        max_programs: int = 8,
        max_shots: int | None = 100_000,
        delay: int = 0,
        seed: int = 0,
        can_find: bool = False,
        is_repeatable: bool = False,
    ):
        if max_programs < 1 or delay < 0:
            raise ConfigError(
                f"max_programs must be at least 1 and delay at least 0; got {max_programs} and {delay}."
            )
        self.name = name
        self.limits = Limits(
            max_qubits=_MAX_QUBITS,
            max_programs=max_programs,
            max_shots=max_shots,
            has_exact_results=True,
            is_repeatable=is_repeatable,
            can_find=can_find,
        )
        self._script, self._delay, self._seed = tuple(script), delay, seed
        self._server = FakeServer(Path(folder))

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        """Cut a batch into jobs of at most `max_programs` circuits.

        Raises:
            ConfigError: The circuit has more than 8 qubits, or there are too many shots.
        """
        most = self.limits.max_shots
        if most is not None and batch.shots is not None and batch.shots > most:
            raise ConfigError(
                f"Backend '{self.name}' takes at most {most} shots; got shots={batch.shots}."
            )
        if batch.circuit.n_qubits > _MAX_QUBITS:
            raise ConfigError(
                f"Backend '{self.name}' takes at most {_MAX_QUBITS} qubits; circuit "
                f"'{batch.circuit.name}' has {batch.circuit.n_qubits}. Use a smaller rank."
            )
        template = circuit_to_json(batch.circuit)
        requests = []
        for start in range(0, len(batch), self.limits.max_programs):
            angles = batch.angles[start : start + self.limits.max_programs]
            payload = {"circuit": template, "angles": encode_array(angles), "seed": self._seed}
            requests.append(JobRequest(payload, len(angles), len(angles), batch.shots))
        return requests

    def submit(self, request: JobRequest, tag: str) -> str:
        """Accept a job, unless the script says otherwise."""
        with self._call("submit") as faults:
            if "not_sent" in faults:
                raise NotSentError("no route to the machine (scripted).")
            if "refuse" in faults:
                raise RemoteError("the machine refuses this job (scripted).")
            if "drop_before" in faults:
                raise ConnectionLostError("the connection dropped (scripted).")
            if "late" in faults:
                self._server.delay_arrival(request, tag)
                raise ConnectionLostError("the connection dropped (scripted).")
            job_id = self._accept(request, tag)
            if "drop_after" in faults:
                raise ConnectionLostError("the connection dropped (scripted).")
        return job_id

    def find(self, tag: str) -> str | None:
        """Return the id of the submission with this tag, or None."""
        if not self.limits.can_find:
            raise ConfigError(f"Backend '{self.name}' cannot find submissions (can_find=False).")
        with self._call("find") as faults:
            if "drop_find" in faults:
                raise ConnectionLostError("the connection dropped (scripted).")
            return self._server.find(tag)

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands; every look brings it one step nearer to its end."""
        with self._call("status") as faults:
            if "drop_status" in faults:
                raise ConnectionLostError("the connection dropped (scripted).")
            job = self._server.look(job_id)
            if job.looks_left > 0:
                state = JobState.QUEUED if "flap" in faults else JobState.RUNNING
                return JobStatus(state, position=job.looks_left)
            return JobStatus(JobState(job.state), job.message)

    def fetch(self, job_id: str) -> Any:
        """Return a finished job's raw result, damaged where the script says so."""
        with self._call("fetch") as faults:
            if "drop_fetch" in faults:
                raise ConnectionLostError("the connection dropped (scripted).")
            job = self._server.job(job_id)
            damages = [kind for kind in faults if kind in _RESULT_FAULTS]
            lasting = [kind for kind in damages if faults[kind].is_lasting]
            damages += [
                kind for kind in self._server.damages(job_id, lasting) if kind not in damages
            ]
        request = JobRequest(job.payload, job.n_circuits, job.n_circuits, job.shots)
        circuits = self._circuits_of(request)
        for kind in damages:
            _damage(circuits, kind)
        return {"job": job_id, "circuits": circuits}

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        """Interpret a raw result, whatever the order of its circuits.

        Raises:
            CorruptResultError: Circuits, keys or sums do not add up.
        """
        n_qubits = request.payload["circuit"]["n_qubits"]
        if not isinstance(raw, Mapping) or not isinstance(raw.get("circuits"), list):
            raise CorruptResultError("A result must have a list 'circuits'; fetch it again.")
        found = np.full((request.n_circuits, 2**n_qubits), -1.0)
        for entry in raw["circuits"]:
            _check_entry(entry)
            index = entry["index"]
            if not 0 <= index < request.n_circuits or found[index, 0] >= 0:
                raise CorruptResultError(f"Circuit {index} of the result is not expected there.")
            found[index] = _row_of(entry, n_qubits)
        if (found < 0).any():
            missing = int(np.argwhere(found[:, 0] < 0)[0][0])
            raise CorruptResultError(f"Circuit {missing} of {request.n_circuits} is missing.")
        total = 1.0 if request.shots is None else float(request.shots)
        for index, value in enumerate(found.sum(axis=1)):
            if abs(value - total) > _SUM_TOLERANCE * total:
                raise CorruptResultError(f"Circuit {index} sums to {value:g}; expected {total:g}.")
        return found

    def cancel(self, job_id: str) -> None:
        """Cancel a job that is not at its end."""
        with self._call("cancel"):
            self._server.cancel(job_id)

    def calibration(self) -> "Calibration | None":
        """Return None: nothing here drifts."""
        return None

    def witness(self) -> Witness:
        """Return what the machine has seen: acceptances by tag and by content, and faults by kind."""
        return self._server.witness()

    @contextmanager
    def _call(self, method: str) -> Iterator[dict[str, Fault]]:
        """Count a call in one transaction of the machine's file and say which faults strike it."""
        with self._server.transaction():
            for payload, tag, n_circuits, shots in self._server.arrivals():
                self._accept(JobRequest(payload, n_circuits, n_circuits, shots), tag)
            yield self._faults(method)

    def _accept(self, request: JobRequest, tag: str) -> str:
        faults = self._faults("job")
        state = JobState.FINISHED
        if "fail" in faults:
            state = JobState.FAILED
        elif "cancel" in faults:
            state = JobState.CANCELLED
        looks = self._delay + (3 if "slow" in faults else 0)
        message = "" if state is JobState.FINISHED else f"{state} (scripted)"
        return self._server.accept(request, tag, state, message, looks)

    def _faults(self, method: str) -> dict[str, Fault]:
        number = self._server.count(method)
        struck = {
            fault.kind: fault
            for fault in self._script
            if FAULTS[fault.kind][0] == method and fault.call == number
        }
        self._server.note(struck)
        return struck

    def _circuits_of(self, request: JobRequest) -> list[dict[str, Any]]:
        circuit = circuit_from_json(request.payload["circuit"])
        values = probabilities(circuit, decode_array(request.payload["angles"]))
        if request.shots is not None:
            seed = int.from_bytes(hashlib.sha256(request.key.encode()).digest()[:8], "big")
            values = np.random.default_rng(seed).multinomial(request.shots, values)
        n_qubits = circuit.n_qubits
        return [
            {
                "index": index,
                "keys": [f"{state:0{n_qubits}b}" for state in np.flatnonzero(row)],
                "values": row[np.flatnonzero(row)].tolist(),
            }
            for index, row in enumerate(values)
        ]


def probabilities(circuit: Circuit, angles: np.ndarray) -> Distributions:
    """Return exact probabilities (n_circuits, 2^n_qubits) by the reference backend.

    A probability is the mean over all products of Z of their expectation, with the sign of the basis state.

    Args:
        circuit: The template.
        angles: (n_circuits, n_inputs + n_weights), radians.
    """
    import torch

    n_qubits = circuit.n_qubits
    observables, signs = _all_products(n_qubits)
    rows = torch.from_numpy(np.ascontiguousarray(angles, dtype=np.float64))
    inputs, weights = rows[:, None, : circuit.n_inputs], rows[:, circuit.n_inputs :]
    with torch.no_grad():
        expectations = ReferenceBackend().bind(circuit, observables, weights)(inputs)[:, 0]
    found = np.clip(expectations.numpy() @ signs / 2**n_qubits, 0.0, None)
    return found / found.sum(axis=1, keepdims=True)


@lru_cache(maxsize=16)
def _all_products(n_qubits: int) -> tuple[tuple[ZProduct, ...], np.ndarray]:
    """Return every product of Z, and its sign on every basis state (n_products, 2^n)."""
    sizes = range(n_qubits + 1)
    products = tuple(ZProduct(q) for size in sizes for q in combinations(range(n_qubits), size))
    signs = [[p.sign(state, n_qubits) for state in range(2**n_qubits)] for p in products]
    return products, np.array(signs, dtype=np.float64)


def _check_entry(entry: Any) -> None:
    """Raise CorruptResultError unless an entry has an index, keys and values of the right kinds."""
    is_whole = (
        isinstance(entry, Mapping)
        and isinstance(entry.get("index"), int)
        and isinstance(entry.get("keys"), list)
        and isinstance(entry.get("values"), list)
        and all(isinstance(key, str) for key in entry["keys"])
        and all(isinstance(value, int | float) for value in entry["values"])
    )
    if not is_whole:
        raise CorruptResultError(
            "An entry of the result has no index, keys or values; fetch it again."
        )


def _row_of(entry: Mapping[str, Any], n_qubits: int) -> np.ndarray:
    """Return one circuit's values by basis state, (2^n,)."""
    row = np.zeros(2**n_qubits)
    if len(entry["keys"]) != len(entry["values"]):
        raise CorruptResultError(
            f"Circuit {entry['index']} has a different number of keys and values."
        )
    for key, value in zip(entry["keys"], entry["values"], strict=True):
        if len(key) != n_qubits or set(key) - {"0", "1"}:
            raise CorruptResultError(
                f"Circuit {entry['index']} has a key '{key}' that is no state."
            )
        row[int(key, 2)] += value
    return row


def _damage(circuits: list[dict[str, Any]], kind: str) -> None:
    """Damage a raw result in place, unless an earlier damage has left nothing of it."""
    if not circuits:
        return
    if kind == "partial":
        circuits.pop()
    elif kind == "duplicate":
        circuits.append(json.loads(json.dumps(circuits[0])))
    elif kind == "out_of_order":
        circuits.reverse()
    elif kind == "bit_flip":
        key = circuits[0]["keys"][0]
        circuits[0]["keys"][0] = chr(ord(key[0]) ^ 2) + key[1:]
    else:
        value = circuits[0]["values"][0]
        circuits[0]["values"][0] = value ^ 1 if isinstance(value, int) else value + 0.25
