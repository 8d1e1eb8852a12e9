"""The results of `quantum_layer.py` as a header and Markdown tables."""

import dataclasses
import os
import platform
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from contenders import Contender, Qpeft


@dataclasses.dataclass
class Result:
    """What was measured of one contender in one case."""

    name: str
    circuit: str
    n_qubits: int
    n_layers: int
    rows: int
    note: str = ""
    milliseconds: list[float] = dataclasses.field(default_factory=list)
    scale: float = 1.0  # rows of the case to rows that were timed
    megabytes: float | None = None
    n_operations: int = 0  # that torch runs in one step, whatever the rows
    skipped: str = ""

    def median(self) -> float | None:
        """Return the median time of a step with all rows, in milliseconds."""
        return self.scale * statistics.median(self.milliseconds) if self.milliseconds else None

    def label(self) -> str:
        return f"{self.circuit}, L={self.n_layers}, n={self.n_qubits}: {self.name}"


def describe_machine(kinds: Iterable[type[Contender]]) -> dict[str, str]:
    """Return the processor and the versions of everything that takes part."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        cpu = found.group(1) if found else cpu
    return {
        "processor": cpu,
        "cores": str(os.cpu_count()),
        "threads used": str(torch.get_num_threads()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    } | {kind.package: kind.version() for kind in kinds}


def header(machine: dict[str, str], missing: dict[str, str]) -> str:
    lines = ["# One training step of a quantum layer", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [f"- not installed: {name} ({why})" for name, why in missing.items()]
    return "\n".join([*lines, ""])


def tables(results: list[Result]) -> str:
    """Return times with their ratio to ours, and memory, one pair of tables for each circuit."""
    parts = []
    for circuit, n_layers, rows in dict.fromkeys((r.circuit, r.n_layers, r.rows) for r in results):
        group = [r for r in results if (r.circuit, r.n_layers) == (circuit, n_layers)]
        ours = {r.n_qubits: r for r in group if r.name == Qpeft.name}

        def time_cell(result: Result, ours: dict[int, Result] = ours) -> str:
            median, best = result.median(), ours[result.n_qubits].median()
            if median is None or best is None:
                return result.skipped
            return f"{median:.3g} ({median / best:.3g}x)"

        title = f"## {circuit}, L = {n_layers}, {rows} rows"
        parts += [title, "", "Median CPU milliseconds a step, and how many times ours:", ""]
        parts += [_table(group, time_cell), ""]
        if any(result.megabytes is not None for result in group):
            parts += ["Peak growth of the resident memory in a step, in MB:", ""]
            parts += [_table(group, _memory_cell), ""]
        parts += ["Operations that torch runs in a step, views included:", ""]
        parts += [_table(group, _operations_cell), ""]
    notes = {r.name: r.note for r in results if r.note}
    parts += [f"{name}: {note}." for name, note in notes.items()]
    return "\n".join(parts)


def _memory_cell(result: Result) -> str:
    return result.skipped or ("-" if result.megabytes is None else f"{result.megabytes:.3g}")


def _operations_cell(result: Result) -> str:
    return str(result.n_operations or "-")


def _table(group: list[Result], cell: Callable[[Result], str]) -> str:
    sizes = list(dict.fromkeys(result.n_qubits for result in group))
    rows = [["engine", *(f"n = {size}" for size in sizes)], ["---"] * (len(sizes) + 1)]
    for name in dict.fromkeys(result.name for result in group):
        mine = {result.n_qubits: cell(result) for result in group if result.name == name}
        rows.append([name, *(mine[size] for size in sizes)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
