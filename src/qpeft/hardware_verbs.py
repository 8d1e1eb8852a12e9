"""The verbs of the command line that have to do with quantum machines: plan, jobs, calibrate, export, emulator.

Like `qpeft.cli` they parse, call one function of a room above and show the result; heavy packages are imported
inside.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from qpeft.errors import ConfigError, QpeftError

if TYPE_CHECKING:
    from qpeft.jobs import Decision, Row
    from qpeft.training.hardware_plan import Cost, HardwarePlan, StrategyPlan

verbs = typer.Typer()
jobs_app = typer.Typer(
    help="Look at the journal of jobs on quantum machines, and collect what is outstanding.",
    no_args_is_help=True,
)
verbs.add_typer(jobs_app, name="jobs")
console = Console()

Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the backend. Repeatable."),
]
JournalPath = Annotated[
    Path, typer.Option(help="The journal's file.", envvar="QPEFT_JOURNAL", show_envvar=True)
]
DEFAULT_JOURNAL = Path("qpeft-jobs.sqlite")


@verbs.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe whose adapter uses a machine.")],
    backend: Annotated[
        str | None, typer.Option(help="Plan for this machine, whatever the recipe says.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Of each circuit.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key. Repeatable."),
    ] = None,
) -> None:
    """Count what a recipe would send to a quantum machine, for each way to a gradient."""
    from qpeft.recipe import load_recipe

    overrides = list(set_ or [])
    overrides += [f"adapter.backend={backend}"] if backend else []
    overrides += [f"adapter.shots={shots}"] if shots else []
    loaded = load_recipe(recipe, overrides)
    from qpeft.training.hardware_plan import plan_hardware

    for found in plan_hardware(loaded):
        _show_plan(found)


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
    table = _compact_table("row", "for", "state", "sent (UTC)", n_numbers=3)
    for row in jobs.list_jobs(opened, states=states, n_last=last):
        shots_text = "exact" if row.shots is None else _short(row.shots)
        numbers = (_short(row.n_circuits), _short(row.n_programs), shots_text)
        sent = (row.submitted_at or "")[5:16].replace("T", " ")
        table.add_row(str(row.id), row.label, row.state, sent, *numbers)
    console.print(table)
    table = _compact_table("backend", "for", n_numbers=4)
    table.add_column("states")
    for total in jobs.totals(opened):
        states_text = ", ".join(f"{n} {state}" for state, n in total.n_rows.items())
        tally = total.sent
        counts = (tally.n_circuits, tally.n_programs, tally.n_shots, tally.n_jobs)
        table.add_row(total.backend, total.label, *map(_short, counts), states_text)
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

    options = _parse_options(option)
    done = jobs.resume(
        _open_journal(journal),
        lambda name: _remote_named(name, options),
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


@verbs.command()
def calibrate(
    backend: Annotated[str, typer.Argument(help="A machine with a calibration.")] = "emulator",
    option: Options = None,
    output_dir: Annotated[Path, typer.Option(help="Where the snapshot and the picture go.")] = Path(
        "calibrations"
    ),
) -> None:
    """Take a snapshot of a chip's qualities, draw it, and keep both."""
    from qpeft.backends import get_remote
    from qpeft.chips.chip_drawing import draw_chip_svg, draw_chip_text

    snapshot = get_remote(backend, _parse_options(option)).calibration()
    if snapshot is None:
        raise ConfigError(f"Backend '{backend}' has no calibration to show.")
    output_dir.mkdir(parents=True, exist_ok=True)
    stamp = "".join(c for c in snapshot.taken_at if c.isalnum())
    path = output_dir / f"{snapshot.chip}-{stamp}.json"
    snapshot.save(path)
    picture = path.with_suffix(".svg")
    picture.write_text(draw_chip_svg(snapshot), encoding="utf-8")
    typer.echo(draw_chip_text(snapshot))
    console.print(f"{snapshot.source}\n{path}\n{picture}", markup=False, soft_wrap=True)


