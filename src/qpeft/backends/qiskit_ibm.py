"""A device behind IBM's cloud: jobs with tags, found again from any process; the account is the user's own.

The client reports a network that is down as a wrong key and hides the HTTP status of a failed submission; what
really happened stands in the chain of causes, and `as_remote_error` reads it there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from qpeft.backends.qiskit_machines import (
    MAX_EXECUTIONS,
    MAX_PROGRAMS,
    MAX_QUBITS,
    Work,
    counts_of,
)
from qpeft.backends.remote import JobState, JobStatus, Limits, Price
from qpeft.errors import (
    ConnectionLostError,
    JobFailedError,
    MissingExtraError,
    NotSentError,
    RemoteError,
    UnknownJobError,
)


class IbmMachine:
    """A device of IBM's cloud, reached with the account that the user saved or set in the environment.

    Args:
        name: The device's name, for example "ibm_torino".
        device: The `IBMBackend` itself, where the caller has one; None looks the name up on first use.
    """

    limits = Limits(
        max_qubits=MAX_QUBITS,
        max_programs=MAX_PROGRAMS,
        max_shots=MAX_EXECUTIONS,
        can_find=True,
    )
    price = Price(source="IBM bills the seconds of its device by plan; not known here")

    def __init__(self, name: str, device: Any = None):
        try:
            import qiskit_ibm_runtime.executor_sampler  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "qiskit-ibm-runtime>=0.50", "qiskit", "an IBM device"
            ) from error
        self.name = name
        self._device = device

    @cached_property
    def service(self) -> Any:
        """The user's `QiskitRuntimeService`."""
        if self._device is not None:
            return self._device.service
        import qiskit_ibm_runtime

        with translated_errors("opening the account"):
            return qiskit_ibm_runtime.QiskitRuntimeService()

    def backend(self) -> Any:
        """Return the `IBMBackend`, asked for once."""
        if self._device is None:
            service = self.service
            with translated_errors(f"looking up '{self.name}'"):
                self._device = service.backend(self.name)
        return self._device

    def start(self, work: Work) -> str:
        """Submit one sampler job with the submission's tag."""
        from qiskit_ibm_runtime.executor_sampler import Sampler

        if work.shots is None:
            raise RemoteError(f"'{self.name}' has no exact results; give shots.")
        pubs = work.template.pubs(work.angles, work.shots, is_joined=False)
        sampler = Sampler(mode=self.backend())
        sampler.options.environment.job_tags = [work.tag]
        with translated_errors("submitting a job", may_have_arrived=True):
            return str(sampler.run(pubs).job_id())

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag in any instance of the account."""
        service = self.service
        with translated_errors("looking for a job"):
            for instance in service.instances():
                jobs = service.jobs(limit=1, job_tags=[tag], instance=instance["crn"])
                if jobs:
                    return str(jobs[0].job_id())
        return None

    def status(self, job_id: str) -> JobStatus:
        """Ask where a job stands; its queue position is not told."""
        service = self.service
        with translated_errors(f"asking for job {job_id}"):
            job = service.job(job_id)
            word = _word(job.status())
            message = str(job.error_message() or "") if word == "ERROR" else ""
        if word in _STATES:
            return JobStatus(_STATES[word], message)
        return JobStatus(JobState.RUNNING, f"IBM says {word}")

    def fetch(self, job_id: str) -> Any:
        """Return the counts of a finished job.

        Raises:
            JobFailedError: It ended without a result.
        """
        status = self.status(job_id)
        if status.state in (JobState.FAILED, JobState.CANCELLED):
            raise JobFailedError(f"IBM job {job_id} is {status.state}: {status.message}")
        if status.state is not JobState.FINISHED:
            raise RemoteError(f"IBM job {job_id} is {status.state}; fetch it when it is finished.")
        service = self.service
        with translated_errors(f"fetching job {job_id}"):
            return counts_of(service.job(job_id).result())

    def cancel(self, job_id: str) -> None:
        """Ask IBM not to run a job."""
        service = self.service
        with translated_errors(f"cancelling job {job_id}"):
            service.job(job_id).cancel()


_STATES = {
    "INITIALIZING": JobState.QUEUED,
    "QUEUED": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "DONE": JobState.FINISHED,
    "ERROR": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}


def _word(status: Any) -> str:
    """Return a job's status as text: the cloud's jobs have text, those of the local testing mode an enum."""
    return status if isinstance(status, str) else str(status.name)


@contextmanager
def translated_errors(doing: str, *, may_have_arrived: bool = False) -> Iterator[None]:
    """Turn what IBM's client raises into our words.

    Args:
        doing: What is being done, for the message.
        may_have_arrived: Whether a job may have reached IBM when the connection breaks inside.
    """
    from ibm_cloud_sdk_core import ApiException
    from qiskit.exceptions import QiskitError
    from requests.exceptions import RequestException

    try:
        yield
    except (QiskitError, RequestException, ApiException) as error:
        # The client's exceptions can hold a request with its headers, so none of them is passed on.
        raise as_remote_error(error, doing, may_have_arrived) from None


def as_remote_error(error: BaseException, doing: str, may_have_arrived: bool) -> RemoteError:
    """Return the error of ours that says what an exception of IBM's client means.

    Args:
        error: From qiskit-ibm-runtime, requests or ibm-cloud-sdk-core.
        doing: What was being done.
        may_have_arrived: Whether a job may have reached IBM.
    """
    from ibm_cloud_sdk_core import ApiException
    from qiskit_ibm_runtime.accounts import AccountNotFoundError
    from qiskit_ibm_runtime.api.exceptions import RequestsApiError
    from qiskit_ibm_runtime.exceptions import (
        IBMAccountError,
        IBMNotAuthorizedError,
        RuntimeJobNotFound,
    )
    from requests.exceptions import ConnectTimeout, RequestException
    from urllib3.exceptions import NewConnectionError

    if isinstance(error, RuntimeJobNotFound):
        return UnknownJobError(f"IBM Quantum knows no such job ({error.message}) while {doing}.")
    chain = list(_causes(error))
    codes = [e.status_code for e in chain if isinstance(e, RequestsApiError)]
    codes += [e.status_code for e in chain if isinstance(e, ApiException)]
    code = next((code for code in codes if code is not None and code > 0), None)
    is_network = any(isinstance(e, RequestException) for e in chain) or -1 in codes
    if code is None and is_network:
        never_left = any(isinstance(e, ConnectTimeout | NewConnectionError) for e in chain)
        kind = ConnectionLostError if may_have_arrived and not never_left else NotSentError
        return kind(f"IBM Quantum cannot be reached while {doing}. Check the network and resume.")
    if code == 429:
        return NotSentError(f"IBM Quantum asks to wait (HTTP 429) while {doing}.")
    if code is not None and code >= 500:
        kind = ConnectionLostError if may_have_arrived else NotSentError
        return kind(f"IBM Quantum has a failure of its own (HTTP {code}) while {doing}.")
    if isinstance(error, AccountNotFoundError):
        return RemoteError(
            "There is no IBM Quantum account here. Save one with QiskitRuntimeService.save_account(...), or set "
            "QISKIT_IBM_TOKEN and QISKIT_IBM_INSTANCE."
        )
    if code == 401 or any(isinstance(e, IBMAccountError | IBMNotAuthorizedError) for e in chain):
        return RemoteError(
            f"IBM Quantum refuses the account while {doing}. Check the saved account or QISKIT_IBM_TOKEN."
        )
    return RemoteError(f"IBM Quantum says no while {doing}: {' '.join(str(error).split())}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
