"""A remote behind the journal is a backend like any other, and its jobs go where the session says."""

import contextvars
import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from qpeft.backends import get_backend
from qpeft.backends.base import Backend
from qpeft.backends.fake_remote import FakeRemote
from qpeft.circuits import Circuit, Gate, Input, Weight, ZProduct, build_ansatz, z_on_each
from qpeft.errors import BudgetError, ConfigError
from qpeft.jobs import (
    Budget,
    Journal,
    QueuedBackend,
    Runner,
    Session,
    current_session,
    open_backend,
    use_session,
)
from qpeft.layers import Evaluation, QuantumLayer

ASYMMETRIC = Circuit(
    3,
    (
        Gate("RY", (0,), Input(0)),
        Gate("RX", (1,), Weight(0)),
        Gate("CRZ", (0, 2), Weight(1)),
        Gate("CNOT", (1, 2)),
        Gate("RY", (2,), Input(1)),
    ),
    "asymmetric",
)


@pytest.fixture
def backend(tmp_path: Path) -> QueuedBackend:
    remote = FakeRemote(tmp_path / "machine", is_repeatable=True)
    runner = Runner(remote, Journal(tmp_path / "jobs.sqlite"), first_poll_seconds=0.0)
    return QueuedBackend(runner, shots=4000)


def test_expectations_are_those_of_the_circuit_within_shot_noise(backend: QueuedBackend) -> None:
    assert isinstance(backend, Backend)
    observables = (*z_on_each(3), ZProduct((0, 2)))
    torch.manual_seed(0)
    weights = torch.randn(2, ASYMMETRIC.n_weights, dtype=torch.float64)
    inputs = 3 * torch.randn(2, 5, ASYMMETRIC.n_inputs, dtype=torch.float64)
    found = backend.bind(ASYMMETRIC, observables, weights)(inputs)
    exact = get_backend("reference").bind(ASYMMETRIC, observables, weights)(inputs)
    assert found.shape == (2, 5, 4)
    for one, other in zip(found.flatten().tolist(), exact.flatten().tolist(), strict=True):
        # 40 values: five standard errors are passed once in fifty thousand runs.
        assert abs(one - other) <= 5 * math.sqrt(max(0.0, 1 - other**2) / 4000) + 1e-9


def test_no_rows_send_nothing(backend: QueuedBackend) -> None:
    bound = backend.bind(ASYMMETRIC, z_on_each(3), torch.zeros(2, ASYMMETRIC.n_weights))
    assert bound(torch.zeros(2, 0, 2)).shape == (2, 0, 3)
    assert backend.runner.counts.sent.n_jobs == 0


def test_a_copy_of_a_model_keeps_the_way_to_the_machine(backend: QueuedBackend) -> None:
    layer = QuantumLayer(2, evaluation=Evaluation(backend))
    twin = copy.deepcopy(layer)
    assert twin.evaluation.backend is backend
    with torch.no_grad():
        assert torch.equal(twin(torch.ones(1, 2)), layer(torch.ones(1, 2)))


def test_a_layer_trains_through_a_queue_as_it_does_exactly(backend: QueuedBackend) -> None:
    """Shots are many enough that the direction of the gradient is the exact one."""
    torch.manual_seed(0)
    layer = QuantumLayer(3, evaluation=Evaluation(backend))
    inputs = torch.randn(6, 3)
    found = _gradient(layer, inputs)
    n_forward, n_backward = 27, 27 * (2 * 6 + 4 * 6)
    assert backend.runner.counts.sent.n_circuits == n_forward + n_backward
    layer.run_on(Evaluation())
    exact = _gradient(layer, inputs)
    assert torch.cosine_similarity(found, exact, dim=0) > 0.99


def test_the_same_weights_are_measured_once(backend: QueuedBackend) -> None:
    layer = QuantumLayer(2, evaluation=Evaluation(backend))
    first = layer(torch.ones(3, 2))
    sent = backend.runner.counts.sent
    again = layer(torch.ones(3, 2))
    assert torch.equal(first, again)
    assert backend.runner.counts.sent == sent
    assert backend.runner.counts.reused.n_circuits == 9


@pytest.mark.parametrize(
    ("shots", "message"),
    [(None, "needs a number of shots"), (200_000, "at most 100000 shots; got shots=200000")],
)
def test_wrong_shots_are_refused(shots: int | None, message: str, tmp_path: Path) -> None:
    runner = Runner(FakeRemote(tmp_path / "machine"), Journal(tmp_path / "jobs.sqlite"))
    runner.remote.limits = type(runner.remote.limits)(8, 8, 100_000)
    with pytest.raises(ConfigError, match=message):
        QueuedBackend(runner, shots)


