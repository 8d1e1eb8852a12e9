"""Times one training step of a quantum layer in every engine that is installed, side by side.

    python benchmarks/quantum_layer.py --quick
    python benchmarks/quantum_layer.py --json quantum_layer.json

A step is forward and backward, for inputs and weights, in float32 on one thread. All engines take
turns in one run, so that what else the machine does hits them alike, and medians of CPU times are
compared. Before that every engine's values and gradients are compared with ours. Peers that are not
installed are named and left out; `benchmarks/peers.txt` lists those that were used.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contenders import CONTENDERS, Contender, Qpeft, Step, layered
from memory import peak_megabytes, peaks_of_process
from qpeft.circuits import Circuit, build_ansatz
from report import Result, describe_machine, header, tables

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SLOW = 1.0  # seconds: a contender slower than this takes part in three rounds only
GROWTH = 4.0  # least growth of a step's time from one size to the next, two qubits larger


@dataclasses.dataclass(frozen=True)
class Case:
    """One circuit with a number of rows."""

    kind: str
    n_qubits: int
    n_layers: int
    rows: int

    def circuit(self) -> Circuit:
        if self.kind == "layered":
            return layered(self.n_qubits, self.n_layers)
        return build_ansatz(self.kind, self.n_qubits, self.n_layers)

    def tensors(self, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs and weights, and the factors of the outputs in the loss."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(self.rows, self.n_qubits, generator=generator)
        weights = torch.randn(self.circuit().n_weights, generator=generator)
        mixture = torch.randn(self.rows, self.n_qubits, generator=generator)
        return inputs[:n_rows], weights, mixture[:n_rows]


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.memory_of:
        print(json.dumps(peaks_of(options.memory_of, json.loads(sys.stdin.read()))))
        return
    kinds, missing = installed(options.only)
    machine = describe_machine(kinds)
    print(header(machine, missing), flush=True)
    results: list[Result] = []
    for case in cases(options):
        results += measure(case, kinds, results, options)
    if not options.no_memory:
        for kind in kinds:
            add_memory(kind, [r for r in results if r.name == kind.name and r.milliseconds])
    print(tables(results))
    if options.json:
        report = {"machine": machine, "missing": missing, "results": [vars(r) for r in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sizes, few rounds")
    parser.add_argument("--json", type=Path, help="also write every measured time to this file")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--qubits", type=int, nargs="+", help="default: 4 6 8 10 12, quick: 4 8")
    parser.add_argument(
        "--layers", type=int, nargs="+", help="of `reupload` alone; default: several circuits"
    )
    parser.add_argument("--rounds", type=int, help="default: 11, quick: 5")
    parser.add_argument("--limit", type=float, default=8.0, help="longest step, in seconds")
    parser.add_argument("--only", nargs="+", metavar="PACKAGE", help="peers to compare with")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.qubits = options.qubits or ([4, 8] if options.quick else [4, 6, 8, 10, 12])
    options.rounds = options.rounds or (5 if options.quick else 11)
    return options


def cases(options: argparse.Namespace) -> list[Case]:
    sizes = [("layered", 2), ("reupload", 1), ("reupload", 4)]
    if options.layers:
        sizes = [("reupload", n_layers) for n_layers in options.layers]
    return [
        Case(kind, n_qubits, n_layers, options.rows)
        for kind, n_layers in (sizes[:2] if options.quick else sizes)
        for n_qubits in options.qubits
    ]


def installed(only: list[str] | None) -> tuple[list[type[Contender]], dict[str, str]]:
    """Return the contenders that work here, and why the others do not."""
    kinds: list[type[Contender]] = []
    missing: dict[str, str] = {}
    for kind in CONTENDERS:
        if only and kind is not Qpeft and kind.package not in only:
            continue
        try:
            kind(layered(2, 1))
        except ImportError as error:
            missing[kind.name] = str(error)
        else:
            kinds.append(kind)
    return kinds, missing


def measure(
    case: Case, kinds: list[type[Contender]], earlier: list[Result], options: argparse.Namespace
) -> list[Result]:
    """Check every contender against ours, then let them take turns."""
    results, running = [], []
    for kind in kinds:
        result = Result(kind.name, case.kind, case.n_qubits, case.n_layers, case.rows, kind.note)
        results.append(result)
        sample = case.tensors(kind.row_limit or case.rows)
        result.scale = case.rows / len(sample[0])
        if kind is not Qpeft and is_hopeless(result, earlier, options.limit * result.scale):
            result.skipped = "too slow"
            continue
        contender = kind(case.circuit())
        compare(contender, Qpeft(case.circuit()), _first(sample, 8))
        if kind.is_torch:
            with _OperationCounter() as counter:
                contender.step(*_first(sample, 8))
            result.n_operations = counter.n_operations
        seconds = time_step(contender, sample)  # the first full step warms up
        running.append((result, contender, sample, 3 if seconds > SLOW else options.rounds))
    for turn in range(options.rounds):
        for result, contender, sample, rounds in running:
            if turn < rounds:
                result.milliseconds.append(1000 * time_step(contender, sample))
    for result, *_ in running:
        print(f"{result.label()}: {result.median():.1f} ms", file=sys.stderr, flush=True)
    return results


def is_hopeless(result: Result, earlier: list[Result], limit: float) -> bool:
    """Whether the same contender at the next smaller size leaves no chance to stay in time."""
    mine = (result.name, result.circuit, result.n_layers)
    smaller = [r for r in earlier if (r.name, r.circuit, r.n_layers) == mine]
    if not smaller:
        return False
    n_steps = (result.n_qubits - smaller[-1].n_qubits) / 2
    median = smaller[-1].median()
    return median is None or median * GROWTH**n_steps > 1000 * limit


def add_memory(kind: type[Contender], results: list[Result]) -> None:
    """Measure the memory of one contender in the cases in which it was timed."""
    if kind.row_limit is None:
        cases = [(r.circuit, r.n_qubits, r.n_layers, r.rows) for r in results]
        peaks = peaks_of_process(__file__, kind.name, cases)
        for result, peak in zip(results, peaks or (), strict=peaks is not None):
            result.megabytes = peak


def peaks_of(name: str, cases: list[tuple[str, int, int, int]]) -> list[float]:
    """Return how many MB a step of the named contender adds in each case."""
    (kind,) = (kind for kind in CONTENDERS if kind.name == name)
    peaks = []
    for case in (Case(*values) for values in cases):
        contender, sample = kind(case.circuit()), case.tensors(case.rows)
        peaks.append(peak_megabytes(lambda n, c=contender, s=sample: c.step(*_first(s, n))))
    return peaks


def compare(contender: Contender, ours: Contender, sample: tuple[Tensor, Tensor, Tensor]) -> None:
    """Stop the benchmark if a contender does not compute what we do."""
    names = ("expectations", "gradient for inputs", "gradient for weights")
    expected: Step = ours.step(*sample)
    for name, one, two in zip(names, contender.step(*sample), expected, strict=True):
        error = (one - two).abs().max() / two.abs().max().clamp(min=1)
        if one.shape != two.shape or not error < 1e-4:
            raise SystemExit(
                f"{contender.name} disagrees with {ours.name} on the {name} of circuit "
                f"'{contender.circuit.name}' with {contender.circuit.n_qubits} qubits: largest "
                f"difference {error:.2e}, allowed 1e-4."
            )


def time_step(contender: Contender, sample: tuple[Tensor, Tensor, Tensor]) -> float:
    """Return the CPU seconds of one step."""
    start = time.process_time()
    contender.step(*sample)
    return time.process_time() - start


class _OperationCounter(TorchDispatchMode):
    """Counts the operations that reach torch's kernels, views included."""

    n_operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n_operations += 1
        return function(*args, **(kwargs or {}))


def _first(sample: tuple[Tensor, Tensor, Tensor], n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    inputs, weights, mixture = sample
    return inputs[:n_rows], weights, mixture[:n_rows]


if __name__ == "__main__":
    # Libraries read these when they are loaded, which is before any line of ours.
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    main()
