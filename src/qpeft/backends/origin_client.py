"""Origin's client pyqpanda3, and what its errors mean: has the request arrived, and does trying again help?

Every error of the client is a RuntimeError whose text must tell. It holds Python's lock while it waits for an
answer (up to 60 s; a query is tried three times, a submission once), and `QCloudJob(id)` speaks with the key of
whichever `QCloudService` was made last, so a service is made anew before each job is looked at.
"""

import importlib
import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

from qpeft.errors import (
    ConfigError,
    ConnectionLostError,
    MissingExtraError,
    NotSentError,
    RemoteError,
    TransientError,
)

T = TypeVar("T")

KEY_VARIABLES = ("QPEFT_ORIGIN_API_KEY", "ORIGIN_API_KEY")
"""Environment variables that may hold the key, the first that is set counts."""

_JOB_LOCK = threading.Lock()
_MAX_SHOWN = 300

_NETWORK = "curl_easy_perform"
_NEVER_LEFT = (
    "Couldn't connect",
    "Failed to connect",
    "Could not connect",
    "Could not resolve",
    "Couldn't resolve",
    "Connection timed out",
    "SSL connect error",
    "SSL certificate problem",
    "SSL peer certificate",
)
_HTTP = re.compile(r"QCloud HTTP request failed with status (\d{3})")
# What the client says of an answer that it cannot read; all other texts are the provider's own words.
_UNREADABLE = re.compile(
    r"value is not \w+ \(|cannot take size of|Invalid (value|escape|encoding)|Missing a |Miss (fraction|exponent)|"
    r"Terminate parsing|Unspecific syntax|Incorrect hex|Number too big|The document |The surrogate pair|"
    r"key: \w+, not found|obj has no member|.*response (missing|success field|obj field|taskState)"
)