def test_a_session_caps_records_and_labels(tmp_path: Path) -> None:
    options = {"folder": str(tmp_path / "machine"), "is_repeatable": True}
    told: list[str] = []
    session = Session(
        tmp_path / "jobs.sqlite",
        Budget(max_circuits=9),
        "run/a",
        lambda *said: told.append(said[2]),
    )
    with use_session(session):
        assert current_session() is session
        layer = QuantumLayer(2, evaluation=Evaluation("fake_remote", options, 100))
        layer(torch.zeros(1, 2))
        (total,) = session.totals()
        assert (total.label, total.sent.n_circuits, total.sent.n_shots) == ("run/a", 9, 900)
        with torch.no_grad():
            layer.angles += 1
        with pytest.raises(BudgetError, match="for 'run/a' has used 9 circuits"):
            layer(torch.zeros(1, 2))
    assert told
    assert current_session() is not session


def test_without_a_session_the_journal_is_in_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QPEFT_JOURNAL", raising=False)

    def measure() -> None:
        options = {"folder": str(tmp_path / "machine")}
        backend = open_backend("fake_remote", options, 10)
        backend.bind(build_ansatz("reupload", 2, 1), z_on_each(2), torch.zeros(8))(
            torch.zeros(1, 2)
        )
        current_session().close()

    contextvars.Context().run(measure)
    assert (tmp_path / "qpeft-jobs.sqlite").exists()


@pytest.mark.parametrize(
    ("name", "options", "shots", "message"),
    [
        ("exact", {}, 100, "shots=100: backend 'exact' computes expectation values without shots"),
        ("exakt", {}, None, "Did you mean 'exact'?"),
        ("fake_remote", {"foldr": "x"}, 10, "no option 'foldr'. Did you mean 'folder'?"),
        ("fake_remote", {"api_key": "x"}, 10, "Keys come from the environment only"),
    ],
)
def test_what_cannot_be_opened_is_named(
    name: str, options: dict[str, str], shots: int | None, message: str, tmp_path: Path
) -> None:
    with use_session(Session(tmp_path / "jobs.sqlite")), pytest.raises(ConfigError) as caught:
        open_backend(name, options, shots)
    assert message in str(caught.value)


def _gradient(layer: QuantumLayer, inputs: Tensor) -> Tensor:
    layer.zero_grad()
    (layer(inputs) * torch.arange(1.0, 4.0)).sum().backward()
    assert layer.angles.grad is not None
    return layer.angles.grad.flatten().clone()


def test_a_simulators_job_that_died_with_its_process_is_sent_again(tmp_path: Path) -> None:
    """The row says submitted, but the machine lived in the process that was killed."""
    from qpeft.backends.emulator import EmulatorRemote
    from qpeft.backends.remote import CircuitBatch
    from qpeft.jobs import State

    batch = CircuitBatch(build_ansatz("reupload", 2, 1), torch.zeros(3, 10).double().numpy(), 50)
    killed = EmulatorRemote()
    killed.status = _raise_interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Runner(killed, Journal(tmp_path / "jobs.sqlite"), first_poll_seconds=0.0).run(batch)
    journal = Journal(tmp_path / "jobs.sqlite")
    assert [row.state for row in journal.rows()] == [State.SUBMITTED]
    found = Runner(EmulatorRemote(), journal, first_poll_seconds=0.0).run(batch)
    assert found.sum() == 150
    assert [row.state for row in journal.rows()] == [State.CANCELLED, State.FINISHED]


def _raise_interrupt(job_id: str) -> None:
    raise KeyboardInterrupt


def test_corrected_read_out_comes_nearer_to_the_circuit(tmp_path: Path) -> None:
    """Amended results are probabilities; without gate noise they are the circuit's within shot noise."""
    layer = QuantumLayer(4)
    inputs = torch.randn(20, 4)
    exact = layer(inputs).detach()
    errors = {}
    for is_amended in (False, True):
        options = {"is_amended": is_amended, "calibration": str(_read_out_only(tmp_path))}
        layer.run_on(Evaluation("emulator", options, 4000))
        with use_session(Session(tmp_path / "jobs.sqlite")), torch.no_grad():
            errors[is_amended] = (layer(inputs) - exact).square().mean().sqrt().item()
    assert errors[True] < 0.5 * errors[False]


def _read_out_only(folder: Path) -> Path:
    """A chip with perfect gates, made from the packaged one."""
    from dataclasses import replace

    from qpeft.chips.calibration import load_calibration

    chip = load_calibration("wukong")
    qubits = {
        number: replace(quality, t1_us=1e6, t2_us=1e6, gate_fidelity=1.0)
        for number, quality in chip.qubits.items()
    }
    couplers = {pair: 1.0 if fidelity else 0.0 for pair, fidelity in chip.couplers.items()}
    path = folder / "read-out-only.json"
    replace(chip, qubits=qubits, couplers=couplers).save(path)
    return path
