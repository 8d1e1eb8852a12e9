"""Who works on a row, and whether that worker still lives.

    host:pid:birth:token     for example "lab3:4711:88123456:9f2c01ab"

`birth` is when the process started, because the system gives numbers of dead processes away again; `token` is one
run within the process, so that a run that ended without tidying up does not look alive.
"""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

_active: set[str] = set()


class Presence(Enum):
    """Whether a worker lives."""

    ALIVE = "alive"
    GONE = "gone"
    UNSEEN = "unseen"  # on another host: nothing here can tell


@contextmanager
def at_work() -> Iterator[str]:
    """Give a name to a worker that lives as long as the block."""
    owner = f"{_host()}:{os.getpid()}:{_birth(os.getpid())}:{secrets.token_hex(4)}"
    _active.add(owner)
    try:
        yield owner
    finally:
        _active.discard(owner)


def presence(owner: str | None) -> Presence:
    """Return whether the worker of this name lives; nobody (None) counts as gone."""
    if owner is None:
        return Presence.GONE
    host, pid, birth, _ = owner.split(":")
    if host != _host():
        return Presence.UNSEEN
    if int(pid) == os.getpid():
        return Presence.ALIVE if owner in _active else Presence.GONE
    return Presence.ALIVE if _birth(int(pid)) == birth else Presence.GONE


def _host() -> str:
    return socket.gethostname().replace(":", "-")


def _birth(pid: int) -> str | None:
    """Return when a process started, in a form that only its equal matters; None if it is gone."""
    if Path("/proc/self/stat").exists():
        # Ticks since boot: unlike a time of day they do not move when the clock is set.
        try:
            text = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = text.rpartition(")")[2].split()  # the name before it may hold spaces
        return None if fields[0] in ("Z", "X") else fields[19]
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
