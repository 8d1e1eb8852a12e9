"""The verbs below `qpeft jobs`: look at the journal of hardware jobs, and collect what is outstanding."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from qpeft.errors import JobsError, QpeftError
from qpeft.verb_parts import Options, compact_table, parse_options, remote_named, short

if TYPE_CHECKING:
    from qpeft.jobs import Decision, Row

console = Console()
jobs_app = typer.Typer(
    help="Look at the journal of jobs on quantum machines, and collect what is outstanding.",
    no_args_is_help=True,
)

JournalPath = Annotated[
    Path, typer.Option(help="The journal's file.", envvar="QPEFT_JOURNAL", show_envvar=True)
]
DEFAULT_JOURNAL = Path("qpeft-jobs.sqlite")


@jobs_app.command("list")
def list_(
    journal: JournalPath = DEFAULT_JOURNAL,
    last: Annotated[int, typer.Option(min=1, help="Show the last so many jobs.")] = 30,
    is_open: Annotated[bool, typer.Option("--open", help="Only those not at their end.")] = False,
) -> None:
    """Show the last jobs, and what each backend and run amount to."""
    from qpeft import jobs

    opened = _open_journal(journal)
    states = [state for state in jobs.State if state.is_open] if is_open else None
    table = compact_table("row", "for", "state", "sent (UTC)", n_numbers=3)
    for row in jobs.list_jobs(opened, states=states, n_last=last):
        shots_text = "exact" if row.shots is None else short(row.shots)
        numbers = (short(row.n_circuits), short(row.n_programs), shots_text)
        sent = (row.submitted_at or "")[5:16].replace("T", " ")
        table.add_row(str(row.id), row.label, row.state, sent, *numbers)
    console.print(table)
    table = compact_table("backend", "for", n_numbers=4)
    table.add_column("states")
    for total in jobs.totals(opened):
        states_text = ", ".join(f"{n} {state}" for state, n in total.n_rows.items())
        tally = total.sent
        counts = (tally.n_circuits, tally.n_programs, tally.n_shots, tally.n_jobs)
        table.add_row(total.backend, total.label, *map(short, counts), states_text)
    console.print(table)


@jobs_app.command()
def show(
    row: Annotated[int, typer.Argument(help="The row's number in the list.")],
    journal: JournalPath = DEFAULT_JOURNAL,
) -> None:
    """Show everything that is known of one job, its raw result included."""
    import json
    from dataclasses import asdict

    from qpeft import jobs

    details = jobs.show_job(_open_journal(journal), row)
    for name, value in asdict(details.row).items():
        console.print(f"{name}: {'' if value is None else value}", markup=False, soft_wrap=True)
    others = ", ".join(f"{r.id} ({r.state})" for r in details.attempts)
    console.print(f"rows of the same request: {others}", markup=False)
    if details.seconds_waited is not None:
        console.print(f"seconds from submission to result: {details.seconds_waited:.1f}")
    if details.calibration is not None:
        console.print(f"calibration: {details.calibration.get('taken_at', '')}", markup=False)
    raw = "none yet" if details.raw is None else json.dumps(details.raw)
    console.print(f"raw result: {raw[:2000]}", markup=False, soft_wrap=True)
    if len(raw) > 2000:
        console.print(f"... {len(raw) - 2000:,} characters more")


@jobs_app.command("export")
def export_jobs(
    path: Annotated[Path, typer.Argument(help="The CSV file to write.")],
    journal: JournalPath = DEFAULT_JOURNAL,
) -> None:
    """Write the whole journal as a table (CSV), one line a submission."""
    from qpeft import jobs

    n_rows = jobs.export_csv(_open_journal(journal), path)
    console.print(f"Wrote {n_rows} rows to {path}", soft_wrap=True)


@jobs_app.command()
def resume(
    journal: JournalPath = DEFAULT_JOURNAL,
    option: Options = None,
    wait: Annotated[bool, typer.Option(help="Wait until every job is at its end.")] = True,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take jobs from processes on other hosts too.")
    ] = False,
) -> None:
    """Collect outstanding results; ask about jobs of which nobody knows whether they were sent."""
    from qpeft import jobs

    options = parse_options(option)
    done = jobs.resume(
        _open_journal(journal),
        lambda name: remote_named(name, options),
        _ask,
        waits=wait,
        takes_over=take_over,
    )
    for words, rows in (
        ("collected", done.finished),
        ("failed at the machine", done.failed),
        ("still open", done.waiting),
        ("given up", done.forgotten),
    ):
        if rows:
            console.print(f"{words}: row {', '.join(str(row.id) for row in rows)}")
    for row, problem in done.problems:
        console.print(f"row {row.id}: {problem}", markup=False, soft_wrap=True)
    if not any((done.finished, done.failed, done.waiting, done.forgotten, done.problems)):
        console.print("Nothing is outstanding.")


@jobs_app.command()
def cancel(
    row: Annotated[int, typer.Argument(help="The row's number in the list.")],
    journal: JournalPath = DEFAULT_JOURNAL,
    option: Options = None,
) -> None:
    """Ask the machine not to run a job; `qpeft jobs resume` then writes down what became of it."""
    from qpeft import jobs

    found = _open_journal(journal).row(row)
    if found.state is not jobs.State.SUBMITTED or found.job_id is None:
        raise JobsError(f"Row {row} is {found.state}: there is nothing at the machine to cancel.")
    remote_named(found.backend, parse_options(option)).cancel(found.job_id)
    console.print(f"Asked '{found.backend}' to cancel job {found.job_id}.", markup=False)


@jobs_app.command()
def forget(
    row: Annotated[int, typer.Argument(help="The row's number in the list.")],
    journal: JournalPath = DEFAULT_JOURNAL,
) -> None:
    """Give up an open job, for example of a machine that is no more; it still counts as sent."""
    from qpeft import jobs

    given_up = jobs.forget(_open_journal(journal), row)
    console.print(f"Row {given_up.id} is {given_up.state}.")


def _open_journal(path: Path) -> Any:
    from qpeft.jobs import Journal

    if not path.exists():
        raise QpeftError(
            f"There is no journal {path}. Run this in the folder of your runs, or name it with --journal."
        )
    return Journal(path)


def _ask(row: "Row") -> "Decision":
    """Ask the owner about a job of which nobody here knows whether it was sent."""
    from qpeft.jobs import Forget, Later, SendAgain, WasSent

    console.print(
        f"Row {row.id}: {row.n_circuits} circuits in {row.n_programs} programs for '{row.label}' were being sent "
        f"to '{row.backend}' at {row.created_at} when the connection or the process ended. Look at your "
        f"account there: did it arrive?",
        markup=False,
        soft_wrap=True,
    )
    answers: dict[str, Callable[[], Decision]] = {
        "sent": lambda: WasSent(typer.prompt("The job's id there").strip()),
        "again": SendAgain,
        "forget": Forget,
        "later": Later,
    }
    prompt = "sent (it is there) / again (it is not; send it) / forget / later"
    answer = ""
    while answer not in answers:
        answer = typer.prompt(prompt, default="later").strip().lower()
    return answers[answer]()
