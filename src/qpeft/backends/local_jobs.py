"""Jobs that live and die with this process, behind the same words as those of a cloud."""

from collections import OrderedDict
from typing import Generic, TypeVar

from qpeft.errors import UnknownJobError

Job = TypeVar("Job")

KEPT = 16  # results already fetched that can still be fetched again


class LocalJobs(Generic[Job]):
    """The jobs of one remote by their ids; of those already fetched only the latest are kept.

    Args:
        remote_name: What an error calls the remote.
        max_kept: Sizes of fetched jobs that are kept, summed up; the latest one always is.
    """

    def __init__(self, remote_name: str, max_kept: int = KEPT):
        self._remote_name, self._max_kept = remote_name, max_kept
        self._jobs: dict[str, Job] = {}
        self._fetched: OrderedDict[str, int] = OrderedDict()

    def add(self, job_id: str, job: Job) -> str:
        """Keep a job and return its id."""
        self._jobs[job_id] = job
        return job_id

    def has(self, job_id: str) -> bool:
        """Return whether a job of this id is still kept."""
        return job_id in self._jobs

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            UnknownJobError: It is not one of this process, or was fetched and dropped.
        """
        if not self.has(job_id):
            raise UnknownJobError(
                f"Remote '{self._remote_name}' has no job {job_id!r}: its jobs live in the process that "
                f"submitted them. Submit the request again."
            )
        return self._jobs[job_id]

    def mark_fetched(self, job_id: str, size: int = 1) -> None:
        """Note that a job of some size was fetched, and drop the oldest ones beyond `max_kept`."""
        self._fetched[job_id] = size
        self._fetched.move_to_end(job_id)
        while sum(self._fetched.values()) > self._max_kept and len(self._fetched) > 1:
            oldest, _ = self._fetched.popitem(last=False)
            del self._jobs[oldest]
