"""The conformance checks of a `Remote`: what it prepares, what comes back, and what it refuses."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from qpeft.backends.conformance_checks import (
    NotApplicableError,
    require,
    require_raises,
)
from qpeft.backends.conformance_circuits import (
    basis_angles,
    basis_circuit,
    certain_circuits,
    count_bounds,
    gate_circuit,
    noise_bound,
    random_angles,
    reference_distributions,
    sampling_bound,
)
from qpeft.backends.conformance_damage import damages, secrets_in
from qpeft.backends.conformance_jobs import Job, Jobs, reloaded
from qpeft.backends.remote import CircuitBatch, Remote
from qpeft.circuits import ANSATZE, Circuit, Gate, Weight, build_ansatz
from qpeft.circuits.gates import GATES
from qpeft.errors import ConfigError, CorruptResultError, RemoteError, TransientError


def remote_claims(
    target: Remote,
    *,
    shots: int,
    seed: int,
    is_noisy: bool,
    sends_jobs: bool,
    max_circuits: int,
    timeout_seconds: float,
    fresh: Callable[[], Remote] | None,
) -> dict[str, Callable[[], str]]:
    """Return the claims about a remote, each with the check of it; arguments as in `check_conformance`."""
    checks = _RemoteChecks(target, shots, seed, is_noisy, max_circuits, timeout_seconds, fresh)

    def if_sending(check: Callable[[], str]) -> Callable[[], str]:
        return check if sends_jobs else _sends_nothing

    return {
        "limits make sense": checks.limits,
        "prepares the same jobs twice": checks.prepares_the_same,
        "tells different batches apart": checks.tells_apart,
        "prepares jobs within its limits": checks.keeps_limits,
        "payload survives JSON": checks.survives_json,
        "payload holds no secret": checks.holds_no_secret,
        "refuses too many qubits": checks.refuses_qubits,
        "refuses too many shots": checks.refuses_shots,
        "refuses exact results that it has not": checks.refuses_exact,
        "runs a job": if_sending(checks.runs_a_job),
        "counts sum to the shots": if_sending(checks.counts_sum),
        "qubit 0 is the leftmost bit": if_sending(checks.bit_order),
        "rotations turn the right way": if_sending(checks.rotation_signs),
        "every gate": if_sending(checks.every_gate),
        "every ansatz, 1 to 4 qubits": if_sending(checks.every_ansatz),
        "keeps the order of circuits": if_sending(checks.keeps_order),
        "equal circuits have their own shots": if_sending(checks.own_shots),
        "exact probabilities": if_sending(checks.exact_probabilities),
        "refuses damaged results": if_sending(checks.refuses_damage),
        "refuses unknown jobs": if_sending(checks.refuses_unknown),
        "finds a job by its tag": if_sending(checks.finds_by_tag),
        "a new object reads an old result": if_sending(checks.reads_afresh),
    }


def _sends_nothing() -> str:
    raise NotApplicableError("nothing is sent in this run")


@dataclass
class _RemoteChecks:
    target: Remote
    shots: int
    seed: int
    is_noisy: bool
    max_circuits: int
    timeout_seconds: float
    fresh: Callable[[], Remote] | None

    def __post_init__(self) -> None:
        self.n_most = min(4, self.target.limits.max_qubits)
        self.jobs = Jobs(self.target, self.timeout_seconds)
        circuit = build_ansatz("reupload", min(2, self.n_most), 1)
        self.batch = CircuitBatch(circuit, random_angles(circuit, 5, self.seed), self.shots)

    def limits(self) -> str:
        limits = self.target.limits
        require(limits.max_qubits >= 2, f"max_qubits is {limits.max_qubits}; a ring needs 2.")
        require(limits.max_programs >= 1, f"max_programs is {limits.max_programs}.")
        most = limits.max_shots
        require(most is None or most >= self.shots, f"max_shots is {most}, below {self.shots}.")
        require(bool(self.target.name), "The remote has no name.")
        return f"{limits.max_qubits} qubits, {limits.max_programs} programs, {most or 'any'} shots"

    def prepares_the_same(self) -> str:
        again = CircuitBatch(self.batch.circuit, self.batch.angles.copy(), self.shots)
        first, second = self._keys(self.batch), self._keys(again)
        require(first == second, "Two requests for the same batch have different keys.")
        require(len(set(first)) == len(first), "Two jobs of one batch have the same key.")
        if self.fresh is not None:
            third = [request.key for request in self.fresh().prepare(again)]
            require(first == third, "Another object prepares the same batch with different keys.")
        return f"{len(first)} keys"

    def tells_apart(self) -> str:
        batch, angles = self.batch, self.batch.angles.copy()
        angles[-1, -1] += 1e-6  # chips' wires carry eight decimals
        longer = build_ansatz("reupload", batch.circuit.n_qubits, 2)
        others = {
            "an angle": CircuitBatch(batch.circuit, angles, self.shots),
            "the shots": CircuitBatch(batch.circuit, batch.angles, self.shots - 1),
            "the circuit": CircuitBatch(longer, random_angles(longer, 5, self.seed), self.shots),
            "the order": CircuitBatch(batch.circuit, batch.angles[::-1].copy(), self.shots),
        }
        for what, other in others.items():
            require(
                not set(self._keys(batch)) & set(self._keys(other)),
                f"A batch that differs in {what} has a job with the same key.",
            )
        return ", ".join(others)

    def keeps_limits(self) -> str:
        circuit = build_ansatz("reupload", self.n_most, 1)
        batch = CircuitBatch(
            circuit, random_angles(circuit, self.max_circuits, self.seed), self.shots
        )
        requests = self.target.prepare(batch)
        n_circuits = sum(request.n_circuits for request in requests)
        require(n_circuits == len(batch), f"{len(batch)} circuits became {n_circuits} in jobs.")
        for request in requests:
            require(request.n_circuits >= 1, "A job has no circuits.")
            most = self.target.limits.max_programs
            require(1 <= request.n_programs <= most, f"A job has {request.n_programs} programs.")
            require(request.shots == self.shots, f"A job has {request.shots} shots.")
        n_programs = sum(request.n_programs for request in requests)
        return f"{len(batch)} circuits in {n_programs} programs, {len(requests)} jobs"

    def survives_json(self) -> str:
        for request in self.target.prepare(self.batch):
            loaded = json.loads(request.text)
            require(loaded == request.payload, "A payload is another after JSON.")
            require(reloaded(request).key == request.key, "A key is another after JSON.")
        return f"{sum(len(r.text) for r in self.target.prepare(self.batch))} characters"

    def holds_no_secret(self) -> str:
        texts = [request.text for request in self.target.prepare(self.batch)]
        texts += [repr(self.target), self.target.name]
        found = [name for text in texts for name in secrets_in(text)]
        require(not found, f"A payload or the remote's repr shows {', '.join(found)}.")
        return "nothing that looks like a key"

    def refuses_qubits(self) -> str:
        n_qubits = self.target.limits.max_qubits + 1
        gates = tuple(Gate("RY", (qubit,), Weight(0)) for qubit in range(n_qubits))
        batch = CircuitBatch(Circuit(n_qubits, gates, "too large"), np.zeros((1, 1)), self.shots)
        require_raises(ConfigError, f"{n_qubits} qubits", lambda: self.target.prepare(batch))
        return f"{n_qubits} qubits refused"

    def refuses_shots(self) -> str:
        most = self.target.limits.max_shots
        if most is None:
            raise NotApplicableError("it has no limit of shots")
        batch = CircuitBatch(self.batch.circuit, self.batch.angles, most + 1)
        require_raises(ConfigError, f"{most + 1} shots", lambda: self.target.prepare(batch))
        return f"{most + 1} shots refused"

    def refuses_exact(self) -> str:
        if self.target.limits.has_exact_results:
            raise NotApplicableError("it has exact results")
        batch = CircuitBatch(self.batch.circuit, self.batch.angles, None)
        require_raises(ConfigError, "shots=None", lambda: self.target.prepare(batch))
        return "shots=None refused"

    def runs_a_job(self) -> str:
        job = self.first_job
        require(json.loads(json.dumps(job.raw)) == job.raw, "A raw result is another after JSON.")
        again = self.target.fetch(job.job_id)
        require(again == job.raw, "A second fetch of the same job gives another result.")
        found = self.target.read(job.request, job.raw)
        wanted = (job.request.n_circuits, 2**self.batch.circuit.n_qubits)
        require(found.shape == wanted, f"Counts of shape {found.shape}, expected {wanted}.")
        require(found.dtype == np.float64, f"Counts of type {found.dtype}, expected float64.")
        return f"{job.request.n_circuits} circuits"

    def counts_sum(self) -> str:
        counts = self.jobs.run(self.batch)
        require(bool((counts >= 0).all()), "A count is negative.")
        is_whole = bool((counts == counts.round()).all())
        # A provider that corrects read-out errors shares the shots out in parts.
        require(is_whole or self.is_noisy, "A count is not a whole number.")
        sums = counts.sum(axis=1)
        is_right = bool(np.allclose(sums, self.shots, rtol=1e-9, atol=0))
        require(is_right, f"Counts sum to {sums}, expected {self.shots}.")
        kind = "whole" if is_whole else "corrected"
        return f"{self.shots} shots in each of {len(counts)} circuits, {kind} counts"

    def bit_order(self) -> str:
        n_qubits = min(3, self.n_most)
        return self._find_states(n_qubits, 2 ** np.arange(n_qubits))

    def rotation_signs(self) -> str:
        for circuit, angles, state in certain_circuits():
            (counts,) = self.jobs.run(CircuitBatch(circuit, np.array([angles]), self.shots))
            self._require_state(counts, state, f"'{circuit.name}'", 2)
        return f"{len(certain_circuits())} circuits end where they must"

    def every_gate(self) -> str:
        n_qubits = 2 if self.is_noisy else min(3, self.n_most)
        return self._compare([gate_circuit(name, n_qubits) for name in GATES])

    def every_ansatz(self) -> str:
        sizes = range(1, self.n_most + 1)
        return self._compare(
            [build_ansatz(name, n_qubits, 1) for name in ANSATZE for n_qubits in sizes]
        )

    def keeps_order(self) -> str:
        n_circuits = self.max_circuits
        states = (7 * np.arange(n_circuits) + 3) % 2**self.n_most
        return self._find_states(self.n_most, states)

    def own_shots(self) -> str:
        circuit = build_ansatz("reupload", 2, 1)
        angles = np.repeat(random_angles(circuit, 1, self.seed), 8, axis=0)
        counts = self.jobs.run(CircuitBatch(circuit, angles, self.shots))
        n_different = len(np.unique(counts, axis=0))
        require(
            n_different > 1,
            "8 equal circuits have the same counts: their shots are not drawn apart.",
        )
        return f"{n_different} different counts of 8"

    def exact_probabilities(self) -> str:
        if not self.target.limits.has_exact_results:
            raise NotApplicableError("it has no exact results")
        worst = 0.0
        for circuit in [gate_circuit(name, min(3, self.n_most)) for name in GATES]:
            angles = random_angles(circuit, 4, self.seed)
            found = self.jobs.run(CircuitBatch(circuit, angles, None))
            require(bool(np.allclose(found.sum(axis=1), 1)), "Probabilities do not sum to 1.")
            distance = float(np.abs(found - reference_distributions(circuit, angles)).max())
            bound = noise_bound(circuit) if self.is_noisy else 1e-6
            require(distance <= bound, f"'{circuit.name}' differs by {distance:.2e} from exact.")
            worst = max(worst, distance)
        return f"{len(GATES)} circuits within {worst:.1e}"

    def refuses_damage(self) -> str:
        job = self.first_job
        whole = self.target.read(job.request, job.raw)
        n_refused = 0
        for what, damaged in damages(job.raw):
            try:
                found = self.target.read(job.request, damaged)
            except CorruptResultError:
                n_refused += 1
                continue
            # What does not count for the result may be damaged; the result must then be the same.
            require(
                found.shape == whole.shape and bool((found == whole).all()),
                f"A raw result with {what} is read as if it were whole.",
            )
        require(n_refused > 0, "No damage to a raw result is noticed.")
        return f"{n_refused} kinds of damage refused"

    def refuses_unknown(self) -> str:
        for what, ask in (("status", self.target.status), ("fetch", self.target.fetch)):
            name = f"{what} of an unknown job"
            error = require_raises(RemoteError, name, partial(ask, "no-such-job"))
            require(
                not isinstance(error, TransientError),
                f"{name} raises {type(error).__name__}, as if trying again would help.",
            )
        return "status and fetch"

    def finds_by_tag(self) -> str:
        if not self.target.limits.can_find:
            raise NotApplicableError("it cannot find jobs")
        job = self.jobs.submit(self.target.prepare(self.batch)[0])
        found = self.target.find(job.tag)
        self.jobs.finish(job)
        require(found == job.job_id, f"The tag of job {job.job_id} finds {found}.")
        none = self.target.find(f"{job.tag}-never-sent")
        require(none is None, f"A tag that was never sent finds {none}.")
        return "found, and nothing else"

    def reads_afresh(self) -> str:
        if self.fresh is None:
            raise NotApplicableError("no `fresh` was given")
        job = self.first_job
        other = self.fresh()
        raw = json.loads(json.dumps(job.raw))
        same = other.read(reloaded(job.request), raw)
        require(
            bool((same == self.target.read(job.request, job.raw)).all()),
            "A new object reads the same raw result in another way.",
        )
        return "same counts"

    @cached_property
    def first_job(self) -> Job:
        """The first job of the small batch, which several checks look at."""
        return self.jobs.finish(self.jobs.submit(self.target.prepare(self.batch)[0]))

    def _keys(self, batch: CircuitBatch) -> list[str]:
        return [request.key for request in self.target.prepare(batch)]

    def _find_states(self, n_qubits: int, states: np.ndarray) -> str:
        circuit = basis_circuit(n_qubits)
        batch = CircuitBatch(circuit, basis_angles(states, n_qubits), self.shots)
        n_jobs = len(self.target.prepare(batch))
        counts = self.jobs.run(batch)
        require(len(counts) == len(states), f"{len(states)} circuits gave {len(counts)} results.")
        for row, state in enumerate(states):
            self._require_state(counts[row], int(state), f"circuit {row}", n_qubits)
        return f"{len(states)} basis states in {n_jobs} jobs"

    def _require_state(self, counts: np.ndarray, state: int, what: str, n_qubits: int) -> None:
        """Require one certain state: all shots without noise, the most frequent one with it."""
        found = int(counts.argmax())
        is_right = found == state and (self.is_noisy or counts[state] == counts.sum())
        require(
            is_right,
            f"{what}: expected state {state:0{n_qubits}b}, found {found:0{n_qubits}b} in "
            f"{counts[found]:.0f} of {counts.sum():.0f} shots.",
        )

    def _compare(self, circuits: list[Circuit]) -> str:
        worst = 0.0
        for circuit in circuits:
            angles = random_angles(circuit, 4, self.seed)
            counts = self.jobs.run(CircuitBatch(circuit, angles, self.shots))
            wanted = reference_distributions(circuit, angles)
            distance = float(np.abs(counts / self.shots - wanted).sum(axis=1).max() / 2)
            worst = max(worst, distance)
            if self.is_noisy:
                spread = sampling_bound(wanted.shape[1], len(wanted), self.shots)
                bound = noise_bound(circuit) + spread
                require(
                    distance <= bound,
                    f"'{circuit.name}' is {distance:.3f} in total variation from exact, more than {bound:.3f}.",
                )
            else:
                excess = np.abs(counts - self.shots * wanted) / count_bounds(wanted, self.shots)
                require(
                    float(excess.max()) <= 1,
                    f"A count of '{circuit.name}' is {excess.max():.1f} times as far off as shots explain.",
                )
        return f"{len(circuits)} circuits, total variation at most {worst:.3f}"