class OriginClient:
    """Calls to Origin's cloud, or to a service that speaks like it.

    Args:
        url: Of the service; None for the one that the key names.

    Raises:
        ConfigError: The URL has no host, or carries a password.
    """

    def __init__(self, url: str | None = None):
        if url is not None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
                raise ConfigError(
                    "url must look like 'http://127.0.0.1:8765' or 'https://host'; keys and passwords come "
                    "from the environment only."
                )
        self.url = None if url is None else url.rstrip("/")

    def __repr__(self) -> str:
        return f"OriginClient({self.url!r})"

    def machines(self) -> dict[str, bool]:
        """Return the names of the machines and whether each is online."""
        return self._query(lambda: dict(self._service().backends()))

    def chip_info(self, chip: str) -> Any:
        """Return what the provider says of a chip, a `pyqpanda3.qcloud.ChipInfo`."""
        return self._query(lambda: self._service().backend(chip).chip_info())

    def submit(self, chip: str, programs: list[Any], shots: int, options: Any, tag: str) -> str:
        """Send programs once and return the id of the job.

        Raises:
            NotSentError: The request has certainly not arrived.
            ConnectionLostError: It may have arrived.
            RemoteError: It was refused.
        """
        backend = self._guarded(lambda: self._service().backend(chip), "submit")
        return self._guarded(
            lambda: str(backend.run(programs, shots, options, False, tag).job_id()), "submit"
        )

    def task(self, job_id: str) -> dict[str, Any]:
        """Return all that the provider says of a job: the `obj` of its answer.

        The client calls everything a failure that it does not understand, so its own word for the state is not
        asked for.
        """
        text = self._query(lambda: self._job(job_id).query().origin_data())
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise ConnectionLostError(f"Origin's answer about job {job_id} is cut off.") from error
        if not isinstance(answer, dict) or answer.get("success") is not True:
            said = answer.get("message") if isinstance(answer, dict) else None
            raise RemoteError(
                f"Origin refuses to tell about job {job_id}: "
                f"{self._clean(str(said or 'no reason given'))} Check that the key is of the account that sent it."
            )
        if not isinstance(answer.get("obj"), dict):
            raise ConnectionLostError(f"Origin's answer about job {job_id} says nothing.")
        return dict(answer["obj"])

    def cancel(self, job_id: str) -> bool:
        """Ask not to run a job; False if the provider refuses."""
        return self._query(lambda: bool(self._job(job_id).cancel()))

    def _job(self, job_id: str) -> Any:
        client = import_origin("qcloud")
        with _JOB_LOCK:
            self._service()
            return client.QCloudJob(job_id)

    def _service(self) -> Any:
        client = import_origin("qcloud")
        key = _key()
        try:
            return (
                client.QCloudService(key)
                if self.url is None
                else client.QCloudService(key, self.url)
            )
        except (RuntimeError, ValueError) as error:
            raise RemoteError(
                f"Origin's client refuses the key: {self._clean(str(error))} Copy it anew from your "
                f"account into {KEY_VARIABLES[0]}."
            ) from None

    def _query(self, call: Callable[[], T]) -> T:
        return self._guarded(call, "query")

    def _guarded(self, call: Callable[[], T], kind: str) -> T:
        try:
            return call()
        except RuntimeError as error:
            # Not chained: the client's text may hold more than the cleaned one.
            raise self._meaning(str(error), is_submit=kind == "submit") from None

    def _meaning(self, text: str, *, is_submit: bool) -> RemoteError:
        """Return the error that a text of the client stands for."""
        where = f"at {self.url}" if self.url else "(Origin's cloud)"
        shown = self._clean(text)
        if text.startswith(_NETWORK):
            has_left = not any(words in text for words in _NEVER_LEFT)
            lost = ConnectionLostError if has_left or not is_submit else NotSentError
            return lost(
                f"No answer from the service {where}: {shown} Check the network and the URL."
            )
        http = _HTTP.search(text)
        if http:
            return self._meaning_of_status(int(http[1]), shown, is_submit=is_submit)
        if _UNREADABLE.match(text):
            hint = "it may have taken the job" if is_submit else "a wrong key may be the reason"
            kind: type[RemoteError] = ConnectionLostError if is_submit else RemoteError
            return kind(
                f"The service {where} gave an answer that its client cannot read; {hint}: {shown}"
            )
        return RemoteError(f"The service {where} refuses: {shown}")

    @staticmethod
    def _meaning_of_status(status: int, shown: str, *, is_submit: bool) -> RemoteError:
        if status in (401, 403):
            return RemoteError(
                f"The service does not accept the API key. Check {KEY_VARIABLES[0]}: {shown}"
            )
        if status in (408, 429) or status >= 500:
            kind: type[TransientError] = ConnectionLostError
            if status == 429 and is_submit:
                kind = NotSentError
            return kind(f"The service is not well or too busy: {shown}")
        return RemoteError(f"The service refuses the request: {shown}")

    @staticmethod
    def _clean(text: str) -> str:
        """Return a provider's words in one short line without the key."""
        for name in KEY_VARIABLES:
            key = os.environ.get(name, "").strip()
            if key:
                text = text.replace(key, "***")
        line = " ".join(text.split())
        line = line if len(line) <= _MAX_SHOWN else line[: _MAX_SHOWN - 3] + "..."
        return line if line.endswith((".", "!", "?")) else line + "."


def import_origin(module: str) -> Any:
    """Return a module of pyqpanda3, whose stubs do not tell what it exports.

    Args:
        module: "qcloud" or "core".

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(f"pyqpanda3.{module}")
    except ImportError as error:
        raise MissingExtraError("pyqpanda3", "origin", "Origin's cloud") from error


def _key() -> str:
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if key and not re.fullmatch(r"[!-~]+", key):
            raise RemoteError(f"{name} holds a space, a line break or a letter that no key has.")
        if key:
            return key
    raise RemoteError(
        f"Origin's cloud needs an API key, and none is set. Copy it from your account and set "
        f"{KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]}) in the environment."
    )
