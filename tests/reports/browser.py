"""A headless Chromium, driven over a pipe by the DevTools protocol; Debian's package is enough.

with Browser(folder) as browser:
    browser.open(path, width=360)
    browser.ask("document.title")
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# The browser reads commands at descriptor 3 and writes answers at 4.
_LAUNCHER = """
import fcntl, os, sys
read, write, *command = sys.argv[1:]
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in (read, write)]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execvp(command[0], command)
"""
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One browser with one page.

    Args:
        folder: Where the browser may keep its profile.
        seconds: How long it may take to answer.
    """

    def __init__(self, folder: Path, seconds: float = 60.0):
        assert CHROMIUM is not None
        self.seconds = seconds
        self.events: list[dict[str, Any]] = []
        self._last_id, self._rest, self._session = 0, b"", ""
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        ends = (theirs_read, theirs_write)
        command = [CHROMIUM, *_OPTIONS, f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *map(str, ends), *command],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        self._read, self._write = ours_read, ours_write

    def __enter__(self) -> Self:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        try:
            self._process.wait(10)  # it ends when nobody can command it any more
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result; what else the browser says is kept in `events`."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.seconds
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(
        self, path: Path, *, width: int = 1280, height: int = 900, is_dark: bool = False
    ) -> None:
        """Show a file in a window of that size and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + self.seconds
        while self.ask("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page was not loaded in time"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, top: int = 0, height: int | None = None) -> None:
        """Save a picture of the page, of all of it or of a part."""
        width = self.ask("document.documentElement.clientWidth")
        whole = self.ask("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": top, "width": width, "height": height or whole, "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(b64decode(shot["data"]))

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            wait = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._read], [], [], wait)
            assert ready, f"the browser said nothing for {self.seconds} s"
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser has gone"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
