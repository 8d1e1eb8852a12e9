"""The conformance kit passes what is right, and each wrong target fails the check that names its fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from wrong_targets import (
    WRONG_BACKENDS,
    WRONG_REMOTES,
    Damped,
    OtherPayloadEachTime,
    SlightlyNoisy,
    ToyBackend,
    ToyRemote,
    TurnedRound,
    Useless,
)

from qpeft.backends import get_backend, get_remote, pennylane_remote, qiskit_remote
from qpeft.backends.conformance import ConformanceReport, Outcome, check_conformance
from qpeft.backends.conformance_checks import run_check
from qpeft.backends.conformance_circuits import (
    certain_circuits,
    count_bounds,
    gate_circuit,
    noise_bound,
    random_angles,
    reference_distributions,
    sampling_bound,
)
from qpeft.backends.conformance_damage import damages, secrets_in
from qpeft.circuits.gates import GATES
from qpeft.errors import ConfigError, MissingExtraError

SMALL = {"shots": 500, "max_circuits": 24, "timeout_seconds": 30.0}


def assert_conforms(report: ConformanceReport) -> None:
    assert report.is_conforming, "\n".join(f"{c.name}: {c.detail}" for c in report.failures)


@pytest.mark.parametrize("name", ["exact", "reference", "noisy"])
def test_every_backend_of_this_process_conforms(name: str) -> None:
    assert_conforms(check_conformance(get_backend(name)))


def test_the_noisy_backend_agrees_with_the_exact_one_where_the_noise_is_scaled_to_zero() -> None:
    exact = get_backend("exact")
    report = check_conformance(
        get_backend("noisy", {"scale": 0.0}),
        expected=lambda circuit, observables, inputs, weights: exact.bind(
            circuit, observables, weights
        )(inputs),
    )
    assert_conforms(report)
    assert outcomes(report)["agrees with what is expected"] is Outcome.PASSED


REMOTES: list[Any] = [
    ("qiskit", {"device": "aer", "seed": 1}, False),
    ("pennylane", {"device": "default.qubit", "seed": 1}, False),
    ("pennylane", {"device": "lightning.qubit", "seed": 1}, False),
    ("pennylane", {"device": "default.mixed", "seed": 1}, False),
    ("emulator", {}, True),
    pytest.param("emulator", {"scale": 0.0}, False, marks=pytest.mark.slow),
    pytest.param("emulator", {"is_amended": True}, True, marks=pytest.mark.slow),
    pytest.param("qiskit", {"device": "aer:density_matrix"}, False, marks=pytest.mark.slow),
    pytest.param("qiskit", {"device": "aer:matrix_product_state"}, False, marks=pytest.mark.slow),
    pytest.param(
        "qiskit", {"device": "fake:FakeManilaV2", "seed": 1}, True, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("name", "options", "is_noisy"), REMOTES)
def test_every_simulated_remote_conforms(
    name: str, options: dict[str, Any], is_noisy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for 8 circuits of 4 qubits, so that the larger batches become several jobs.
    monkeypatch.setattr(qiskit_remote, "MAX_NUMBERS", 2**7)
    monkeypatch.setattr(pennylane_remote, "MAX_NUMBERS", 2**11)
    report = check_conformance(
        get_remote(name, options),
        is_noisy=is_noisy,
        fresh=lambda: get_remote(name, options),
        **SMALL,
    )
    assert_conforms(report)


def test_the_scripted_remote_conforms_where_nothing_is_scripted(tmp_path: Path) -> None:
    options = {"folder": str(tmp_path), "can_find": True, "delay": 1}
    report = check_conformance(
        get_remote("fake_remote", options),
        fresh=lambda: get_remote("fake_remote", options),
        **SMALL,
    )
    assert_conforms(report)


def test_origin_conforms_in_what_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QPEFT_ORIGIN_API_KEY", "a-key-that-must-not-be-seen")

    def make() -> Any:
        return get_remote("origin", {"calibration": "wukong"})

    report = check_conformance(make(), is_noisy=True, sends_jobs=False, fresh=make)
    assert_conforms(report)
    assert outcomes(report)["runs a job"] is Outcome.SKIPPED


@pytest.mark.parametrize("wrong", WRONG_BACKENDS, ids=lambda kind: kind.__name__)
def test_a_wrong_backend_fails_the_check_that_names_its_fault(wrong: type[ToyBackend]) -> None:
    (check,) = check_conformance(wrong(), only=[WRONG_BACKENDS[wrong]]).checks
    assert check.outcome is Outcome.FAILED, check


@pytest.mark.parametrize("wrong", WRONG_REMOTES, ids=lambda kind: kind.__name__)
def test_a_wrong_remote_fails_the_check_that_names_its_fault(
    wrong: type[ToyRemote], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_API_KEY", "a-key-from-the-environment")
    report = check_conformance(
        wrong(), max_circuits=12, timeout_seconds=0.05, only=[WRONG_REMOTES[wrong]]
    )
    (check,) = report.checks
    assert check.outcome is Outcome.FAILED, check


@pytest.mark.parametrize("make", [ToyBackend, Damped, ToyRemote])
def test_what_the_wrong_targets_are_made_of_is_right(make: type) -> None:
    assert_conforms(check_conformance(make()))


def test_noise_is_allowed_where_it_is_said_and_not_as_much_as_one_likes() -> None:
    assert_conforms(check_conformance(SlightlyNoisy(), is_noisy=True, max_circuits=12))
    names = {check.name for check in check_conformance(Useless(), is_noisy=True).failures}
    assert {"every gate", "exact probabilities"} <= names
    names = {check.name for check in check_conformance(TurnedRound(), is_noisy=True).failures}
    assert "qubit 0 is the leftmost bit" in names


def test_a_run_that_sends_nothing_calls_neither_submit_nor_status() -> None:
    class Unreachable(ToyRemote):
        def submit(self, request: Any, tag: str) -> str:
            raise AssertionError("sent")

        def status(self, job_id: str) -> Any:
            raise AssertionError("asked")

    report = check_conformance(Unreachable(), sends_jobs=False)
    assert_conforms(report)
    assert outcomes(report)["every gate"] is Outcome.SKIPPED
    assert outcomes(report)["payload survives JSON"] is Outcome.PASSED


def test_another_object_that_prepares_other_keys_or_reads_otherwise_fails() -> None:
    class Other(TurnedRound):
        def prepare(self, batch: Any) -> Any:
            return super().prepare(batch)[:1]

    found = outcomes(check_conformance(ToyRemote(), fresh=Other, max_circuits=12))
    assert found["a new object reads an old result"] is Outcome.FAILED
    keys = outcomes(check_conformance(ToyRemote(), fresh=OtherPayloadEachTime, max_circuits=12))
    assert keys["prepares the same jobs twice"] is Outcome.FAILED


def test_expected_values_are_checked_where_they_are_given() -> None:
    report = check_conformance(
        Damped(),
        expected=lambda circuit, observables, inputs, weights: torch.zeros(1),
        only=["agrees with what is expected"],
    )
    assert outcomes(report)["agrees with what is expected"] is Outcome.FAILED


def test_a_target_that_is_neither_and_too_few_shots_are_refused() -> None:
    with pytest.raises(ConfigError, match="dict lacks methods"):
        check_conformance({})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 500 shots"):
        check_conformance(ToyRemote(), shots=100)
    with pytest.raises(ConfigError, match="Did you mean 'every gate'"):
        check_conformance(ToyRemote(), only=["every gates"])


def test_rows_are_the_table_of_a_report() -> None:
    report = check_conformance(get_backend("exact"))
    assert report.target == "exact"
    assert len(report.rows()) == len(report.checks) == 17
    assert all(len(row) == 3 and row[1] in ("passed", "skipped") for row in report.rows())


def test_reference_distributions_are_those_of_qiskit() -> None:
    from qiskit.quantum_info import Statevector

    from qpeft.backends.qiskit_circuits import to_qiskit

    for name in GATES:
        circuit = gate_circuit(name)
        angles = random_angles(circuit, 1, seed=3)
        drawn = to_qiskit(circuit).assign_parameters(angles[0])
        drawn.remove_final_measurements()
        # Qiskit's qubit 0 is the lowest bit, so that its qubits reversed are ours.
        wanted = Statevector(drawn).reverse_qargs().probabilities()
        np.testing.assert_allclose(reference_distributions(circuit, angles)[0], wanted, atol=1e-12)


def test_certain_circuits_are_certain_and_change_with_the_sign_of_each_rotation() -> None:
    for circuit, angles, state in certain_circuits():
        row = np.array([angles])
        assert reference_distributions(circuit, row)[0, state] > 1 - 1e-12, circuit.name
    signed = {g.name for circuit, _, _ in certain_circuits() for g in circuit.gates if g.angle}
    assert signed == {name for name, kind in GATES.items() if kind.has_angle}
    for column_of, place in (("RX and RZ turn alike", 1), ("CRZ turns as RX does", 1)):
        circuit, angles, state = next(c for c in certain_circuits() if c[0].name == column_of)
        turned = np.array([angles])
        turned[0, place] *= -1
        assert reference_distributions(circuit, turned)[0, state] < 1e-12


def test_count_bounds_hold_for_fair_draws_and_break_for_a_small_bias() -> None:
    generator = np.random.default_rng(0)
    exact = generator.dirichlet(np.full(16, 0.3), size=50)
    exact[exact < 1e-3] = 0
    exact /= exact.sum(axis=1, keepdims=True)
    counts = generator.multinomial(2000, exact, size=(20, 50))
    assert (np.abs(counts - 2000 * exact) <= count_bounds(exact, 2000)).all()
    biased = 0.85 * exact + 0.15 / 16
    counts = generator.multinomial(2000, biased)
    assert (np.abs(counts - 2000 * exact) > count_bounds(exact, 2000)).any()


def test_sampling_stays_below_its_bound_in_total_variation() -> None:
    generator = np.random.default_rng(1)
    flat = np.full((400, 16), 1 / 16)
    distances = np.abs(generator.multinomial(500, flat) / 500 - flat).sum(axis=1) / 2
    assert distances.max() < sampling_bound(16, 400, 500)


def test_depolarised_circuits_stay_below_the_noise_bound() -> None:
    """Aer with depolarising and read-out errors of exactly the sizes that the bound assumes."""
    from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error

    from qpeft.backends.conformance_circuits import (
        ERROR_PER_CZ,
        ERROR_PER_READOUT,
        ERROR_PER_TURN,
    )

    noise = NoiseModel(basis_gates=["u", "cz"])
    noise.add_all_qubit_quantum_error(depolarizing_error(ERROR_PER_TURN, 1), ["u"])
    noise.add_all_qubit_quantum_error(depolarizing_error(ERROR_PER_CZ, 2), ["cz"])
    flip = ERROR_PER_READOUT
    noise.add_all_qubit_readout_error(ReadoutError([[1 - flip, flip], [flip, 1 - flip]]))
    for name in GATES:
        circuit = gate_circuit(name, 2)
        angles = random_angles(circuit, 1, seed=0)
        noisy = _noisy_distribution(circuit, angles, noise, flip)
        distance = np.abs(noisy - reference_distributions(circuit, angles)[0]).sum() / 2
        assert distance < noise_bound(circuit), name


def _noisy_distribution(circuit: Any, angles: np.ndarray, noise: Any, flip: float) -> np.ndarray:
    from qiskit import transpile
    from qiskit_aer import AerSimulator

    from qpeft.backends.qiskit_circuits import to_qiskit

    drawn = to_qiskit(circuit).assign_parameters(angles[0])
    drawn.remove_final_measurements()
    drawn = transpile(drawn.reverse_bits(), basis_gates=["u", "cz"], optimization_level=2)
    drawn.save_probabilities()
    simulator = AerSimulator(method="density_matrix", noise_model=noise)
    before = simulator.run(drawn, shots=1).result().data()["probabilities"]
    readout = np.array([[1 - flip, flip], [flip, 1 - flip]])
    return np.kron(readout, readout) @ before


def test_every_part_of_a_raw_result_is_damaged_once() -> None:
    raw = {"counts": [{"0": 3, "1": 2}, {"1": 5}], "note": "fine"}
    found = [damaged for _, damaged in damages(raw)]
    assert {"counts": [{"0": 3, "1": 2}], "note": "fine"} in found
    assert {"counts": [{"0": 3, "1": 2}, {"1": 6}], "note": "fine"} in found
    assert {"counts": [{"0": 3}, {"1": 5}], "note": "fine"} in found
    assert raw == {"counts": [{"0": 3, "1": 2}, {"1": 5}], "note": "fine"}
    assert raw not in found


def test_secrets_are_found_by_name_and_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "abcdefgh12345678")
    assert secrets_in('{"x": "abcdefgh12345678"}') == ["the value of SOMEBODYS_TOKEN"]
    assert secrets_in('{"Authorization": ""}') == ["the field 'Authorization'"]
    assert secrets_in('{"angles": 1}') == []


def outcomes(report: ConformanceReport) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in report.checks}


def test_what_needs_an_extra_that_is_not_here_is_skipped_and_named() -> None:
    def check() -> str:
        raise MissingExtraError("qiskit", "qiskit", "A ring of three qubits")

    found = run_check("a claim", check)
    assert found.outcome is Outcome.SKIPPED
    assert "pip install 'qpeft[qiskit]'" in found.detail