@verbs.command()
def export(
    path: Annotated[Path, typer.Argument(help="The folder of a trained QTHA adapter.")],
    output_dir: Annotated[Path, typer.Argument(help="The folder to write.")],
    surrogate: Annotated[
        bool, typer.Option("--surrogate", help="Replace the circuits by their polynomials.")
    ] = False,
    backend: Annotated[
        str | None, typer.Option(help="Measure the circuits there; by default where they ran.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Of each circuit.")] = None,
    option: Options = None,
    surrogate_weight: Annotated[
        int | None, typer.Option(min=1, help="Leave out terms of more inputs than this.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a folder that is there.")] = False,
) -> None:
    """Turn a trained adapter into a purely classical one with the same outputs."""
    if not surrogate:
        raise ConfigError(
            "An adapter is exported as its surrogate; say so: qpeft export FOLDER TARGET --surrogate"
        )
    from qpeft.adapters import export_surrogate
    from qpeft.layers import Evaluation

    if backend is None and (shots is not None or option):
        raise ConfigError("--shots and --option need --backend, which they are for.")
    where = (
        Evaluation(
            backend,
            _parse_options(option),
            shots,
            "surrogate",
            surrogate_weight=surrogate_weight,
        )
        if backend
        else None
    )
    done = export_surrogate(path, output_dir, where, overwrite=overwrite)
    kind = "exact" if done.is_exact else "an approximation"
    console.print(
        f"{done.n_layers} layers, {done.n_circuits:,} circuits evaluated. The polynomials are {kind}; "
        f"the largest difference from the measured layers is {done.disagreement:.1e}."
    )
    if not done.is_exact:
        console.print(
            f"The terms left out: {done.truncation_error:.3f} root mean square in an expectation value."
        )
    console.print(f"A classical PEFT adapter: {done.folder}", soft_wrap=True)


@verbs.command()
def emulator(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address. There is no encryption: stay on this machine.")
    ] = "127.0.0.1",
    folder: Annotated[Path, typer.Option(help="Holds the queue and the audit.")] = Path(
        "qpeft-emulator"
    ),
    keys: Annotated[
        Path | None,
        typer.Option(help="The file of users' keys; by default those of QPEFT_EMULATOR_KEYS."),
    ] = None,
    add_user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Make a key for a user, show it once, and end."),
    ] = None,
    calibration: Annotated[str, typer.Option(help="A packaged name or a file.")] = "wukong",
    seed: Annotated[int, typer.Option(help="Of the outcomes.")] = 0,
    queue_seconds: Annotated[float, typer.Option(min=0, help="How long a job waits.")] = 0.0,
) -> None:
    """Serve the emulated chip as a cloud that Origin's own client can use (docs/origin.md)."""
    from qpeft.chips.calibration import load_calibration
    from qpeft.service import KeyRing, ServiceSettings, run_service
    from qpeft.service import add_user as make_key

    if add_user is not None:
        if keys is None:
            raise ConfigError("--add-user needs --keys, the file that keeps the keys' hashes.")
        console.print(f"Key of '{add_user}', shown this once: {make_key(keys, add_user)}")
        return
    chips = {"origin_wukong": load_calibration(calibration)}
    settings = ServiceSettings(chips=chips, seed=seed, queue_delay=queue_seconds)
    ring = KeyRing.from_file(keys) if keys else None
    run_service(folder, ring, settings, host=host, port=port)


@verbs.command()
def conformance(
    backends: Annotated[
        list[str] | None, typer.Argument(help="Which; by default all that are installed here.")
    ] = None,
    option: Options = None,
    noisy: Annotated[bool, typer.Option(help="It has noise; bounds are wider.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Show every check, not only failures.")
    ] = False,
) -> None:
    """Check that backends keep the conventions and promises that layers rely on."""
    from qpeft.backends.conformance import Outcome, check_conformance

    table = _compact_table("backend", n_numbers=0)
    for name in ("passed", "failed", "skipped"):
        table.add_column(name, justify="right")
    n_failed = 0
    for name in backends or LOCAL_BACKENDS:
        target, is_noisy = _target(name, _parse_options(option))
        report = check_conformance(target, is_noisy=is_noisy or noisy)
        counts = [
            sum(check.outcome is outcome for check in report.checks)
            for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)
        ]
        table.add_row(name, *map(str, counts))
        n_failed += counts[1]
        for claim, outcome, detail in report.rows():
            if full or outcome == str(Outcome.FAILED):
                console.print(f"{name}: {claim}: {outcome}. {detail}", markup=False, soft_wrap=True)
    console.print(table)
    if n_failed:
        raise typer.Exit(1)


