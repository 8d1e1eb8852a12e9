"""A device behind IBM's cloud: the real sampler in its local mode, a cloud that is told what to answer."""

import types
from typing import Any

import numpy as np
import pytest
import qiskit_ibm_runtime
import requests
from ibm_cloud_sdk_core import ApiException
from qiskit.exceptions import QiskitError
from qiskit_ibm_runtime import executor_sampler
from qiskit_ibm_runtime.accounts import AccountNotFoundError, InvalidAccountError, management
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.exceptions import IBMNotAuthorizedError, RuntimeJobNotFound
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from urllib3.exceptions import NewConnectionError

from qpeft.backends.conformance import check_conformance
from qpeft.backends.conformance_circuits import random_angles
from qpeft.backends.qiskit_ibm import as_remote_error
from qpeft.backends.qiskit_remote import QiskitRemote
from qpeft.backends.remote import CircuitBatch, JobRequest, JobState
from qpeft.circuits import Circuit, Gate, build_ansatz
from qpeft.errors import (
    ConnectionLostError,
    JobFailedError,
    NotSentError,
    RemoteError,
    UnknownJobError,
)

KEY = "a-key-that-must-not-be-seen-anywhere-0123456"


class Cloud:
    """Jobs by id and by tag, over all instances of one account."""

    def __init__(self) -> None:
        self.jobs_by_id: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.n_services = 0

    def backend(self, name: str) -> Any:
        assert name == "ibm_manila"
        return FakeManilaV2()

    def instances(self) -> list[dict[str, str]]:
        return [{"crn": "empty"}, {"crn": "ours"}]

    def jobs(self, limit: int, job_tags: list[str], instance: str) -> list[Any]:
        found = [self.jobs_by_id[self.tags[tag]] for tag in job_tags if tag in self.tags]
        return found[:limit] if instance == "ours" else []

    def job(self, job_id: str) -> Any:
        if job_id not in self.jobs_by_id:
            raise RuntimeJobNotFound(f"Job not found: {job_id}")
        return self.jobs_by_id[job_id]


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    cloud = Cloud()
    original = executor_sampler.Sampler.run

    def open_service() -> Cloud:
        cloud.n_services += 1
        return cloud

    def run(self: Any, pubs: Any, **options: Any) -> Any:
        job = original(self, pubs, **options)
        cloud.jobs_by_id[job.job_id()] = job
        cloud.tags.update(dict.fromkeys(self.options.environment.job_tags, job.job_id()))
        return job

    monkeypatch.setattr(qiskit_ibm_runtime, "QiskitRuntimeService", open_service)
    monkeypatch.setattr(executor_sampler.Sampler, "run", run)
    return cloud


def small_request(remote: QiskitRemote) -> JobRequest:
    circuit = build_ansatz("reupload", 2, 1)
    (request,) = remote.prepare(CircuitBatch(circuit, random_angles(circuit, 3, 0), 500))
    return request


def test_the_account_is_opened_on_first_use_and_once(cloud: Cloud) -> None:
    remote = QiskitRemote("ibm_manila")
    request = small_request(remote)
    assert (remote.name, remote.limits.can_find) == ("qiskit:ibm_manila", True)
    assert not remote.limits.is_repeatable
    assert cloud.n_services == 0
    remote.submit(request, "one")
    remote.submit(request, "two")
    assert cloud.n_services == 1


def test_a_job_is_found_and_read_by_a_later_process(cloud: Cloud) -> None:
    first = QiskitRemote("ibm_manila")
    request = small_request(first)
    job_id = first.submit(request, "tag-of-one")
    later = QiskitRemote("ibm_manila")
    assert later.find("tag-of-one") == job_id
    assert later.find("tag-of-another") is None
    cloud.jobs_by_id[job_id].result()
    assert later.status(job_id).state is JobState.FINISHED
    counts = later.read(request, later.fetch(job_id))
    assert (counts.sum(axis=1) == 500).all()


@pytest.mark.slow
def test_a_device_of_the_cloud_conforms(cloud: Cloud) -> None:
    report = check_conformance(
        QiskitRemote("ibm_manila"),
        is_noisy=True,
        shots=500,
        max_circuits=24,
        fresh=lambda: QiskitRemote("ibm_manila"),
    )
    assert report.is_conforming, report.failures


def test_circuits_without_angles_are_pubs_of_their_own(cloud: Cloud) -> None:
    """A later process knows a job by its id only, so that each circuit must be told apart in the result."""
    remote = QiskitRemote("ibm_manila")
    circuit = Circuit(2, (Gate("H", (1,)), Gate("H", (1,))), "no angle")
    (request,) = remote.prepare(CircuitBatch(circuit, np.zeros((3, 0)), 100))
    job_id = remote.submit(request, "tag")
    assert len(cloud.jobs_by_id[job_id].result()) == 3
    counts = remote.read(request, remote.fetch(job_id))
    assert counts.shape == (3, 4)
    assert (counts[:, 0] > 80).all()


