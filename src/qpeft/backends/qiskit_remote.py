"""Qiskit as a remote: Aer, simulated IBM devices, any BackendV2 or sampler primitive, and IBM's cloud.

A batch is one PUB, the compiled template with an array of angles. A key of Qiskit's counts is a number whose
lowest bit is classical bit 0, which holds qubit 0; `QiskitRemote.read` is the one place that turns it round.
"""

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from qpeft.backends.qiskit_circuits import CompiledTemplate, compile_template, make_compiler
from qpeft.backends.qiskit_ibm import IbmMachine
from qpeft.backends.qiskit_machines import (
    MAX_EXECUTIONS,
    AerMachine,
    FakeMachine,
    Machine,
    ObjectMachine,
    Work,
)
from qpeft.backends.remote import (
    CircuitBatch,
    Distributions,
    JobRequest,
    JobStatus,
    circuit_from_json,
    circuit_to_json,
    decode_array,
    encode_array,
)
from qpeft.backends.result_reading import read_result
from qpeft.circuits import Circuit
from qpeft.errors import ConfigError, MissingExtraError, RemoteError

if TYPE_CHECKING:
    from qpeft.chips.calibration import Calibration

MAX_NUMBERS = 2**22  # numbers in the distributions of one job, 32 MB


class QiskitRemote:
    """Runs batches on a Qiskit device.

    Args:
        device: "aer" or "aer:<method>" (Aer without noise), "fake:<FakeName>" (a simulated IBM device in the
            runtime's local testing mode), otherwise the name of an IBM device. From Python also a `BackendV2` or a
            sampler primitive (`SamplerV2`).
        optimization_level: 0 to 3, of Qiskit's preset pass managers.
        seed: Makes the compiler and simulators repeat themselves; None fixes the compiler only.
        compile_for: The `BackendV2` to compile for, where `device` is a sampler primitive.
        is_repeatable: Where `device` is an object: running a job twice costs nobody anything (a simulator).

    Raises:
        ConfigError: An option cannot work.
        MissingExtraError: Qiskit, Aer or IBM's client is not installed.

    Example:
        >>> QiskitRemote("aer").limits.has_exact_results
        True
    """

    def __init__(
        self,
        device: Any = "aer",
        optimization_level: int = 1,
        seed: int | None = None,
        *,
        compile_for: Any = None,
        is_repeatable: bool = False,
    ):
        if optimization_level not in range(4):
            raise ConfigError(f"optimization_level is 0, 1, 2 or 3; got {optimization_level}.")
        self._machine = _open(device, seed, compile_for, is_repeatable)
        self.name = f"qiskit:{self._machine.name}"
        self.limits, self.price = self._machine.limits, self._machine.price
        self._optimization_level, self._seed = optimization_level, seed
        self._compile = lru_cache(maxsize=64)(self._compile_once)
        self._compiler = lru_cache(maxsize=2)(self._make_compiler)

    def __repr__(self) -> str:
        return f"QiskitRemote({self._machine.name!r})"

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        """Cut a batch into jobs of at most 10 million executions; compiling waits until one is submitted.

        Raises:
            ConfigError: The circuit or the shots are too many, or exact results are not to be had.
        """
        self._check(batch)
        shots = batch.shots
        n_numbers = max(1, MAX_NUMBERS >> batch.circuit.n_qubits)
        n_most = min(self.limits.max_programs, n_numbers, MAX_EXECUTIONS // (shots or 1))
        shared = {
            "device": self._machine.name,
            "optimization_level": self._optimization_level,
            "seed": self._seed,
            "circuit": circuit_to_json(batch.circuit),
        }
        parts = [batch.angles[start : start + n_most] for start in range(0, len(batch), n_most)]
        return [
            JobRequest({**shared, "angles": encode_array(part)}, len(part), len(part), shots)
            for part in parts
        ]

    def submit(self, request: JobRequest, tag: str) -> str:
        """Compile (once a template) and start a job."""
        self._check_device(request)
        circuit = circuit_from_json(request.payload["circuit"])
        angles = decode_array(request.payload["angles"])
        seed = request.payload["seed"]
        template = self._compile(circuit, request.payload["optimization_level"], seed or 0)
        return self._machine.start(Work(template, angles, request.shots, _seed_of(request), tag))

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag; only on IBM's cloud."""
        return self._machine.find(tag)

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands; of an earlier process only on IBM's cloud."""
        return self._machine.status(job_id)

    def fetch(self, job_id: str) -> Any:
        """Return `{"counts": [{"0x..": n}, ...]}` or `{"probabilities": ...}`, in Qiskit's own bit order."""
        return self._machine.fetch(job_id)

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        """Interpret a raw result.

        Returns:
            (request.n_circuits, 2^n_qubits): counts that sum to request.shots, or probabilities.

        Raises:
            CorruptResultError: Circuits, shots or keys do not add up.
        """
        n_qubits = request.payload["circuit"]["n_qubits"]
        theirs = read_result(request, raw, _number)
        return theirs[:, _bits_turned_round(n_qubits)]

    def cancel(self, job_id: str) -> None:
        """Ask the device not to run a job."""
        self._machine.cancel(job_id)

    def calibration(self) -> "Calibration | None":
        """Return None: our calibration describes a grid, and no device of IBM is one."""
        return None

    def _check(self, batch: CircuitBatch) -> None:
        limits = self.limits
        if batch.circuit.n_qubits > limits.max_qubits:
            raise ConfigError(
                f"{self.name} takes at most {limits.max_qubits} qubits; circuit '{batch.circuit.name}' has "
                f"{batch.circuit.n_qubits}. Use a smaller rank, or groups so that each block fits."
            )
        if batch.shots is None and not limits.has_exact_results:
            raise ConfigError(f"{self.name} has no exact results. Give a number of shots.")
        if batch.shots is not None and batch.shots > MAX_EXECUTIONS:
            raise ConfigError(
                f"{self.name} takes at most {MAX_EXECUTIONS:,} shots; got {batch.shots:,}. Use fewer."
            )

    def _check_device(self, request: JobRequest) -> None:
        device = request.payload["device"]
        if device != self._machine.name:
            raise RemoteError(
                f"A job prepared for Qiskit device '{device}' was given to '{self._machine.name}'. Name the "
                f"device for which it was prepared."
            )

    def _compile_once(self, circuit: Circuit, level: int, seed: int) -> CompiledTemplate:
        from qiskit.exceptions import QiskitError

        compiler = self._compiler(level, seed)
        try:
            return compile_template(circuit, compiler)
        except QiskitError as error:
            raise RemoteError(
                f"Circuit '{circuit.name}' cannot be compiled for {self.name}: {error.message}"
            ) from error

    def _make_compiler(self, level: int, seed: int) -> Any:
        return make_compiler(self._machine.backend(), level, seed)


def _open(device: Any, seed: int | None, compile_for: Any, is_repeatable: bool) -> Machine:
    try:
        from qiskit.primitives import BackendSamplerV2, BaseSamplerV2
        from qiskit.providers import BackendV2
    except ImportError as error:
        raise MissingExtraError("qiskit", "qiskit", "backend 'qiskit'") from error
    if isinstance(device, str):
        return _open_by_name(device)
    if isinstance(device, BackendV2):
        if _is_on_cloud(device):
            return IbmMachine(device.name, device)
        return ObjectMachine(device, device, is_repeatable)
    if not isinstance(device, BaseSamplerV2):
        raise ConfigError(
            f"A Qiskit device is a name, a BackendV2 or a sampler primitive (V2); got {type(device).__name__}."
        )
    if seed is not None:
        raise ConfigError("A sampler primitive has a seed of its own; leave `seed` out.")
    if isinstance(device, BackendSamplerV2):
        return ObjectMachine(device, compile_for or device.backend, is_repeatable)
    return ObjectMachine(device, compile_for, is_repeatable)


def _open_by_name(name: str) -> Machine:
    kind, _, rest = name.partition(":")
    if kind == "aer":
        return AerMachine(rest or "automatic")
    if kind == "fake":
        return FakeMachine(rest)
    if not name or rest:
        raise ConfigError(
            f"Unknown Qiskit device '{name}'. Use aer, aer:<method>, fake:<FakeName> or the name of an IBM device."
        )
    return IbmMachine(name)


def _is_on_cloud(device: Any) -> bool:
    try:
        from qiskit_ibm_runtime import IBMBackend
    except ImportError:
        return False
    return isinstance(device, IBMBackend)


def _seed_of(request: JobRequest) -> int | None:
    """Return a seed of its own for each request, so that two jobs do not share their shot noise."""
    seed = request.payload["seed"]
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed} {request.key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _number(name: str) -> int:
    return int(name, 16)


def _bits_turned_round(n_qubits: int) -> np.ndarray:
    """Return, for each of our basis states, the index at which Qiskit keeps it."""
    states = np.arange(2**n_qubits)
    bits = states[:, None] >> np.arange(n_qubits) & 1  # lowest bit first
    return bits @ (2 ** np.arange(n_qubits - 1, -1, -1))
