"""The service in a process of its own, and Origin's unmodified client."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEYS = {"ada": "key-of-ada-0123456789", "bob": "key-of-bob-9876543210"}

_SCRIPT = """
import json, sys
from qpeft.service import ServiceSettings, run_service
from qpeft.service.settings import UserLimits
folder, text = sys.argv[1:]
options = json.loads(text)
port = options.pop("port", 0)
limits = UserLimits(**options.pop("limits", {}))
run_service(folder, settings=ServiceSettings(limits=limits, **options), port=port)
"""


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen
    url: str
    folder: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def audit(self) -> list[dict[str, Any]]:
        text = (self.folder / "audit.jsonl").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]


def start_service(folder: Path, **options: Any) -> Service:
    pairs = ",".join(f"{user}={key}" for user, key in KEYS.items())
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(folder), json.dumps(options)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "QPEFT_EMULATOR_KEYS": pairs, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://127.0.0.1:"), line
    return Service(process, line.split()[-1], folder)


@contextmanager
def running_service(folder: Path, **options: Any) -> Iterator[Service]:
    service = start_service(folder, **options)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.stop(signal.SIGKILL)
        service.process.stdout.close()


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def result_of(job: Any) -> Any:
    from pyqpanda3.qcloud import JobStatus

    wait_until(lambda: job.status() in (JobStatus.FINISHED, JobStatus.FAILED))
    return job.query()


# A thread of this process could not answer: the client holds Python's lock while it waits.
_ANSWERER = """
import socket, struct, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    data = b""
    while b"\\r\\n\\r\\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\\r\\n\\r\\n")
    lines = head.decode().split("\\r\\n")
    size = next(int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length"))
    while len(body) < size:
        body += connection.recv(65536)
    with open(sys.argv[1], "a") as file:
        file.write(lines[0] + "\\n")
    if sys.argv[2]:
        first, _, rest = sys.argv[2].partition("\\r\\n\\r\\n")
        head = f"{first}\\r\\nContent-Length: {len(rest)}\\r\\nConnection: close\\r\\n\\r\\n"
        connection.sendall((head + rest).encode())
    else:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
"""


@contextmanager
def answering(answer, log):
    """A server that gives one answer to everything, or resets the connection."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ANSWERER, str(log), answer or ""],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
