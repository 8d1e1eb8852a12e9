"""What a Qiskit device is to us: gates to compile for, a place to run PUBs, and the job that comes back.

AerMachine      a state-vector or density-matrix simulator, exact probabilities too
FakeMachine     a simulated IBM device in qiskit-ibm-runtime's local testing mode
ObjectMachine   a BackendV2 or a sampler primitive that a Python caller made
IbmMachine      (in `qiskit_ibm`) a device behind IBM's cloud
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qpeft.backends.local_jobs import LocalJobs
from qpeft.backends.remote import JobState, JobStatus, Limits, Price, encode_array
from qpeft.errors import ConfigError, JobFailedError, MissingExtraError, RemoteError, did_you_mean

if TYPE_CHECKING:
    from qpeft.backends.qiskit_circuits import CompiledTemplate

MAX_EXECUTIONS = 10_000_000  # circuits x shots of one job, IBM's published limit for a sampler
MAX_PROGRAMS = 10_000
MAX_QUBITS = 16  # a distribution is dense: half a megabyte a circuit
AER_METHODS = ("automatic", "statevector", "density_matrix", "matrix_product_state")

ON_THIS_MACHINE = Price(cost_per_shot=0.0, cost_per_job=0.0, source="a simulator on this machine")


@dataclass(frozen=True)
class Work:
    """One job, compiled.

    Args:
        template: The circuit in the device's gates.
        angles: (n_circuits, n_angles), radians.
        shots: Of each circuit; None for exact probabilities.
        seed: Seed of its shots; None draws afresh.
        tag: Name of the submission.
    """

    template: "CompiledTemplate"
    angles: np.ndarray
    shots: int | None
    seed: int | None
    tag: str


class Machine(Protocol):
    """A device that runs compiled work."""

    name: str
    limits: Limits
    price: Price

    def backend(self) -> Any:
        """Return the `BackendV2` to compile for; None where any gate will do."""
        ...

    def start(self, work: Work) -> str:
        """Start a job and return its id."""
        ...

    def find(self, tag: str) -> str | None:
        """Return the id of the job with a tag."""
        ...

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands."""
        ...

    def fetch(self, job_id: str) -> Any:
        """Return the raw result of a finished job as JSON data."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask not to run a job."""
        ...


def counts_of(result: Any, shots: int | None = None) -> dict[str, Any]:
    """Return a sampler's result as JSON data: for each circuit its counts by hexadecimal bit string.

    Args:
        result: A `PrimitiveResult` whose PUBs measure into register "c".
        shots: Cut every PUB into runs of this many; None takes each PUB's own shots.
    """
    counts = []
    for pub in result:
        bits = pub.data["c"]
        rows = bits.array.reshape(-1, shots or bits.num_shots, bits.array.shape[-1])
        counts += [_count_row(row) for row in rows]
    return {"counts": counts}


def _count_row(packed: np.ndarray) -> dict[str, int]:
    """Count the rows of (shots, n_bytes), each a big-endian number."""
    powers = 256 ** np.arange(packed.shape[-1] - 1, -1, -1, dtype=np.int64)
    states, counts = np.unique(packed.astype(np.int64) @ powers, return_counts=True)
    return {hex(state): int(n) for state, n in zip(states.tolist(), counts, strict=True)}


@dataclass(frozen=True)
class _LocalJob:
    """A job on this machine: Qiskit's handle of it, and how its result becomes JSON data."""

    handle: Any
    to_raw: Callable[[Any], Any]


class _LocalMachine(ABC):
    """Everything that machines on this computer share; a subclass makes the sampler."""

    price = ON_THIS_MACHINE

    def __init__(self, name: str, limits: Limits, backend: Any):
        self.name, self.limits = name, limits
        self._backend = backend
        self._jobs: LocalJobs[_LocalJob] = LocalJobs(name)

    def backend(self) -> Any:
        return self._backend

    @abstractmethod
    def sampler(self, seed: int | None) -> Any:
        """Return a sampler primitive with this seed."""

    def start(self, work: Work) -> str:
        from qiskit.exceptions import QiskitError

        try:
            job = self._run(work)
        except QiskitError as error:
            raise RemoteError(
                f"Qiskit device '{self.name}' refuses a job: {error.message}"
            ) from error
        return self._jobs.add(job.handle.job_id(), job)

    def _run(self, work: Work) -> _LocalJob:
        shots = work.shots
        if shots is None:
            raise ConfigError(f"Qiskit device '{self.name}' has no exact results; give shots.")
        pubs = work.template.pubs(work.angles, shots, is_joined=True)
        handle = self.sampler(work.seed).run(pubs)
        return _LocalJob(handle, lambda result: counts_of(result, shots))

    def find(self, tag: str) -> str | None:
        raise RemoteError(f"Qiskit device '{self.name}' keeps no tags; it cannot find '{tag}'.")

    def status(self, job_id: str) -> JobStatus:
        return JobStatus(_STATES[self._jobs.get(job_id).handle.status().name])

    def fetch(self, job_id: str) -> Any:
        from qiskit.exceptions import QiskitError

        job = self._jobs.get(job_id)
        try:
            raw = job.to_raw(job.handle.result())
        except QiskitError as error:
            raise JobFailedError(
                f"Job {job_id} of Qiskit device '{self.name}' failed: {error.message}"
            ) from error
        self._jobs.mark_fetched(job_id)
        return raw

    def cancel(self, job_id: str) -> None:
        self._jobs.get(job_id).handle.cancel()


