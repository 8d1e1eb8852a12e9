"""Fetches PEFT's own tests: its source distribution has them, its wheel does not.

Nothing of them is kept in this repository. They are taken from the package index for exactly the PEFT that is
installed, once, and kept in the user's cache.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

PACKAGE = "peft_tests"
"""The name under which PEFT's `tests` folder can be imported."""


class PeftTestsUnavailableError(Exception):
    """PEFT's source distribution could not be fetched."""


def fetch_peft_tests() -> Path:
    """Return a folder that holds PEFT's tests as the package `peft_tests`.

    Raises:
        PeftTestsUnavailableError: They are not in the cache and pip cannot download them.
    """
    version = importlib.metadata.version("peft")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qpeft"
    target = cache / f"peft-tests-{version}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            archive = _download(version, Path(scratch))
            _extract_tests(archive, Path(scratch) / "tests" / PACKAGE)
            # Renamed at the end, so that the cache never holds half of them.
            shutil.move(Path(scratch) / "tests", target)
    return target


def _download(version: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"peft=={version}"]
    command += ["--no-deps", "--no-binary", "peft", "--dest", str(folder), "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(folder.glob("peft-*.tar.gz"))
    if result.returncode or not archives:
        lines = result.stderr.strip().splitlines() or ["pip gave no reason"]
        raise PeftTestsUnavailableError(
            f"PEFT's tests come from its source distribution, and pip cannot download peft=={version}: {lines[-1]}"
        )
    return archives[0]


def _extract_tests(archive: Path, package: Path) -> None:
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            path = PurePosixPath(member.name)  # peft-0.21.2/tests/test_config.py
            source = tar.extractfile(member) if member.isfile() else None
            if source and path.parts[1:-1] == ("tests",) and path.suffix == ".py":
                (package / path.name).write_bytes(source.read())
