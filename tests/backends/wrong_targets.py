"""A right remote in a few lines, and backends and remotes that are each wrong in one way."""

import dataclasses
import itertools
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qpeft.backends.base import BoundCircuit, Capabilities
from qpeft.backends.conformance_circuits import reference_distributions
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
from qpeft.backends.result_reading import read_counts, read_probabilities
from qpeft.circuits import Circuit, Gate, ZProduct
from qpeft.errors import ConfigError, NotSentError, RemoteError


class ToyRemote:
    """Five circuits a job, numbers from the reference; every job is finished at once."""

    name = "toy"
    price = Price()
    limits = Limits(6, 5, max_shots=10_000, has_exact_results=True, can_find=True)

    def __init__(self) -> None:
        self.generator = np.random.default_rng(7)
        self.jobs: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.numbers = itertools.count()

    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        if batch.circuit.n_qubits > self.limits.max_qubits:
            raise ConfigError("too many qubits")
        if (batch.shots or 0) > 10_000:
            raise ConfigError("too many shots")
        parts = [batch.angles[start : start + 5] for start in range(0, len(batch), 5)]
        circuit = circuit_to_json(batch.circuit)
        return [
            JobRequest(
                {"circuit": circuit, "angles": encode_array(part)},
                len(part),
                len(part),
                batch.shots,
            )
            for part in parts
        ]

    def submit(self, request: JobRequest, tag: str) -> str:
        circuit = circuit_from_json(request.payload["circuit"])
        exact = self.probabilities(circuit, decode_array(request.payload["angles"]))
        job_id = f"toy-{next(self.numbers)}"
        self.tags[tag] = job_id
        if request.shots is None:
            self.jobs[job_id] = {"probabilities": encode_array(exact)}
        else:
            rows = self.draw(exact, request.shots)
            self.jobs[job_id] = {
                "counts": [{str(s): int(row[s]) for s in np.flatnonzero(row)} for row in rows]
            }
        return job_id

    def probabilities(self, circuit: Circuit, angles: np.ndarray) -> np.ndarray:
        exact = reference_distributions(circuit, angles)
        return exact / exact.sum(axis=1, keepdims=True)

    def draw(self, exact: np.ndarray, shots: int) -> np.ndarray:
        return self.generator.multinomial(shots, exact)

    def find(self, tag: str) -> str | None:
        return self.tags.get(tag)

    def status(self, job_id: str) -> JobStatus:
        if job_id not in self.jobs:
            raise RemoteError(f"no job {job_id}")
        return JobStatus(JobState.FINISHED)

    def fetch(self, job_id: str) -> Any:
        self.status(job_id)
        return self.jobs[job_id]

    def read(self, request: JobRequest, raw: Any) -> Distributions:
        n_qubits = request.payload["circuit"]["n_qubits"]
        raw = raw if isinstance(raw, dict) else {}
        if request.shots is None:
            return read_probabilities(raw.get("probabilities"), request.n_circuits, n_qubits)
        return read_counts(raw.get("counts"), request.n_circuits, n_qubits, request.shots, int)

    def cancel(self, job_id: str) -> None:
        self.status(job_id)

    def calibration(self) -> None:
        return None


class TurnedRound(ToyRemote):
    def read(self, request: JobRequest, raw: Any) -> Distributions:
        found = super().read(request, raw)
        n_qubits = request.payload["circuit"]["n_qubits"]
        axes = (0, *range(n_qubits, 0, -1))
        return found.reshape(-1, *[2] * n_qubits).transpose(axes).reshape(found.shape)


class WrongSign(ToyRemote):
    def probabilities(self, circuit: Circuit, angles: np.ndarray) -> np.ndarray:
        return super().probabilities(circuit, -angles)


class TargetFirst(ToyRemote):
    def probabilities(self, circuit: Circuit, angles: np.ndarray) -> np.ndarray:
        return super().probabilities(targets_first(circuit), angles)


class SlightlyNoisy(ToyRemote):
    def probabilities(self, circuit: Circuit, angles: np.ndarray) -> np.ndarray:
        exact = super().probabilities(circuit, angles)
        return 0.9 * exact + 0.1 / exact.shape[1]


class Useless(ToyRemote):
    def probabilities(self, circuit: Circuit, angles: np.ndarray) -> np.ndarray:
        exact = super().probabilities(circuit, angles)
        return 0.2 * exact + 0.8 / exact.shape[1]


class LosesACircuit(ToyRemote):
    def read(self, request: JobRequest, raw: Any) -> Distributions:
        found = super().read(request, raw)
        return found[:-1] if len(found) > 1 else found


class ExchangesTwo(ToyRemote):
    def read(self, request: JobRequest, raw: Any) -> Distributions:
        found = super().read(request, raw)
        return found[[1, 0, *range(2, len(found))]] if len(found) > 1 else found