_STATES = {
    "INITIALIZING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "VALIDATING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "DONE": JobState.FINISHED,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}


class AerMachine(_LocalMachine):
    """Qiskit Aer without noise.

    Args:
        method: One of `AER_METHODS`.

    Raises:
        ConfigError: There is no such method.
    """

    def __init__(self, method: str):
        if method not in AER_METHODS:
            raise ConfigError(
                f"Unknown method '{method}' of Qiskit's Aer.{did_you_mean(method, AER_METHODS)}"
            )
        simulator = _import_aer().AerSimulator(method=method)
        name = "aer" if method == "automatic" else f"aer:{method}"
        super().__init__(name, _limits(MAX_QUBITS, has_exact_results=True), simulator)

    def sampler(self, seed: int | None) -> Any:
        """Return Aer's own sampler, which binds all rows in one run."""
        from qiskit_aer.primitives import SamplerV2

        return SamplerV2.from_backend(self._backend, seed=seed)

    def _run(self, work: Work) -> _LocalJob:
        if work.shots is not None:
            return super()._run(work)
        template, n_circuits = work.template, len(work.angles)
        circuit = template.circuit.remove_final_measurements(inplace=False)
        circuit.save_probabilities()
        columns = zip(template.parameters, template.values(work.angles).T, strict=True)
        binds = [{parameter: column.tolist() for parameter, column in columns}]
        # Without a parameter Aer runs the circuit once, whatever the number of rows.
        handle = self._backend.run(circuit, parameter_binds=binds if template.parameters else None)
        n_runs = n_circuits if template.parameters else 1

        def to_raw(result: Any) -> dict[str, Any]:
            rows = np.stack([result.data(row)["probabilities"] for row in range(n_runs)])
            return {
                "probabilities": encode_array(np.broadcast_to(rows, (n_circuits, rows.shape[1])))
            }

        return _LocalJob(handle, to_raw)


class FakeMachine(_LocalMachine):
    """A simulated IBM device with the noise of one of its calibrations.

    Args:
        class_name: A class of `qiskit_ibm_runtime.fake_provider`, for example "FakeManilaV2".

    Raises:
        ConfigError: There is no such device.
    """

    def __init__(self, class_name: str):
        _import_aer()
        provider = _import_runtime_part("fake_provider")
        devices = [name for name, kind in vars(provider).items() if _is_device(name, kind)]
        if class_name not in devices:
            raise ConfigError(
                f"Unknown fake device '{class_name}'.{did_you_mean(class_name, devices)}"
            )
        device = getattr(provider, class_name)()
        n_qubits = min(MAX_QUBITS, device.num_qubits)
        super().__init__(f"fake:{class_name}", _limits(n_qubits), device)

    def sampler(self, seed: int | None) -> Any:
        """Return the runtime's sampler, which simulates the device here."""
        sampler = _import_runtime_part("executor_sampler").Sampler(mode=self._backend)
        sampler.options.simulator.seed_simulator = seed
        # Its default rounds angles to 1e-5 quarter turns, in favour of Clifford circuits.
        sampler.options.simulator.angle_decimals = 14
        return sampler


class ObjectMachine(_LocalMachine):
    """A `BackendV2` or a sampler primitive made by the caller; its jobs live in this process.

    Args:
        device: The object.
        backend: The `BackendV2` to compile for; None leaves the gates as they are.
        is_repeatable: Whether running a job twice costs nobody anything.
    """

    def __init__(self, device: Any, backend: Any, is_repeatable: bool):
        from qiskit.providers import BackendV2

        self._is_backend = isinstance(device, BackendV2)
        self._device = device
        name = device.name if self._is_backend else type(device).__name__
        n_qubits = MAX_QUBITS if backend is None else min(MAX_QUBITS, backend.num_qubits)
        super().__init__(str(name), _limits(n_qubits, is_repeatable=is_repeatable), backend)
        self.price = ON_THIS_MACHINE if is_repeatable else Price()

    def sampler(self, seed: int | None) -> Any:
        """Return the primitive, or Qiskit's sampler around the backend."""
        from qiskit.primitives import BackendSamplerV2

        if not self._is_backend:
            return self._device
        return BackendSamplerV2(backend=self._device, options={"seed_simulator": seed})


def _is_device(name: str, kind: Any) -> bool:
    from qiskit.providers import BackendV2

    is_backend = isinstance(kind, type) and issubclass(kind, BackendV2)
    return is_backend and name.startswith("Fake") and name != "FakeBackendV2"


def _limits(
    max_qubits: int, *, has_exact_results: bool = False, is_repeatable: bool = True
) -> Limits:
    return Limits(
        max_qubits=max_qubits,
        max_programs=MAX_PROGRAMS,
        max_shots=MAX_EXECUTIONS,
        has_exact_results=has_exact_results,
        is_repeatable=is_repeatable,
    )


def _import_aer() -> Any:
    try:
        import qiskit_aer
    except ImportError as error:
        raise MissingExtraError("qiskit-aer", "qiskit", "a simulated Qiskit device") from error
    return qiskit_aer


def _import_runtime_part(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"qiskit_ibm_runtime.{name}")
    except ImportError as error:
        raise MissingExtraError("qiskit-ibm-runtime>=0.50", "qiskit", "an IBM device") from error