@pytest.mark.parametrize(
    ("word", "state", "message"),
    [
        ("INITIALIZING", JobState.QUEUED, ""),
        ("QUEUED", JobState.QUEUED, ""),
        ("RUNNING", JobState.RUNNING, ""),
        ("DONE", JobState.FINISHED, ""),
        ("ERROR", JobState.FAILED, "the fridge is warm"),
        ("CANCELLED", JobState.CANCELLED, ""),
        ("A NEW WORD", JobState.RUNNING, "IBM says A NEW WORD"),
    ],
)
def test_every_word_of_ibm_is_a_state_of_ours(
    cloud: Cloud, word: str, state: JobState, message: str
) -> None:
    cloud.jobs_by_id["job"] = types.SimpleNamespace(
        status=lambda: word, error_message=lambda: "the fridge is warm"
    )
    remote = QiskitRemote("ibm_manila")
    status = remote.status("job")
    assert (status.state, status.message) == (state, message)
    if state in (JobState.FAILED, JobState.CANCELLED):
        with pytest.raises(JobFailedError, match=f"job is {state}"):
            remote.fetch("job")
    elif state is not JobState.FINISHED:
        with pytest.raises(RemoteError, match="fetch it when it is finished"):
            remote.fetch("job")


def test_an_unknown_job_is_refused_for_good(cloud: Cloud) -> None:
    remote = QiskitRemote("ibm_manila")
    for ask in (remote.status, remote.fetch, remote.cancel):
        with pytest.raises(UnknownJobError, match="Job not found: elsewhere"):
            ask("elsewhere")


def test_a_job_is_cancelled(cloud: Cloud) -> None:
    cancelled = []
    cloud.jobs_by_id["job"] = types.SimpleNamespace(cancel=lambda: cancelled.append("job"))
    QiskitRemote("ibm_manila").cancel("job")
    assert cancelled == ["job"]


def test_no_account_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(
        management, "_DEFAULT_ACCOUNT_CONFIG_JSON_FILE", str(tmp_path / "none.json")
    )
    for name in ("QISKIT_IBM_TOKEN", "QISKIT_IBM_CHANNEL", "QISKIT_IBM_URL", "QISKIT_IBM_INSTANCE"):
        monkeypatch.delenv(name, raising=False)
    remote = QiskitRemote("ibm_torino")
    with pytest.raises(RemoteError, match="no IBM Quantum account here") as caught:
        remote.submit(small_request(remote), "tag")
    assert type(caught.value) is RemoteError
    assert "\n" not in str(caught.value)


def test_the_real_client_without_a_network_sends_nothing_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client itself says that the key is wrong; what is wrong is that no host answers."""
    monkeypatch.setenv("QISKIT_IBM_TOKEN", KEY)
    monkeypatch.setenv("QISKIT_IBM_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("QISKIT_IBM_CHANNEL", "ibm_quantum_platform")
    remote = QiskitRemote("ibm_torino")
    with pytest.raises(NotSentError, match="cannot be reached while opening the account") as caught:
        remote.submit(small_request(remote), "tag")
    assert KEY not in str(caught.value)
    assert KEY not in repr(remote)


def test_a_connection_that_breaks_during_the_submission_may_have_carried_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, pubs: Any, **options: Any) -> Any:
        raise chained(QiskitError("Failed to run program"), no_answer(requests.ReadTimeout("slow")))

    remote = QiskitRemote("ibm_manila")
    monkeypatch.setattr(executor_sampler.Sampler, "run", broken)
    with pytest.raises(ConnectionLostError, match="while submitting a job"):
        remote.submit(small_request(remote), "tag")


def chained(outer: BaseException, inner: BaseException) -> BaseException:
    """Return an exception as if raised from None while another was handled, as IBM's client does."""
    outer.__context__ = inner
    outer.__suppress_context__ = True
    return outer


def no_answer(inner: BaseException) -> BaseException:
    error = RequestsApiError("no answer", -1)
    error.__cause__ = inner
    return error


def refused_connection() -> BaseException:
    inner = NewConnectionError(None, "refused")  # type: ignore[arg-type]
    return chained(requests.ConnectionError("refused"), inner)


@pytest.mark.parametrize(
    ("error", "may_have_arrived", "kind"),
    [
        (no_answer(refused_connection()), True, NotSentError),
        (no_answer(requests.ConnectTimeout("slow")), True, NotSentError),
        (no_answer(requests.ReadTimeout("slow")), True, ConnectionLostError),
        (no_answer(requests.ReadTimeout("slow")), False, NotSentError),
        (requests.ConnectionError("aborted"), True, ConnectionLostError),
        (RequestsApiError("no answer", -1), True, ConnectionLostError),
        (chained(QiskitError("Failed"), RequestsApiError("busy", 429)), True, NotSentError),
        (chained(QiskitError("Failed"), RequestsApiError("bad gateway", 502)), True, ConnectionLostError),
        (chained(QiskitError("Failed"), RequestsApiError("bad gateway", 502)), False, NotSentError),
        (chained(QiskitError("Failed"), RequestsApiError("wrong circuit", 400)), True, RemoteError),
        (ApiException(500, message="down"), False, NotSentError),
        (InvalidAccountError("wrong key"), False, RemoteError),
        (IBMNotAuthorizedError("wrong key"), True, RemoteError),
        (AccountNotFoundError("no account"), False, RemoteError),
        (QiskitError("anything"), True, RemoteError),
    ],
)  # fmt: skip
def test_what_broke_decides_whether_trying_again_can_help(
    error: BaseException, may_have_arrived: bool, kind: type[RemoteError]
) -> None:
    found = as_remote_error(error, "submitting a job", may_have_arrived)
    assert type(found) is kind
    assert "\n" not in str(found)


def test_a_refusal_of_the_account_does_not_repeat_what_the_server_said() -> None:
    found = as_remote_error(IBMNotAuthorizedError(f"bad token {KEY}"), "submitting a job", True)
    assert KEY not in str(found)
    assert "refuses the account" in str(found)
