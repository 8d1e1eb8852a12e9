"""Calls to a remote that outlast a shaky network: a bounded number of tries, exponential back-off, jitter."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from qpeft.backends.remote import JobStatus, Remote
from qpeft.errors import ConnectionLostError, NotSentError, TransientError

T = TypeVar("T")

MAX_TRIES = 5
"""How often one call is tried; with the waits between, a network may be away for about half a minute."""
_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 1.0, 30.0


class Calls:
    """The calls to a remote that may be repeated without harm.

    Args:
        remote: The remote.
        sleep: Waits some seconds.
    """

    def __init__(self, remote: Remote, sleep: Callable[[float], None]):
        self.remote = remote
        self.sleep = sleep

    def status(self, job_id: str) -> JobStatus:
        """Say where a job stands."""
        return self._repeat(lambda: self.remote.status(job_id))

    def fetch(self, job_id: str) -> Any:
        """Return the raw result of a finished job."""
        return self._repeat(lambda: self.remote.fetch(job_id))

    def find(self, tag: str) -> str | None:
        """Return the id of the submission with this tag, or None if it has not arrived.

        A request that the network still carries may arrive a little later, so a "no" is asked for twice.
        """
        found = self._repeat(lambda: self.remote.find(tag))
        if found is None:
            self.sleep(_FIRST_WAIT_SECONDS)
            found = self._repeat(lambda: self.remote.find(tag))
        return found

    def send(self, attempt: Callable[[], T]) -> T:
        """Try to send until it has not certainly failed to arrive; only `NotSentError` is tried again."""
        return self._retrying(NotSentError)(attempt)

    def _repeat(self, call: Callable[[], T]) -> T:
        try:
            return self._retrying(TransientError)(call)
        except TransientError as error:
            raise ConnectionLostError(
                f"'{self.remote.name}' did not answer in {MAX_TRIES} tries: {error} What was sent is "
                f"in the journal; run the same command again to go on from there."
            ) from error

    def _retrying(self, kind: type[TransientError]) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(kind),
            stop=stop_after_attempt(MAX_TRIES),
            wait=wait_exponential_jitter(_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS),
            sleep=self.sleep,
            reraise=True,
        )


@contextmanager
def hold_signals() -> Iterator[None]:
    """Put off Ctrl-C and the system's polite request to end until the block is done.

    Between "the machine has taken the job" and "its id is on the disk" nobody should have to guess. A second
    Ctrl-C acts at once. Only the main thread hears signals, so elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            restore()
            signal.raise_signal(number)
        held.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    kinds = (signal.SIGINT, signal.SIGTERM)
    # A handler that was not set from Python is None here and could not be put back.
    before = {kind: signal.getsignal(kind) for kind in kinds if signal.getsignal(kind) is not None}
    for kind in before:
        signal.signal(kind, hold)
    try:
        yield
    finally:
        restore()
    if held:
        signal.raise_signal(held[0])
