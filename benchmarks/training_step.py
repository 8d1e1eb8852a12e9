"""Times one training step of a model of SmolLM2-135M's shape with LoRA, QTHA and QTHA's controls.

    python benchmarks/training_step.py --quick
    python benchmarks/training_step.py --json training_step.json

A step is forward, backward and optimiser. One base model with random weights is shared; the adapters are attached
in turn, in rounds, on one thread, and CPU times are compared, so that what else the machine does hits all alike.
Memory is measured in a process of its own for each arm. Then the growth with tokens, circuit layers and qubits,
on 4 layers of the same width. `--sections compile` measures these under torch.compile. Float32, because a CPU
without bf16 instructions is many times slower in bf16.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from adapted_models import (
    N_WARM_UP_TOKENS,
    ONE_THREAD,
    Arm,
    Result,
    attached,
    count_parameters,
    in_one_thread,
    lora,
    machine_lines,
    markdown,
    qtha,
    ratio_to,
    status_megabytes,
    time_one_step,
    train_one_step,
    verdicts,
)
from memory import peak_megabytes, peaks_of_process
from qpeft.training.compiling import compiled

LENGTH = 128  # tokens in a sequence
TIME_TARGETS = {"QTHA r=4 L=1": 1.10, "QTHA r=8 L=1": 1.15, "QTHA r=8 L=8": 1.5}
MEMORY_TARGET = 1.05
SLOW, ROUNDS_OF_SLOW = 3.0, 2  # an arm of more than so many times LoRA's step stops early
GROWTH = ("tokens", "layers", "qubits")
SECTIONS = ("step", *GROWTH)
SMOLLM2_135M = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
# A vocabulary in which the head has the share of the products that it has in the 30-layer model.
FOUR_LAYERS = SMOLLM2_135M | {"num_hidden_layers": 4, "vocab_size": 49152 * 4 // 30}
TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "intermediate_size": 96,
    "vocab_size": 128,
    "tie_word_embeddings": True,
}
BASELINE = lora(8)
ARMS = (
    BASELINE,
    dataclasses.replace(BASELINE, name="LoRA r=8 again"),  # shows what the noise is
    qtha(4),
    qtha(8),
    qtha(8, groups=2),
    qtha(8, 8),
    *(qtha(4, core=core) for core in ("none", "mlp", "product", "frozen", "fourier")),
)
COMPILED_ARMS = (BASELINE, qtha(4), qtha(8, groups=2))


@dataclasses.dataclass(frozen=True)
class Point:
    """One place of a growth table: arms at a number of sequences, under a label."""

    label: str
    n_sequences: int
    arms: Sequence[Arm]


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    if options.memory_of:
        options.targets, options.quick, options.batch = json.load(sys.stdin)
        print(json.dumps(memory_of(options.memory_of, options)))
        return
    print(machine_lines("One training step beside one base model"), flush=True)
    report: dict[str, list[Result]] = {}
    if "step" in options.sections:
        report["step"] = step_results(options)
        print(step_section(report["step"], options), flush=True)
    small = build(TINY if options.quick else FOUR_LAYERS) if options.growth else None
    for name in options.growth:
        report[name] = growth_results(small, name, options)
        print(growth_section(name, report[name]), flush=True)
    if "compile" in options.sections:
        report["compile"] = compiled_results(options)
        print(compiled_section(report["compile"]), flush=True)
    if options.json:
        listed = {name: [vars(result) for result in found] for name, found in report.items()}
        options.json.write_text(json.dumps(listed, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny shapes, few rounds")
    parser.add_argument("--json", type=Path, help="also write every measured time to this file")
    parser.add_argument("--rounds", type=int, help="default: 5, quick: 2")
    parser.add_argument("--batch", type=int, help="sequences in the step; default: 8, quick: 2")
    parser.add_argument("--sections", nargs="+", choices=(*SECTIONS, "compile"))
    parser.add_argument("--targets", nargs="+", default=["q_proj", "v_proj"], help="or all-linear")
    parser.add_argument(
        "--only", nargs="+", metavar="ARM", help="arms of the step beside the first"
    )
    parser.add_argument("--all-layers", action="store_true", help="compile: 30 layers, not 4")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.batch = options.batch or (2 if options.quick else 8)
    unknown = set(options.only or ()) - {arm.name for arm in ARMS}
    if unknown:
        parser.error(f"no arm {sorted(unknown)}; there are {[arm.name for arm in ARMS]}")
    only = options.only
    options.arms = [a for a in ARMS if not only or a is BASELINE or a.name in only]
    options.sections = options.sections or SECTIONS
    options.growth = [name for name in GROWTH if name in options.sections]
    if options.targets == ["all-linear"]:
        options.targets = "all-linear"
    return options


def build(shape: dict[str, int | bool]) -> PreTrainedModel:
    """Return a model with random weights."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=2048))


