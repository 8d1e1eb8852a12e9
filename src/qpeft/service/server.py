"""The HTTP server: sockets, routes, and an orderly beginning and end."""

import importlib
import json
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from qpeft.errors import ConfigError, MissingExtraError
from qpeft.service import wire
from qpeft.service.cloud import Audit, Cloud
from qpeft.service.keys import KeyRing
from qpeft.service.machines import Machines
from qpeft.service.settings import ServiceSettings
from qpeft.service.store import Store
from qpeft.service.wire import RefusalError
from qpeft.service.worker import Worker

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MAX_BODY_BYTES = 64 * 2**20
_BACKLOG = 128


def run_service(
    folder: str | Path,
    keys: KeyRing | None = None,
    settings: ServiceSettings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serve emulated chips until Ctrl-C or SIGTERM.

    Args:
        folder: Holds the queue (tasks.sqlite) and the audit (audit.jsonl); it is made where it is missing.
        keys: Who may use it; None for those of QPEFT_EMULATOR_KEYS.
        settings: What is offered; None for the chip `origin_wukong`.
        host: Address to listen on. There is no encryption: anything but this machine needs a proxy before it.
        port: To listen on; 0 for a free one.
        say: Told "listening on http://HOST:PORT" once requests are taken; None prints it.

    Raises:
        ConfigError: There are no keys, the port is taken, or another service has the folder.
        MissingExtraError: starlette or uvicorn is not installed.
    """
    for package in ("starlette", "uvicorn"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingExtraError(package, "emulator", "The emulator's service") from error
    import uvicorn

    keys = KeyRing.from_environment() if keys is None else keys
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "service.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(f"Another service has the folder {folder}. Use another one.") from error
    with lock, _listen(host, port) as listener:
        app = make_app(folder, keys, settings or ServiceSettings())
        address = f"http://{_shown(host)}:{listener.getsockname()[1]}"
        (say or _print)(f"listening on {address}")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="on"
        )
        # uvicorn ends in good order and then raises the signal again, which is to have no further effect.
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)


def make_app(folder: Path, keys: KeyRing, settings: ServiceSettings) -> "Starlette":
    """Return the application, whose worker lives as long as it is served."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    store = Store(folder / "tasks.sqlite", settings.seed)
    machines = Machines(settings, store.made_at, store.seed)
    audit, wake = Audit(folder / "audit.jsonl"), threading.Event()
    cloud = Cloud(settings, keys, store, machines, audit, wake)

    @asynccontextmanager
    async def lifespan(app: "Starlette") -> AsyncIterator[None]:
        worker = Worker(store, machines, audit, wake, settings.queue_delay)
        worker.start()
        yield
        if worker.stop():
            store.close()

    def health(user: str, body: bytes) -> dict[str, Any]:
        return {"status": "ok", "open_tasks": store.n_open()}

    posts = {
        wire.SUBMIT: cloud.submit,
        wire.TASK_DETAIL: cloud.task_detail,
        wire.CANCEL: cloud.cancel,
        wire.CHIP_INFO: cloud.chip_info,
        wire.BEST_BLOCKS: cloud.best_blocks,
    }
    routes = [Route(path, _endpoint(cloud, call), methods=["POST"]) for path, call in posts.items()]
    machines_call = _endpoint(cloud, lambda user, body: cloud.resources(), has_envelope=False)
    routes += [
        Route(wire.RESOURCES, machines_call, methods=["GET"]),
        Route("/health", _endpoint(None, health, has_envelope=False), methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _endpoint(
    cloud: Cloud | None, call: Callable[[str, bytes], Any], *, has_envelope: bool = True
) -> "Callable[[Request], Any]":
    """Return what answers a request: in a thread, so that a long one does not hold up the others."""
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response

    def answer(authorization: str, body: bytes) -> tuple[int, Any]:
        try:
            user = "" if cloud is None else cloud.user_of(authorization)
            found = call(user, body)
        except RefusalError as error:
            return (401 if error.code == wire.BAD_KEY else 200), wire.refusal(error)
        return 200, wire.success(found) if has_envelope else found

    async def endpoint(request: "Request") -> "Response":
        body = await _body(request)
        if body is None:
            error = RefusalError(wire.TOO_MUCH, f"A request has at most {MAX_BODY_BYTES} bytes.")
            status, data = 413, wire.refusal(error)
        else:
            header = request.headers.get("authorization", "")
            status, data = await run_in_threadpool(answer, header, body)
        text = json.dumps(data, separators=(",", ":"))
        return Response(text, status_code=status, media_type="application/json")

    return endpoint


async def _body(request: "Request") -> bytes | None:
    """Return the body, or None if it is too long."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port} ({error}). Use another port, or 0 for a free one."
        ) from error
    return listener


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _print(line: str) -> None:
    print(line, flush=True)
