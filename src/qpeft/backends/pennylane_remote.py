"""PennyLane as a remote: any of its devices by name, or a device that a Python caller made.

A batch is one execution with broadcast angles; PennyLane itself splits it where the device knows no broadcasting.
A job runs inside `submit` and its result waits in this process. Wire 0 is qubit 0, the leftmost bit of a key.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from qpeft.backends.local_jobs import LocalJobs
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
from qpeft.backends.result_reading import read_result
from qpeft.circuits import Circuit, Gate, Input
from qpeft.errors import (
    ConfigError,
    MissingExtraError,
    RemoteError,
    did_you_mean,
)

if TYPE_CHECKING:
    from qpeft.chips.calibration import Calibration

MAX_PROGRAMS = 10_000
MAX_NUMBERS = 2**22  # amplitudes that one broadcast execution may hold, 64 MB
MAX_QUBITS = 16  # a distribution is dense: half a megabyte a circuit

# Simulators on this machine, with the numbers that the state of n qubits takes: 2^n or 4^n.
SIMULATORS = {
    "default.qubit": 2,
    "default.mixed": 4,
    "default.tensor": 2,
    "lightning.amdgpu": 2,
    "lightning.gpu": 2,
    "lightning.kokkos": 2,
    "lightning.qubit": 2,
    "lightning.tensor": 2,
    "reference.qubit": 2,
}
SECRET_WORDS = ("token", "secret", "password", "api_key", "apikey", "credential")


class PennylaneRemote:
    """Runs batches on a PennyLane device.

    Args:
        device: The short name of an installed device, or a device object with its wires.
        options: Arguments of the device besides its wires, as JSON data; no keys, which a plug-in reads itself.
        seed: Seed of a simulator's shots; None draws afresh in every job.
        is_repeatable: Whether running a job twice costs nobody anything and exact probabilities can be had; None
            says so of PennyLane's own simulators only.

    Raises:
        ConfigError: There is no such device, or an option cannot work.
        MissingExtraError: PennyLane is not installed.

    Example:
        >>> PennylaneRemote("lightning.qubit").limits.is_repeatable
        True
    """

    def __init__(
        self,
        device: Any = "default.qubit",
        options: Mapping[str, Any] | None = None,
        seed: int | None = None,
        *,
        is_repeatable: bool | None = None,
    ):
        self._qml = _import_pennylane()
        self._options = _checked_options(dict(options or {}))
        self._seed = seed
        self._given = None if isinstance(device, str) else device
        if self._given is None:
            _check_name(self._qml, device)
        else:
            self._check_object(device)
        self._device_name = device if self._given is None else str(device.name)
        is_simulator = self._device_name in SIMULATORS if is_repeatable is None else is_repeatable
        self.name = f"pennylane:{self._device_name}"
        self.limits = Limits(
            max_qubits=self._max_qubits(),
            max_programs=MAX_PROGRAMS,
            has_exact_results=is_simulator,
            is_repeatable=is_simulator,
        )
        self.price = Price()
        if is_simulator:
            self.price = Price(
                cost_per_shot=0.0, cost_per_job=0.0, source="a simulator on this machine"
            )
        self._jobs: LocalJobs[dict[str, Any]] = LocalJobs(self.name)
        self._open = lru_cache(maxsize=4)(self._open_device)

    def __repr__(self) -> str:
        return f"PennylaneRemote({self._device_name!r})"

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        """Cut a batch into executions that fit into memory.

        Raises:
            ConfigError: The circuit is too large, or exact results are not to be had.
        """
        n_qubits = batch.circuit.n_qubits
        if n_qubits > self.limits.max_qubits:
            raise ConfigError(
                f"{self.name} takes at most {self.limits.max_qubits} qubits; circuit '{batch.circuit.name}' has "
                f"{n_qubits}. Use a smaller rank, or groups so that each block fits."
            )
        if batch.shots is None and not self.limits.has_exact_results:
            raise ConfigError(f"{self.name} has no exact results. Give a number of shots.")
        n_most = min(MAX_PROGRAMS, max(1, MAX_NUMBERS // self._state_size(n_qubits)))
        shared = {
            "device": self._device_name,
            "options": self._options,
            "seed": self._seed,
            "circuit": circuit_to_json(batch.circuit),
        }
        parts = [batch.angles[start : start + n_most] for start in range(0, len(batch), n_most)]
        return [
            JobRequest({**shared, "angles": encode_array(part)}, len(part), len(part), batch.shots)
            for part in parts
        ]

    def submit(self, request: JobRequest, tag: str) -> str:
        """Run a job to its end and return its id.

        Raises:
            RemoteError: The device cannot be opened or refuses the circuit.
        """
        ours = (self._device_name, self._options)
        if (request.payload["device"], request.payload["options"]) != ours:
            raise RemoteError(
                f"A job prepared for PennyLane device '{request.payload['device']}' with options "
                f"{request.payload['options']} was given to '{self._device_name}' with {self._options}."
            )
        circuit = circuit_from_json(request.payload["circuit"])
        angles = decode_array(request.payload["angles"])
        device = self._open(circuit.n_qubits, _seed_of(request))
        raw = self._run(device, circuit, angles, request.shots)
        return self._jobs.add(str(uuid.uuid4()), raw)

    def find(self, tag: str) -> str | None:
        """Raise RemoteError: PennyLane keeps no tags."""
        raise RemoteError(f"{self.name} keeps no tags; it cannot find '{tag}'.")

    def status(self, job_id: str) -> JobStatus:
        """Return FINISHED for a job of this process."""
        self._jobs.get(job_id)
        return JobStatus(JobState.FINISHED)

    def fetch(self, job_id: str) -> Any:
        """Return `{"counts": [{"01": n}, ...]}` or `{"probabilities": ...}`, wire 0 leftmost."""
        raw = self._jobs.get(job_id)
        self._jobs.mark_fetched(job_id)
        return raw

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        """Interpret a raw result.

        Returns:
            (request.n_circuits, 2^n_qubits): counts that sum to request.shots, or probabilities.

        Raises:
            CorruptResultError: Circuits, shots or keys do not add up.
        """
        n_qubits = request.payload["circuit"]["n_qubits"]

        def index_of(bits: str) -> int:
            if len(bits) != n_qubits:
                raise ValueError(f"{len(bits)} bits")
            return int(bits, 2)

        return read_result(request, raw, index_of)

    def cancel(self, job_id: str) -> None:
        """Do nothing to a job of this process, which has ended already."""
        self._jobs.get(job_id)

    def calibration(self) -> "Calibration | None":
        """Return None: PennyLane knows of no calibration."""
        return None

    def _run(
        self, device: Any, circuit: Circuit, angles: np.ndarray, shots: int | None
    ) -> dict[str, Any]:
        qml = self._qml

        def play(columns: np.ndarray) -> Any:
            for gate in circuit.gates:
                _apply(qml, gate, columns, circuit.n_inputs)
            wires = range(circuit.n_qubits)
            return qml.probs(wires=wires) if shots is None else qml.counts(wires=wires)

        node = qml.set_shots(qml.QNode(play, device, interface=None, diff_method=None), shots=shots)
        with _translated_errors(self.name):
            if any(gate.angle is not None for gate in circuit.gates):
                rows = _as_rows(node(angles.T))
            else:  # nothing to broadcast
                rows = [row for _ in angles for row in _as_rows(node(angles.T))]
        if shots is None:
            return {"probabilities": encode_array(np.reshape(rows, (len(angles), -1)))}
        return {"counts": [{str(bits): int(n) for bits, n in row.items()} for row in rows]}

    def _open_device(self, n_qubits: int, seed: int | None) -> Any:
        if self._given is not None:
            return self._given
        seeded = {} if seed is None else {"seed": seed}
        try:
            with _translated_errors(self.name):
                return self._qml.device(
                    self._device_name, wires=n_qubits, **self._options, **seeded
                )
        except TypeError as error:
            raise ConfigError(
                f"PennyLane device '{self._device_name}' does not take its options "
                f"{sorted({**self._options, **seeded})}: {error}."
            ) from error

    def _check_object(self, device: Any) -> None:
        if not isinstance(device, self._qml.devices.Device):
            raise ConfigError(
                f"A PennyLane device is a short name or a device object; got {type(device).__name__}."
            )
        if self._options or self._seed is not None:
            raise ConfigError(
                "options and seed belong to a device's name; this device is made already."
            )

    def _max_qubits(self) -> int:
        most = MAX_QUBITS
        while self._state_size(most) > MAX_NUMBERS:
            most -= 1
        if self._given is not None and self._given.wires is not None:
            most = min(most, len(self._given.wires))
        return most

    def _state_size(self, n_qubits: int) -> int:
        return int(SIMULATORS.get(self._device_name, 2) ** n_qubits)


def _import_pennylane() -> Any:
    try:
        import pennylane
    except ImportError as error:
        raise MissingExtraError("pennylane", "pennylane", "backend 'pennylane'") from error
    return pennylane


def _check_name(qml: Any, name: str) -> None:
    if name not in qml.plugin_devices:
        raise ConfigError(
            f"PennyLane has no device '{name}' here; a plug-in may have to be installed."
            f"{did_you_mean(name, qml.plugin_devices)}"
        )


def _checked_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return options as JSON data; they are saved with every job, so no key may be among them."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(options))
    except TypeError as error:
        raise ConfigError(
            f"Options of a PennyLane device must be JSON data: {error}. Make the device yourself and pass it."
        ) from error
    for name in plain:
        if any(word in name.lower() for word in SECRET_WORDS):
            raise ConfigError(
                f"Option '{name}' looks like a key, and options are saved with every job. Set it where the "
                f"plug-in reads it (its environment variable or file)."
            )
        if name in ("wires", "shots", "seed"):
            raise ConfigError(f"Option '{name}' is set by qpeft. Leave it out.")
    return plain


def _seed_of(request: JobRequest) -> int | None:
    """Return a seed of its own for each request, so that two jobs do not share their shot noise."""
    seed = request.payload["seed"]
    if seed is None or request.shots is None:
        return None
    digest = hashlib.sha256(f"{seed} {request.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _apply(qml: Any, gate: Gate, columns: np.ndarray, n_inputs: int) -> None:
    """Queue a gate; columns are (n_angles, n_circuits)."""
    kind = getattr(qml, _GATES[gate.name])
    if gate.angle is None:
        kind(wires=gate.qubits)
    else:
        start = 0 if isinstance(gate.angle, Input) else n_inputs
        kind(columns[start + gate.angle.index], wires=gate.qubits)


def _as_rows(result: Any) -> list[Any]:
    """Return one entry a circuit: without broadcasting a device returns the entry itself."""
    if isinstance(result, Mapping):
        return [result]
    is_one = isinstance(result, np.ndarray) and result.ndim == 1 and result.dtype != object
    return [result] if is_one else list(result)


_GATES = {
    "H": "Hadamard",
    "RX": "RX",
    "RY": "RY",
    "RZ": "RZ",
    "CNOT": "CNOT",
    "CZ": "CZ",
    "CRZ": "CRZ",
    "RZZ": "IsingZZ",
}


@contextmanager
def _translated_errors(name: str) -> Iterator[None]:
    """Turn PennyLane's refusals into RemoteError; what a plug-in raises beyond them stays as it is."""
    from pennylane import exceptions

    refusals = (
        exceptions.AllocationError,
        exceptions.DeviceError,
        exceptions.DecompositionError,
        exceptions.DecompositionUndefinedError,
        exceptions.QuantumFunctionError,
        exceptions.WireError,
        ImportError,  # of what a device needs beyond PennyLane
        NotImplementedError,
    )
    try:
        yield
    except refusals as error:
        raise RemoteError(f"{name} refuses: {' '.join(str(error).split())}") from error
