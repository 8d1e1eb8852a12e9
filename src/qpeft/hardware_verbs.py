"""The verbs of the command line that have to do with quantum machines: plan, jobs, calibrate, export, emulator.

Like `qpeft.cli` they parse, call one function of a room above and show the result; heavy packages are imported
inside.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from qpeft.errors import ConfigError, MissingExtraError
from qpeft.files import written_whole
from qpeft.job_verbs import jobs_app
from qpeft.verb_parts import Options, compact_table, parse_options, remote_named, short

if TYPE_CHECKING:
    from qpeft.training.hardware_plan import Cost, HardwarePlan, StrategyPlan

verbs = typer.Typer()
verbs.add_typer(jobs_app, name="jobs")
console = Console()


@verbs.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe whose adapter uses a machine.")],
    backend: Annotated[
        str | None,
        typer.Option(help="Plan for this machine, with its default options (others by --set)."),
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Of each circuit.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key. Repeatable."),
    ] = None,
) -> None:
    """Count what a recipe would send to a quantum machine, for each way to a gradient."""
    from qpeft.recipe import load_recipe

    # The recipe's options belong to the recipe's machine.
    overrides = [f"adapter.backend={backend}", "adapter.backend_options=null"] if backend else []
    overrides += [f"adapter.shots={shots}"] if shots else []
    overrides += set_ or []
    loaded = load_recipe(recipe, overrides)
    from qpeft.training.hardware_plan import plan_hardware

    for found in plan_hardware(loaded):
        _show_plan(found)


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

    snapshot = get_remote(backend, parse_options(option)).calibration()
    if snapshot is None:
        raise ConfigError(f"Backend '{backend}' has no calibration to show.")
    output_dir.mkdir(parents=True, exist_ok=True)
    stamp = "".join(c for c in snapshot.taken_at if c.isalnum())
    path = output_dir / f"{snapshot.chip}-{stamp}.json"
    snapshot.save(path)
    picture = path.with_suffix(".svg")
    with written_whole(picture) as partial:
        partial.write_text(draw_chip_svg(snapshot), encoding="utf-8")
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
            parse_options(option),
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

    table = compact_table("backend", n_numbers=0)
    for name in ("passed", "failed", "skipped"):
        table.add_column(name, justify="right")
    n_failed = 0
    for name in backends or LOCAL_BACKENDS:
        try:
            target, is_noisy = _target(name, parse_options(option))
        except MissingExtraError as error:
            if backends:
                raise
            console.print(f"{name}: {error}", markup=False, soft_wrap=True)
            continue
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
    return remote_named(name, options), is_noisy


def _show_plan(plan: "HardwarePlan") -> None:
    shots = "exact probabilities" if plan.shots is None else f"{plan.shots:,} shots a circuit"
    console.print(
        f"[bold]{plan.adapter}[/bold] on '{plan.backend}': {plan.n_layers} adapted layers with "
        f"{plan.n_blocks} circuits of {plan.n_qubits} qubits; {plan.n_steps:,} steps of about "
        f"{plan.n_tokens:,} tokens; {shots}; {plan.circuits_per_program:.1f} circuits a program."
    )
    for title, is_step in (("A step sends:", True), ("All sends:", False)):
        console.print(title)
        table = compact_table("gradient", n_numbers=4)
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


def _strategy_name(strategy: "StrategyPlan") -> str:
    rule = f", {strategy.angle_gradient}" if strategy.angle_gradient else ""
    return f"{strategy.gradient}{rule}{' *' if strategy.is_chosen else ''}"


def _counts(cost: "Cost") -> tuple[str, ...]:
    return tuple(short(n) for n in (cost.circuits, cost.programs, cost.shots, cost.jobs))


def _price(plan: "HardwarePlan", strategy: "StrategyPlan") -> tuple[str, str]:
    money = "not known" if strategy.money is None else f"{strategy.money:,.2f} {plan.currency}"
    return "not known" if strategy.seconds is None else _duration(strategy.seconds), money


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"
