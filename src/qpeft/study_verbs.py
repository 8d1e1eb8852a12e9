"""The verbs of the command line that have to do with studies: study, report.

Like `qpeft.cli` they parse, call one function of a room above and show the result; heavy packages are imported
inside.
"""

import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from qpeft.verb_parts import compact_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qpeft.study.job_folder import State
    from qpeft.study.plan import Job, StudyPlan
    from qpeft.study.running import StudyOutcome

study_verbs = typer.Typer()
console = Console()
EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


@study_verbs.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study file (YAML); studies/ has some.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Show the plan and the parity table; run nothing.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="The short variant that the file describes.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes at once; by default what cores and memory allow."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key. Repeatable."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do failed runs again.")
    ] = False,
    take_from: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another study's folder, or published rows: the same runs are taken from there. Repeatable."
        ),
    ] = None,
) -> None:
    """Compare adapters fairly: arms x tasks x seeds, with the same budget for each; resumable."""
    from qpeft.study.reading import load_study

    spec = load_study(file, set_ or [], is_quick=quick)
    from qpeft.study.plan import n_workers_for, plan_study

    planned = plan_study(spec)
    n_cores = _n_cores()
    n_workers = workers or n_workers_for(planned, n_cores, _free_memory())
    from qpeft.study.folder import check_folder

    check_folder(planned, is_quick=quick)
    _show_plan(planned, n_workers)
    if plan:
        return
    from qpeft.study.progress import RichProgress
    from qpeft.study.running import run_study

    outcome = run_study(
        planned,
        n_workers=n_workers,
        n_threads=_n_threads(n_cores // n_workers),
        is_quick=quick,
        retry_failed=retry_failed,
        take_from=take_from or [],
        progress=RichProgress(console),
    )
    _show_outcome(outcome, _command(file, quick, workers, take_from or [], set_ or []))


class ReportFormat(StrEnum):
    """What `qpeft report` writes."""

    HTML = "html"
    MD = "md"
    CSV = "csv"


@study_verbs.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="The output folder of a study, or one with published rows.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Where to write; by default report/ in the folder.")
    ] = None,
    format_: Annotated[
        list[ReportFormat] | None,
        typer.Option("--format", help="This kind of file alone. Repeatable."),
    ] = None,
) -> None:
    """Say what a study has found: one self-contained page, Markdown for a README, and the rows."""
    from qpeft.errors import StudyError
    from qpeft.study.record import read_results

    results = read_results(folder)
    from qpeft.reports import FORMATS, write_csv, write_report

    formats = [kind for kind in FORMATS if not format_ or kind in format_]
    place = output or folder / "report"
    if (place / "study.json").exists():
        raise StudyError(
            f"{place} is the folder of a study, whose own files the report's would replace. Choose another "
            f"--output."
        )
    if formats == ["csv"]:
        paths = list(write_csv(results, place))
    else:
        from qpeft.study.statistics import find

        written = write_report(results, find(results), place, formats)
        paths = [p for p in (written.page, written.markdown, *written.rows) if p is not None]
    for path in paths:
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)


def _show_plan(plan: "StudyPlan", n_workers: int) -> None:
    from qpeft.study.running import done_so_far

    spec = plan.spec
    counts = {kind: sum(job.kind == kind for job in plan.jobs) for kind in ("trial", "run")}
    console.print(
        f"{_counted(len(plan.arms), 'arm')} x {_counted(len(plan.tasks), 'task')} x "
        f"{_counted(len(spec.seeds), 'seed')} = {_counted(counts['run'], 'run')}, "
        f"{_counted(counts['trial'], 'trial')} of learning rates, "
        f"{_counted(len(plan.tasks), 'evaluation')} of the base model; {n_workers} at once.",
        soft_wrap=True,
    )
    for task in plan.tasks:
        console.print(_parity_table(plan, task.name))
    for arm in spec.arms:
        for quantity, reason in arm.differs.items():
            text = f"{arm.label} differs from {spec.compared_with(arm)} in {quantity}: {reason}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    states = done_so_far(plan)
    n_done = sum(state == "succeeded" for state in states.values())
    console.print(f"Folder: {spec.output_dir}", soft_wrap=True, highlight=False)
    time = _time_left(plan, states, n_workers)
    text = f"{n_done} of {len(states)} jobs are done; time for the rest: {time}."
    console.print(text, soft_wrap=True)


def _time_left(plan: "StudyPlan", states: "Mapping[Job, State]", n_workers: int) -> str:
    """Return how long the rest may take, and how much of that is a guess."""
    from qpeft.study.estimate import estimate_seconds, guessed_kinds
    from qpeft.study.progress import duration

    folder = plan.spec.output_dir
    words = f"about {duration(estimate_seconds(plan, folder, states, n_workers))}"
    guessed = guessed_kinds(folder, states)
    if not guessed:
        return words
    is_measured = any(job.kind not in guessed for job in states)
    names = {"base": "evaluations of the base model", "trial": "trials", "run": "runs"}
    part = f"for {' and '.join(names[kind] for kind in guessed)} " if is_measured else ""
    return f"{words}, {part}a guess from one pass of the base model"


def _counted(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _parity_table(plan: "StudyPlan", task: str) -> Table:
    table = compact_table("arm", "with", n_numbers=0)
    table.title = f"Task {task}, {len(plan.task(task).splits.test)} test examples"
    table.title_justify = "left"
    for name in ("parameters", "tokens", "steps", "batch", "trials", "circuits/step"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in plan.parity:
        if row.task == task:
            numbers = (
                row.parameters,
                row.tokens,
                row.steps,
                row.batch_size,
                row.trials,
                row.circuits,
            )
            other = "" if row.compared_with == row.arm else row.compared_with
            table.add_row(row.arm, other, *(f"{n:,}" for n in numbers))
    return table


def _show_outcome(outcome: "StudyOutcome", command: str) -> None:
    if outcome.is_interrupted:
        text = f"Interrupted; all that was done is kept. Go on with:\n  {command}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_INTERRUPTED)
    from qpeft.study.record import write_record

    write_record(outcome.folder)
    console.print(f"Rows, adapters and predictions: {outcome.folder}", soft_wrap=True)
    text = f"What it says: qpeft report {shlex.quote(str(outcome.folder))}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    n_left = outcome.n_jobs - outcome.n_succeeded - outcome.n_failed
    if outcome.n_failed:
        failed = _counted(outcome.n_failed, "job")
        text = f"{failed} failed (see status.json and log.txt in their folders). Again: "
        console.print(text + f"{command} --retry-failed", markup=False, soft_wrap=True)
    if n_left:
        left = _counted(n_left, "job")
        text = f"{left} cut off, or waiting for one that was. Go on with: {command}"
        console.print(text, markup=False, soft_wrap=True)
    if outcome.n_failed or n_left:
        raise typer.Exit(EXIT_ERROR)


def _command(
    file: Path, quick: bool, workers: int | None, take_from: list[Path], overrides: list[str]
) -> str:
    words = ["qpeft", "study", str(file), *(["--quick"] if quick else [])]
    words += ["--workers", str(workers)] if workers else []
    words += [word for place in take_from for word in ("--take-from", str(place))]
    return shlex.join([*words, *(word for value in overrides for word in ("--set", value))])


def _n_threads(n_cores: int) -> int:
    """Return how many threads a worker on so many cores gets; OMP_NUM_THREADS has the last word."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(int(asked) if asked.isdigit() else n_cores, 1)


def _n_cores() -> int:
    # Where a process can be kept to some of the machine's cores, those alone count.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
