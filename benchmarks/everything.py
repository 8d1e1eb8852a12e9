"""Measures all that docs/benchmarks.md and docs/engine.md show, and puts the tables into them.

    python benchmarks/everything.py                        # hours on two idle cores; 18 GB for the 7B shape
    python benchmarks/everything.py --only step large-7b   # some of it; the other tables stay as they are
    python benchmarks/everything.py --quick --output /tmp/pages

Each part is one of the scripts beside this one, run in a process of its own. Its output, which begins with its
command, processor and versions, takes the place of what stood between the two marks of that part:

    <!-- begin: step -->
    <!-- end: step -->
"""

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"


@dataclasses.dataclass(frozen=True)
class Part:
    """One run of a script.

    Args:
        name: As in the marks.
        page: The page that shows it.
        command: The script and its arguments.
    """

    name: str
    page: str
    command: Sequence[str]


LAYER = ("quantum_layer.py", "--rounds", "5")
PARTS = (
    Part("layer", "engine.md", (*LAYER, "--qubits", "2", "4", "6", "8", "10")),
    Part("layer-depth", "engine.md", (*LAYER, "--qubits", "4", "8", "--layers", "1", "4", "10")),
    Part("layer-128-rows", "engine.md", (*LAYER, "--qubits", "4", "8", "--rows", "128")),
    Part("layer-4096-rows", "engine.md", (*LAYER, "--qubits", "4", "8", "--rows", "4096")),
    Part("layer-12", "engine.md", (*LAYER, "--qubits", "12", "--no-memory")),
    Part("step", "benchmarks.md", ("training_step.py", "--sections", "step", "--rounds", "5")),
    Part(
        "growth",
        "benchmarks.md",
        ("training_step.py", "--sections", "tokens", "layers", "qubits", "--rounds", "3"),
    ),
    Part("compile", "benchmarks.md", ("training_step.py", "--sections", "compile")),
    Part("large-1.5b", "benchmarks.md", ("large_model.py", "--rounds", "3")),
    Part(
        "large-7b",
        "benchmarks.md",
        (
            *("large_model.py", "--models", "deepseek-r1-distill-qwen-7b", "--rounds", "1"),
            *("--only", "QTHA r=4 L=1", "QTHA r=10 L=1"),
        ),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes; the numbers mean nothing"
    )
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS])
    parser.add_argument("--output", type=Path, default=DOCS, help="folder of the two pages")
    options = parser.parse_args()
    if options.quick and options.output.resolve() == DOCS.resolve():
        parser.error("--quick needs --output: its numbers do not belong into docs/")
    for part in PARTS:
        if options.only is None or part.name in options.only:
            print(f"{part.name}: {' '.join(part.command)}", file=sys.stderr, flush=True)
            put(part, run(part, is_quick=options.quick), options.output)


def run(part: Part, *, is_quick: bool) -> str:
    """Return what a part prints, its headings one level down."""
    script, *arguments = part.command
    command = [sys.executable, str(HERE / script), *arguments, *(["--quick"] if is_quick else [])]
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment = os.environ | one_thread
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return re.sub(r"^#", "##", done.stdout, flags=re.MULTILINE).strip()


def put(part: Part, text: str, folder: Path) -> None:
    """Write a part's output into its page, between its marks."""
    page = folder / part.page
    before = page if page.exists() else DOCS / part.page
    begin, end = f"<!-- begin: {part.name} -->\n", f"<!-- end: {part.name} -->"
    head, found, rest = before.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        sys.exit(f"{before} has no marks '{begin.strip()}' and '{end}' to put the tables between")
    page.parent.mkdir(parents=True, exist_ok=True)
    partial = page.with_name(f".{page.name}.partial")
    partial.write_text(head + begin + text + "\n" + end + tail, encoding="utf-8")
    os.replace(partial, page)


if __name__ == "__main__":
    main()