def tokens_for(model: PreTrainedModel, n_sequences: int) -> Tensor:
    """Return random tokens (n_sequences, LENGTH)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(model.config.vocab_size, (n_sequences, LENGTH), generator=generator)


def step_results(options: argparse.Namespace) -> list[Result]:
    """Time all arms in one training step, then measure the memory of each."""
    base = build(TINY if options.quick else SMOLLM2_135M)
    results = measure(base, options.arms, tokens_for(base, options.batch), options)
    del base
    if options.no_memory:
        return results
    for result in results:
        settings = [options.targets, options.quick, options.batch]
        peaks = peaks_of_process(__file__, result.name, settings)
        if peaks is not None:
            result.added_megabytes, result.peak_megabytes = peaks
            print(f"{result.name}: peak {peaks[1]:.0f} MB", file=sys.stderr, flush=True)
    return results


def measure(
    base: PreTrainedModel, arms: Sequence[Arm], tokens: Tensor, options: argparse.Namespace
) -> list[Result]:
    """Let the arms take turns; every round starts with another one."""
    results = []
    for arm in arms:
        counts = count_parameters(base, arm.config(options.targets))
        results.append(Result(arm.name, "", *counts))
    pairs = list(zip(arms, results, strict=True))
    with attached(base, arms[0].config(options.targets)) as (model, optimizer):
        train_one_step(
            model, optimizer, tokens
        )  # the process's first step is slower: 12 s, not 9.5
    for turn in range(options.rounds):
        first = turn * 3 % len(pairs)
        for arm, result in pairs[first:] + pairs[:first]:
            if turn >= ROUNDS_OF_SLOW and ratio_to(result, results[0])[0] > SLOW:
                continue
            with attached(base, arm.config(options.targets)) as (model, optimizer):
                train_one_step(model, optimizer, tokens[:, :N_WARM_UP_TOKENS])
                time_one_step(model, optimizer, tokens, result)
        print(f"round {turn + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return results


def memory_of(name: str, options: argparse.Namespace) -> list[float]:
    """Return what a step of the named arm adds, and the peak of the process, in MB."""
    (arm,) = (arm for arm in ARMS if arm.name == name)
    base = build(TINY if options.quick else SMOLLM2_135M)
    tokens = tokens_for(base, options.batch)
    with attached(base, arm.config(options.targets)) as (model, optimizer):
        added = peak_megabytes(lambda n: train_one_step(model, optimizer, tokens[:, :n]))
        return [added, status_megabytes("VmHWM")]


def growth_points(name: str, options: argparse.Namespace) -> list[Point]:
    """Return where a growth table measures."""
    batch = options.batch
    if name == "tokens":
        sizes = (1, 2) if options.quick else (1, 2, 4, 8, 16)
        arms = (BASELINE, qtha(4), qtha(8), qtha(8, groups=2))
        return [Point(f"{n * LENGTH} tokens", n, arms) for n in sizes]
    if name == "layers":
        layers = (1, 2) if options.quick else (1, 2, 4, 8)
        return [Point(f"L = {n}", batch, (BASELINE, qtha(4, n), qtha(8, n))) for n in layers]
    qubits = (4, 6) if options.quick else (4, 6, 8, 10)
    return [Point(f"n = {n}", batch, (BASELINE, qtha(n), qtha(n, core="none"))) for n in qubits]


def growth_results(base: PreTrainedModel, name: str, options: argparse.Namespace) -> list[Result]:
    results = []
    for point in growth_points(name, options):
        found = measure(base, point.arms, tokens_for(base, point.n_sequences), options)
        for result in found:
            result.point = point.label
        results += found
    return results


@dataclasses.dataclass
class CompiledResult(Result):
    """What was measured of one arm under torch.compile."""

    compile_seconds: float = 0.0  # wall time of the first step, with the compiler's own processes


def compiled_results(options: argparse.Namespace) -> list[Result]:
    """Time plain and compiled steps in turn; return both of each arm, the plain one first.

    Every arm has a model of its own, because its compiled layers must stay while the others run.
    """
    results: list[Result] = []
    shape = TINY if options.quick else SMOLLM2_135M if options.all_layers else FOUR_LAYERS
    with ExitStack() as stack:
        runs = []
        for arm in COMPILED_ARMS:
            base = build(shape)
            tokens = tokens_for(base, options.batch)
            config = arm.config(options.targets)
            model, optimizer = stack.enter_context(attached(base, config))
            pair = [Result(arm.name, "plain"), CompiledResult(arm.name, "compiled")]
            train_one_step(model, optimizer, tokens)
            stack.enter_context(compiled(model))
            began = time.perf_counter()
            train_one_step(model, optimizer, tokens)
            pair[1].compile_seconds = time.perf_counter() - began
            print(f"compiled {arm.name}", file=sys.stderr, flush=True)
            runs.append((model, optimizer, pair))
            results += pair
        for turn in range(options.rounds):
            for model, optimizer, pair in runs[turn % 3 :] + runs[: turn % 3]:
                for result in pair if turn % 2 else reversed(pair):
                    is_plain = result.point == "plain"
                    with torch.compiler.set_stance("force_eager" if is_plain else "default"):
                        time_one_step(model, optimizer, tokens, result)
    return results


def compiled_section(results: Sequence[Result]) -> str:
    """Return the table of plain and compiled steps."""
    rows = [["arm", "plain, CPU s", "compiled, CPU s", "compiled / plain (range)"]]
    rows[0] += ["to LoRA, plain", "to LoRA, compiled", "first compiled step, wall s"]
    for plain, other in zip(results[::2], results[1::2], strict=True):
        cells = [f"{statistics.median(result.cpu_seconds):.3f}" for result in (plain, other)]
        for pair in ((other, plain), (plain, results[0]), (other, results[1])):
            median, low, high = ratio_to(*pair)
            cells.append(f"{median:.3f} ({low:.3f} to {high:.3f})")
        rows.append([plain.name, *cells, f"{vars(other)['compile_seconds']:.0f}"])
    return "\n".join(["## torch.compile of the layers", "", markdown(rows), ""])


def step_section(results: Sequence[Result], options: argparse.Namespace) -> str:
    """Return the table of the step and what it says of the targets."""
    header = ["arm", "trained", "fewer than LoRA, same r", "CPU s", "ratio (range)", "wall s"]
    header += ["step adds, MB", "ratio", "peak, MB", "ratio"]
    rows, first = [header], results[0]
    for result in results:
        median, low, high = ratio_to(result, first)
        cells = [result.name, f"{result.n_parameters:,}", f"{result.saving:.1%}"]
        cells += [f"{statistics.median(result.cpu_seconds):.3g}"]
        cells += [f"{median:.3f} ({low:.3f} to {high:.3f})"]
        cells += [f"{statistics.median(result.wall_seconds):.3g}"]
        for mine, its in (
            (result.added_megabytes, first.added_megabytes),
            (result.peak_megabytes, first.peak_megabytes),
        ):
            cells += ["-", "-"] if mine is None or not its else [f"{mine:.0f}", f"{mine / its:.3f}"]
        rows.append(cells)
    shape = "tiny shapes" if options.quick else "SmolLM2-135M's shape"
    named = isinstance(options.targets, list)
    targets = ", ".join(options.targets) if named else options.targets
    title = f"## Step: {shape}, {options.batch} x {LENGTH} tokens, float32, {targets}"
    return "\n".join(
        [title, "", markdown(rows), "", verdicts(results, TIME_TARGETS, MEMORY_TARGET), ""]
    )


def growth_section(name: str, results: Sequence[Result]) -> str:
    """Return a growth table: a row for each arm, a column for each point."""
    points = list(dict.fromkeys(result.point for result in results))
    kinds: dict[str, list[str]] = {}
    for point in points:
        group = [result for result in results if result.point == point]
        for result in group:
            median, low, high = ratio_to(result, group[0])
            seconds = statistics.median(result.cpu_seconds)
            cell = f"{seconds:.3g} s, {median:.3f} ({low:.3f} to {high:.3f})"
            kinds.setdefault(_without_point(result, name), []).append(cell)
    rows = [["arm", *points], *([kind, *cells] for kind, cells in kinds.items())]
    return "\n".join([f"## Growth with {name}: 4 layers of the same width", "", markdown(rows), ""])


def _without_point(result: Result, name: str) -> str:
    """Return an arm's name without the number that the columns tell."""
    number = result.point.split(" = ")[-1]
    if name == "layers":
        return result.name.replace(f"L={number}", "L")
    if name == "qubits" and result.name != BASELINE.name:
        return result.name.replace(f"r={number}", "r=n")
    return result.name


if __name__ == "__main__":
    in_one_thread(ONE_THREAD)
    main()
