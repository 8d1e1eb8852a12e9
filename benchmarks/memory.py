"""Measures how much a step adds to the memory of a process, in a process of its own.

Linux keeps the largest resident size since the last reset (/proc/self/clear_refs); what a step adds
to it covers every allocator, Python's, torch's or an engine's own. malloc is told to give memory
back at once, so that one step's leftovers do not hide the next one's needs.
"""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def peaks_of_process(script: str, name: str, cases: Sequence[object]) -> list[float] | None:
    """Run a script with --memory-of NAME and the cases on its input; return its answers in MB."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    environment = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script, "--memory-of", name],
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    peaks: list[float] = json.loads(result.stdout.splitlines()[-1])
    return peaks


def peak_megabytes(step: Callable[[int], object]) -> float:
    """Return what a step with all rows adds to the resident size, after one with few rows."""
    step(2)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    step(sys.maxsize)
    return (_kilobytes("VmHWM") - before) / 1000


def _kilobytes(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit(f"/proc/self/status has no {field}; use --no-memory.")
    return int(found.group(1))
