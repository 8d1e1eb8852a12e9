"""What `training_step.py` and `large_model.py` share: base models, arms, and one timed training step.

All arms train beside the same base model, which is made once. An arm's adapter is attached, trained for a few
steps and taken off again, so that nothing but the adapter differs.
"""

import dataclasses
import importlib.metadata
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import PreTrainedModel

from qpeft import QthaConfig
from report import describe_machine

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
N_WARM_UP_TOKENS = 8  # of each sequence, in the step that is not timed


@dataclasses.dataclass(frozen=True)
class Arm:
    """One adapter that takes part.

    Args:
        name: As in the tables.
        method: "lora" or "qtha".
        options: Of the method's configuration.
    """

    name: str
    method: str
    options: Mapping[str, Any]

    def config(self, targets: str | list[str]) -> PeftConfig:
        if self.method == "lora":
            alpha = 2 * self.options["r"]
            return LoraConfig(lora_alpha=alpha, target_modules=targets, **self.options)
        return QthaConfig(target_modules=targets, **self.options)


def lora(r: int) -> Arm:
    return Arm(f"LoRA r={r}", "lora", {"r": r})


def qtha(r: int, n_layers: int = 1, **options: Any) -> Arm:
    """Return a QTHA arm whose name says all that is not a default."""
    others = "".join(f" {name}={value}" for name, value in options.items())
    return Arm(
        f"QTHA r={r} L={n_layers}{others}", "qtha", {"r": r, "n_layers": n_layers, **options}
    )


@dataclasses.dataclass
class Result:
    """What was measured of one arm; MB are 10^6 bytes."""

    name: str
    point: str = ""
    n_parameters: int = 0
    n_lora_parameters: int = 0  # LoRA's of the same rank on the same modules
    cpu_seconds: list[float] = dataclasses.field(default_factory=list)
    wall_seconds: list[float] = dataclasses.field(default_factory=list)
    added_megabytes: float | None = None
    peak_megabytes: float | None = None

    @property
    def saving(self) -> float:
        """Share of parameters fewer than LoRA of the same rank."""
        return 1 - self.n_parameters / self.n_lora_parameters


@contextmanager
def attached(
    base: PreTrainedModel, config: PeftConfig, seed: int = 0
) -> Iterator[tuple[PeftModel, Optimizer]]:
    """Yield the base model with a new adapter and its optimiser, and take the adapter off again.

    AdamW is the fused one, transformers' default: unfused, an adapter pays for the number of its tensors.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any = get_peft_model(base, config)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    try:
        yield model, AdamW(trained, lr=1e-3, fused=True)
    finally:
        model.unload()


def train_one_step(model: nn.Module, optimizer: Optimizer, tokens: Tensor) -> float:
    """Run forward, backward and the optimiser on tokens (batch, length); return the loss."""
    optimizer.zero_grad()
    loss: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    optimizer.step()
    return loss.item()


def time_one_step(model: nn.Module, optimizer: Optimizer, tokens: Tensor, result: Result) -> None:
    """Add the seconds of one step to a result.

    Raises:
        SystemExit: The loss is not a number, so what was timed is no training.
    """
    cpu, wall = time.process_time(), time.perf_counter()
    loss = train_one_step(model, optimizer, tokens)
    result.cpu_seconds.append(time.process_time() - cpu)
    result.wall_seconds.append(time.perf_counter() - wall)
    if loss != loss:
        raise SystemExit(f"{result.name}: the loss is not a number after one step.")


def n_trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_parameters(base: PreTrainedModel, config: PeftConfig) -> tuple[int, int]:
    """Return the trained parameters, and those of LoRA with the same rank on the same modules."""
    counts = []
    rank, targets = config.r, config.target_modules  # type: ignore[attr-defined]
    for each in (config, LoraConfig(r=rank, target_modules=targets)):
        with attached(base, each) as (model, _):
            counts.append(n_trained(model))
    return counts[0], counts[1]


def status_megabytes(field: str) -> float:
    """Return a field of /proc/self/status, which Linux gives in kB, in MB as `memory.py` does."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise SystemExit(f"/proc/self/status has no {field}; use --no-memory.")
    return int(found.group(1)) / 1000


def has_bf16_instructions() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def machine_lines(title: str) -> str:
    """Return a title, the command, the processor and the versions of what takes part."""
    packages = {p: importlib.metadata.version(p) for p in ("qpeft", "peft", "transformers")}
    bf16 = {"bf16 instructions": "yes" if has_bf16_instructions() else "no"}
    command = {"command": " ".join(["python", *sys.argv])}
    lines = [f"# {title}", ""]
    machine = command | describe_machine(()) | bf16 | packages
    return "\n".join([*lines, *(f"- {name}: {value}" for name, value in machine.items()), ""])


def ratio_to(result: Result, first: Result) -> tuple[float, float, float]:
    """Return median, smallest and largest ratio of CPU times in the same round.

    An arm that stopped early is compared in the rounds in which it took part, which are the first ones.
    """
    ratios = [a / b for a, b in zip(result.cpu_seconds, first.cpu_seconds, strict=False)]
    return statistics.median(ratios), min(ratios), max(ratios)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first row is the header."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdicts(results: Sequence[Result], time_targets: Mapping[str, float], memory: float) -> str:
    """Return a line for each target, met or missed; the first result is what ratios refer to."""
    lines = []
    for result in results[1:]:
        if result.name in time_targets and result.cpu_seconds:
            ratio, low, high = ratio_to(result, results[0])
            target = time_targets[result.name]
            line = _verdict(f"{result.name}: time", ratio, target)
            is_clear = high <= target or low > target
            lines.append(line if is_clear else f"{line}, but rounds lie on both sides")
        if result.peak_megabytes is not None and results[0].peak_megabytes:
            ratio = result.peak_megabytes / results[0].peak_megabytes
            lines.append(_verdict(f"{result.name}: peak memory", ratio, memory))
    return "\n".join(lines)


def _verdict(what: str, ratio: float, target: float) -> str:
    return f"- {what} {ratio:.3f}x, target {target:.2f}x: {'met' if ratio <= target else 'MISSED'}"


def in_one_thread(environment: Mapping[str, str] = ONE_THREAD) -> None:
    """Start this script anew unless the environment is as given.

    Libraries read these variables when they are loaded, which is before any line of a script.
    """
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment})