class JobsInOtherOrder(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        return super().prepare(batch)[::-1]


class OneShotTooMany(ToyRemote):
    def read(self, request: JobRequest, raw: Any) -> Distributions:
        found = super().read(request, raw).copy()
        if request.shots is not None:
            found[0, found[0].argmax()] += 1
        return found


class OtherPayloadEachTime(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        return [
            dataclasses.replace(each, payload={**each.payload, "id": uuid.uuid4().hex})
            for each in super().prepare(batch)
        ]


class RoundsAngles(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        return super().prepare(dataclasses.replace(batch, angles=batch.angles.round(3)))


class ForgetsTheOrder(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        order = np.lexsort(batch.angles.T)
        return super().prepare(dataclasses.replace(batch, angles=batch.angles[order]))


class JobsTooLarge(ToyRemote):
    limits = dataclasses.replace(ToyRemote.limits, max_programs=4)


class PayloadNotJson(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        return [
            dataclasses.replace(each, payload={**each.payload, "shape": (1, 2)})
            for each in super().prepare(batch)
        ]


class SavesItsKey(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        return [
            dataclasses.replace(each, payload={**each.payload, "api_key": "0123"})
            for each in super().prepare(batch)
        ]


class ShowsItsKey(ToyRemote):
    def __repr__(self) -> str:
        return "ShowsItsKey('a-key-from-the-environment')"


class TakesAnySize(ToyRemote):
    def prepare(self, batch: CircuitBatch) -> list[JobRequest]:
        few = dataclasses.replace(batch, shots=min(batch.shots or 1, 10_000))
        return super().prepare(few)


class HasNoExactResults(ToyRemote):
    limits = dataclasses.replace(ToyRemote.limits, has_exact_results=False)


class RoughProbabilities(ToyRemote):
    def submit(self, request: JobRequest, tag: str) -> str:
        if request.shots is not None:
            return super().submit(request, tag)
        job_id = super().submit(dataclasses.replace(request, shots=10_000), tag)
        rows = super().read(dataclasses.replace(request, shots=10_000), self.jobs[job_id])
        self.jobs[job_id] = {"probabilities": encode_array(rows / 10_000)}
        return job_id


class SharesShots(ToyRemote):
    def draw(self, exact: np.ndarray, shots: int) -> np.ndarray:
        return np.stack([np.random.default_rng(1).multinomial(shots, row) for row in exact])


class FillsGaps(ToyRemote):
    def read(self, request: JobRequest, raw: Any) -> Distributions:
        if request.shots is None or not isinstance(raw, dict) or "counts" not in raw:
            return super().read(request, raw)
        n_states = 2 ** request.payload["circuit"]["n_qubits"]
        found = np.zeros((request.n_circuits, n_states))
        for row, counts in enumerate(raw["counts"]):
            for state, count in counts.items():
                found[row, int(state)] = count
        return found


class PromisesUnknownJobs(ToyRemote):
    def status(self, job_id: str) -> JobStatus:
        if job_id not in self.jobs:
            raise NotSentError("try again")
        return super().status(job_id)


class KnowsEveryJob(ToyRemote):
    def status(self, job_id: str) -> JobStatus:
        return JobStatus(JobState.FINISHED)


class FindsNothing(ToyRemote):
    def find(self, tag: str) -> str | None:
        return None


class FindsAnything(ToyRemote):
    def find(self, tag: str) -> str | None:
        return next(reversed(self.jobs))


class FailsEveryJob(ToyRemote):
    def status(self, job_id: str) -> JobStatus:
        super().status(job_id)
        return JobStatus(JobState.FAILED, "the fridge is warm")


class NeverEnds(ToyRemote):
    def status(self, job_id: str) -> JobStatus:
        super().status(job_id)
        return JobStatus(JobState.RUNNING)


class HasABug(ToyRemote):
    def submit(self, request: JobRequest, tag: str) -> str:
        raise ZeroDivisionError("a bug")


class ForgetsBetweenFetches(ToyRemote):
    def fetch(self, job_id: str) -> Any:
        raw = super().fetch(job_id)
        self.jobs[job_id] = {"counts": []}
        return raw


# Each with the claim that it breaks, and where it breaks more than one, the one that names the cause.
WRONG_REMOTES: dict[type[ToyRemote], str] = {
    TurnedRound: "qubit 0 is the leftmost bit",
    WrongSign: "rotations turn the right way",
    TargetFirst: "rotations turn the right way",
    SlightlyNoisy: "every gate",
    LosesACircuit: "runs a job",
    ExchangesTwo: "keeps the order of circuits",
    JobsInOtherOrder: "keeps the order of circuits",
    OneShotTooMany: "counts sum to the shots",
    OtherPayloadEachTime: "prepares the same jobs twice",
    RoundsAngles: "tells different batches apart",
    ForgetsTheOrder: "tells different batches apart",
    JobsTooLarge: "prepares jobs within its limits",
    PayloadNotJson: "payload survives JSON",
    SavesItsKey: "payload holds no secret",
    ShowsItsKey: "payload holds no secret",
    TakesAnySize: "refuses too many shots",
    HasNoExactResults: "refuses exact results that it has not",
    RoughProbabilities: "exact probabilities",
    SharesShots: "equal circuits have their own shots",
    FillsGaps: "refuses damaged results",
    PromisesUnknownJobs: "refuses unknown jobs",
    KnowsEveryJob: "refuses unknown jobs",
    FindsNothing: "finds a job by its tag",
    FindsAnything: "finds a job by its tag",
    FailsEveryJob: "runs a job",
    NeverEnds: "runs a job",
    HasABug: "runs a job",
    ForgetsBetweenFetches: "runs a job",
}


def targets_first(circuit: Circuit) -> Circuit:
    """Return the circuit with controls and targets exchanged."""
    gates = tuple(Gate(gate.name, gate.qubits[::-1], gate.angle) for gate in circuit.gates)
    return Circuit(circuit.n_qubits, gates, circuit.name)


class ToyBackend:
    """The reference, through one place that a subclass may spoil."""

    name = "toy"
    capabilities = Capabilities(is_exact=True, is_differentiable=True, max_qubits=5)

    def bind(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> BoundCircuit:
        if circuit.n_qubits > 5:
            raise ConfigError("too many qubits")
        return self.spoil(circuit, observables, weights)

    def spoil(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> Callable[[Tensor], Tensor]:
        return ReferenceBackend().bind(circuit, observables, weights)

    def bind_each(
        self, circuit: Circuit, observables: Sequence[ZProduct], weights: Tensor
    ) -> list[BoundCircuit]:
        return [self.bind(circuit, observables, entry) for entry in weights]


class ReversedQubits(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        last = circuit.n_qubits - 1
        turned = [ZProduct(tuple(last - q for q in each.qubits)) for each in observables]
        return super().spoil(circuit, turned, weights)


class NegativeAngles(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, -weights)
        return lambda inputs: bound(-inputs)


class ControlLast(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        return super().spoil(targets_first(circuit), observables, weights)


class SumsOfZ(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        each = [ZProduct((q,)) for q in range(circuit.n_qubits)]
        bound = super().spoil(circuit, each, weights)

        def evaluate(inputs: Tensor) -> Tensor:
            values = bound(inputs)
            return torch.stack([values[..., list(o.qubits)].mean(-1) for o in observables], dim=-1)

        return evaluate


class DoubleWeightGradient(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        return super().spoil(circuit, observables, 2 * weights - weights.detach())


class NoInputGradient(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: bound(inputs.detach())


class AlwaysSinglePrecision(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: bound(inputs).float()


class AnySize(ToyBackend):
    def bind(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        return self.spoil(circuit, observables, weights)


class AnyShape(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights[..., : circuit.n_weights])
        return lambda inputs: bound(inputs[..., : circuit.n_inputs])


class MixesBlocks(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: bound(inputs if inputs.ndim < 3 else inputs.flip(0))


class NeedsRows(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: bound(inputs) if len(inputs) else torch.zeros(0)


class Jitters(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: (values := bound(inputs)) + 1e-7 * torch.randn_like(values)


class TooLarge(ToyBackend):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: 1.5 * bound(inputs)


class Damped(ToyBackend):
    """Not wrong: noise that shrinks every value."""

    capabilities = Capabilities(is_exact=False, is_differentiable=True, max_qubits=5)

    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: 0.9 * bound(inputs)


class Bent(Damped):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: torch.tanh(bound(inputs))


class Faint(Damped):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: 0.2 * bound(inputs)


class DampedBackwards(Damped):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        bound = super().spoil(circuit, observables, weights)
        return lambda inputs: -bound(inputs)


class DampedWithWrongGradient(Damped):
    def spoil(self, circuit: Circuit, observables: Any, weights: Tensor) -> Any:
        return super().spoil(circuit, observables, 2 * weights - weights.detach())


WRONG_BACKENDS: dict[type[ToyBackend], str] = {
    ReversedQubits: "qubit 0 is the leftmost bit",
    NegativeAngles: "rotations turn the right way",
    ControlLast: "rotations turn the right way",
    SumsOfZ: "products of Z",
    DoubleWeightGradient: "gradients for weights",
    NoInputGradient: "gradients for inputs",
    AlwaysSinglePrecision: "precision of the result",
    AnySize: "refuses too many qubits",
    AnyShape: "refuses wrong shapes",
    MixesBlocks: "blocks and bind_each",
    NeedsRows: "no rows",
    Jitters: "repeats itself",
    TooLarge: "values are in [-1, 1]",
    Bent: "one upload is one trigonometric polynomial",
    Faint: "rotations turn the right way",
    DampedBackwards: "qubit 0 is the leftmost bit",
    DampedWithWrongGradient: "gradients for weights",
}
