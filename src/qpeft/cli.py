"""The command line: each verb parses, calls one function of a room above it and shows the result.

Heavy packages are imported inside the verbs, so that `qpeft --help` and a wrong recipe answer at once.
"""

import os
import re
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qpeft import __version__
from qpeft.errors import QpeftError, RecipeError
from qpeft.hardware_verbs import verbs
from qpeft.study_verbs import study_verbs

app = typer.Typer(
    help="Fine-tune language models with quantum-hybrid adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key, e.g. adapter.r=8. Repeatable."
    ),
]
EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def main() -> None:
    """Run the command line; an error of the user's is one line a problem, without a traceback."""
    # TRL reports the making of a trainer to its hub; nobody asked for that here.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        app(prog_name="qpeft")
    except RecipeError as error:
        for problem in error.problems:
            _complain(problem)
        sys.exit(EXIT_ERROR)
    except (QpeftError, OSError) as error:
        _complain(" ".join(str(error).split()))
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="A recipe (YAML); `qpeft init` writes one.")],
    set_: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on with the run in output_dir.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Delete the run in output_dir first.")] = False,
    accelerate_config: Annotated[
        Path | None,
        typer.Option(help="Train in the processes that this file of `accelerate config` asks for."),
    ] = None,
) -> None:
    """Train a recipe's adapter and its baselines, and evaluate them beside the base model."""
    from qpeft.recipe import load_recipe

    loaded = load_recipe(recipe, set_ or [])
    words = [str(recipe), *(word for value in set_ or [] for word in ("--set", value))]
    if accelerate_config is not None:
        from qpeft.training import launching

        words += ["--accelerate-config", str(accelerate_config)]
        flags = ["--resume"] * resume + ["--overwrite"] * overwrite
        if not launching.is_launched():
            raise typer.Exit(launching.launch(accelerate_config, ["train", *words, *flags]))
    from qpeft import training

    result = training.train(
        loaded, resume=resume, overwrite=overwrite, reporter=training.RichReporter(console)
    )
    # Of several processes the main one speaks, whoever has started them.
    console.quiet = not result.is_main
    if result.is_interrupted:
        console.print(
            f"Interrupted; all that was done is kept. Go on with:\n"
            f"  qpeft train {shlex.join(words)} --resume",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    console.print(f"Adapters, predictions and results.json: {result.output_dir}", soft_wrap=True)


@app.command("eval")
def evaluate(
    path: Annotated[str, typer.Argument(help="A run's folder, an adapter's folder or a model.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Test data and settings; by default the run's own recipe.")
    ] = None,
    set_: Overrides = None,
    n_shots: Annotated[
        list[int] | None, typer.Option(help="Solved examples in the prompt. Repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many test examples.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="By default `eval/` in the path.")] = None,
) -> None:
    """Evaluate adapters and their base model side by side; every prediction is written down."""
    from qpeft.recipe import load_recipe

    if set_ and recipe is None:
        raise RecipeError(["--set: needs --recipe, which it overrides"])
    loaded = load_recipe(recipe, set_ or []) if recipe else None
    from qpeft import training

    result = training.evaluate_run(
        path,
        recipe=loaded,
        n_shots=n_shots,
        n_examples=limit,
        output_dir=output_dir,
        reporter=training.RichReporter(console),
    )
    console.print(f"Predictions and results.json: {result.output_dir}", soft_wrap=True)


@app.command()
def chat(
    path: Annotated[str, typer.Argument(help="A run's folder, an adapter's folder or a model.")],
    adapter: Annotated[
        str | None, typer.Option(help="Which adapter of a run; by default its main one.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
) -> None:
    """Talk to a trained adapter in the terminal; an empty line or Ctrl-D ends it."""
    from qpeft import training

    model = training.load_for_chat(path, adapter)
    console.print(f"[dim]{model.name}. An empty line or Ctrl-D ends the talk.[/dim]")
    history: list[dict[str, str]] = []
    while question := _ask():
        history.append({"role": "user", "content": question})
        reply = ""
        for piece in training.stream_reply(
            model.model,
            model.tokenizer,
            _chat_prompt(model, history),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            stop=model.stop,
        ):
            reply += piece
            console.out(piece, end="", highlight=False)
        console.print()
        history.append({"role": "assistant", "content": reply})


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option(help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented recipe to start from."""
    from qpeft.recipe_template import write_template

    write_template(path, is_replacing=force)
    console.print(f"Wrote {path}. Edit it, then: qpeft train {path}", soft_wrap=True)


@app.command()
def methods() -> None:
    """List the PEFT methods that can stand behind `method:` in a recipe."""
    from rich.table import Table

    from qpeft.training.methods import list_methods

    table = Table("method", "configuration", "what it does")
    for method in sorted(list_methods(), key=lambda method: (not method.is_quantum, method.name)):
        table.add_row(method.name, method.config_class.__name__, method.summary)
    console.print(table)


class CircuitFormat(StrEnum):
    """How `qpeft circuit` writes a circuit."""

    TEXT = "text"
    SVG = "svg"
    QASM3 = "qasm3"


@app.command()
def circuit(
    ansatz: Annotated[str, typer.Option(help="reupload, reupload_v1 or encode_once.")] = "reupload",
    n_qubits: Annotated[int, typer.Option("--n-qubits", "-n", help="Qubits.")] = 4,
    n_layers: Annotated[int, typer.Option("--n-layers", "-l", help="Layers L.")] = 1,
    entangled: Annotated[bool, typer.Option(help="With the entangling rings.")] = True,
    format_: Annotated[
        CircuitFormat, typer.Option("--format", help="A drawing, or OpenQASM 3.")
    ] = CircuitFormat.TEXT,
) -> None:
    """Draw the circuit of an ansatz and count its gates, depth and angles."""
    from qpeft.circuits import build_ansatz
    from qpeft.circuits.drawing import draw_svg, draw_text
    from qpeft.circuits.text_formats import to_openqasm3

    built = build_ansatz(ansatz, n_qubits, n_layers, is_entangled=entangled)
    if format_ is not CircuitFormat.TEXT:
        typer.echo(draw_svg(built) if format_ is CircuitFormat.SVG else to_openqasm3(built))
        return
    typer.echo(draw_text(built, width=console.width))
    gates = ", ".join(f"{n} {name}" for name, n in built.count_gates().items())
    typer.echo(
        f"\n{built.n_qubits} qubits, depth {built.depth}, {sum(built.count_gates().values())} gates "
        f"({gates}); {built.n_inputs} inputs, entering {built.n_uploads()} times; "
        f"{built.n_weights} trained angles."
    )


@app.command()
def doctor() -> None:
    """Show what is installed, what is missing, and how to get it."""
    from rich.markup import escape
    from rich.table import Table

    from qpeft.doctor import examine

    table = Table("", "found", "what for, and how to get it")
    findings = examine()
    for finding in findings:
        mark = {True: "[green]yes[/green]", False: "[red]no[/red]", None: "[yellow]no[/yellow]"}
        # Extras stand in brackets, which rich would read as its own markup.
        table.add_row(finding.name, finding.found or mark[finding.is_fine], escape(finding.note))
    console.print(table)
    if any(finding.is_fine is False for finding in findings):
        raise typer.Exit(EXIT_ERROR)


class Switch(StrEnum):
    """What `qpeft autoload` does."""

    ON = "on"
    OFF = "off"
    STATUS = "status"


@app.command()
def autoload(
    switch: Annotated[Switch, typer.Argument(help="on, off or status.")] = Switch.STATUS,
) -> None:
    """Make PEFT know our methods in this environment even where nobody imports qpeft."""
    from qpeft import autoload as hook

    if switch is Switch.ON:
        hook.turn_on()
    elif switch is Switch.OFF:
        hook.turn_off()
    state = "on" if hook.is_on() else "off"
    console.print(f"Autoload is {state} ({hook.hook_file()}).", soft_wrap=True)


app.add_typer(verbs)
app.add_typer(study_verbs)


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del version


def _complain(text: str) -> None:
    typer.echo(f"qpeft: {text}", err=True)


def _ask() -> str:
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        console.print()
        return ""


def _chat_prompt(model: Any, history: list[dict[str, str]]) -> Any:
    """Return what the model reads: its trained prompt, the whole dialogue, or the plain question."""
    question = history[-1]["content"]
    if model.prompt_template is not None:
        places = set(re.findall(r"\{\w+\}", model.prompt_template))
        if len(places) == 1:  # with several columns nobody can say which one the question is
            return model.prompt_template.replace(places.pop(), question)
    return question if model.tokenizer.chat_template is None else list(history)