LOCAL_BACKENDS = (
    "exact",
    "reference",
    "noisy",
    "emulator",
    "qiskit:aer",
    "pennylane:default.qubit",
    "pennylane:lightning.qubit",
    "pennylane:default.mixed",
)
"""What `qpeft conformance` checks by default; a device stands behind a colon."""


def _target(name: str, options: Mapping[str, Any]) -> tuple[Any, bool]:
    """Return a backend or remote, and whether it is known to be noisy."""
    from qpeft.backends import BACKENDS, get_backend

    if name in BACKENDS:
        return get_backend(name, options), name == "noisy"
    is_noisy = name in ("emulator", "origin") or name.startswith("qiskit:fake")
    return _remote_named(name, options), is_noisy


def _show_plan(plan: "HardwarePlan") -> None:
    shots = "exact probabilities" if plan.shots is None else f"{plan.shots:,} shots a circuit"
    console.print(
        f"[bold]{plan.adapter}[/bold] on '{plan.backend}': {plan.n_layers} adapted layers with "
        f"{plan.n_blocks} circuits of {plan.n_qubits} qubits; {plan.n_steps:,} steps of about "
        f"{plan.n_tokens:,} tokens; {shots}; {plan.circuits_per_program:.1f} circuits a program."
    )
    for title, is_step in (("A step sends:", True), ("All sends:", False)):
        console.print(title)
        table = _compact_table("gradient", n_numbers=4)
        has_price = any(strategy.money is not None for strategy in plan.strategies)
        extra = [] if is_step else ["time", "cost"] if has_price else ["time"]
        for name in extra:
            table.add_column(name, justify="right", no_wrap=True)
        for strategy in plan.strategies:
            cells = _counts(strategy.step if is_step else strategy.total)
            price = _price(plan, strategy)[: len(extra)]
            table.add_row(_strategy_name(strategy), *cells, *price)
        console.print(table)
    console.print("* what the recipe says. In all: training and evaluation of the trained adapter.")
    console.print(f"Times and prices: {plan.price_source}.", markup=False)


def _compact_table(*names: str, n_numbers: int) -> Table:
    """Return a table without rules between the columns: names, and then the first so many numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in ("circuits", "programs", "shots", "jobs")[:n_numbers]:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _strategy_name(strategy: "StrategyPlan") -> str:
    rule = f", {strategy.angle_gradient}" if strategy.angle_gradient else ""
    return f"{strategy.gradient}{rule}{' *' if strategy.is_chosen else ''}"


def _counts(cost: "Cost") -> tuple[str, ...]:
    return tuple(_short(n) for n in (cost.circuits, cost.programs, cost.shots, cost.jobs))


def _price(plan: "HardwarePlan", strategy: "StrategyPlan") -> tuple[str, str]:
    money = "not known" if strategy.money is None else f"{strategy.money:,.2f} {plan.currency}"
    return "not known" if strategy.seconds is None else _duration(strategy.seconds), money


def _short(n: int) -> str:
    """Return a count in at most six characters or so: 3,402, 205k, 13.8M."""
    if n < 10_000:
        return f"{n:,}"
    for size, unit in ((10**9, "G"), (10**6, "M")):
        if n >= size:
            return f"{n / size:,.3g}{unit}" if n < 1000 * size else f"{n / size:,.0f}{unit}"
    return f"{n / 1000:.3g}k"


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _open_journal(path: Path) -> Any:
    from qpeft.jobs import Journal

    if not path.exists():
        raise QpeftError(
            f"There is no journal {path}. Run this in the folder of your runs, or name it with --journal."
        )
    return Journal(path)


def _parse_options(texts: list[str] | None) -> dict[str, Any]:
    import yaml

    options = {}
    for text in texts or []:
        key, found, value = text.partition("=")
        if not found or not key:
            raise ConfigError(f"--option takes KEY=VALUE; got '{text}'.")
        options[key] = yaml.safe_load(value)
    return options


def _remote_named(name: str, options: Mapping[str, Any]) -> Any:
    """Return the remote of a journal's row, whose name may hold its device behind a colon."""
    from qpeft.backends import get_remote

    kind, has_device, device = name.partition(":")
    own: dict[str, Any] = {"device": device} if has_device else {}
    if kind == "origin" and has_device:
        chip, has_url, url = device.partition("@")
        own = {"chip": chip, **({"url": url} if has_url else {})}
    return get_remote(kind, {**own, **options})


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
