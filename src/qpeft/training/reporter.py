"""Who is told how a run goes: nobody, a terminal, or whoever implements `Reporter`."""

from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from qpeft.training.evaluation import Comparison, Evaluation
from qpeft.training.plan import ArmPlan, Plan


class Reporter(Protocol):
    """What a run tells while it goes."""

    def plan(self, plan: Plan) -> None:
        """Tell what will be trained, before the first step."""

    def stage(self, name: str) -> None:
        """Tell what begins now: loading, an evaluation, an arm's training."""

    def step(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        """Tell of one optimiser step."""

    def validation(self, step: int, loss: float) -> None:
        """Tell the validation loss after a step."""

    def progress(self, done: int, total: int) -> None:
        """Tell how far an evaluation is."""

    def jobs(self, done: int, total: int, text: str) -> None:
        """Tell how many jobs of a batch at a quantum machine are done."""

    def table(
        self, evaluations: dict[str, list[Evaluation]], comparisons: Sequence[Comparison]
    ) -> None:
        """Tell the results of all arms, the base model first."""

    def close(self) -> None:
        """Tell that nothing more comes, whether the run ended well or not."""


class SilentReporter:
    """A reporter that says nothing."""

    def plan(self, plan: Plan) -> None:
        """Say nothing."""

    def stage(self, name: str) -> None:
        """Say nothing."""

    def step(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        """Say nothing."""

    def validation(self, step: int, loss: float) -> None:
        """Say nothing."""

    def progress(self, done: int, total: int) -> None:
        """Say nothing."""

    def jobs(self, done: int, total: int, text: str) -> None:
        """Say nothing."""

    def table(
        self, evaluations: dict[str, list[Evaluation]], comparisons: Sequence[Comparison]
    ) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class RichReporter:
    """Shows a run in the terminal: plan, progress bars, results.

    Args:
        console: Where to; the terminal by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = self._note = self._validation = ""

    def plan(self, plan: Plan) -> None:
        """Print the plan's table."""
        self._finish_bar()
        self.console.print(plan_table(plan))
        for line in plan_lines(plan):
            self.console.print(line)

    def stage(self, name: str) -> None:
        """End the last bar; the next one carries this name."""
        self._finish_bar()
        self._stage, self._validation = name, ""
        self.console.print(f"[bold]{name}[/bold]")

    def step(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        """Move the bar; show the loss."""
        self._note = f"loss {loss:.4f}  lr {learning_rate:.1e}"
        self._move(step, n_steps, self._note + self._validation)

    def validation(self, step: int, loss: float) -> None:
        """Show the validation loss beside the next losses."""
        self._validation = f"  validation {loss:.4f}"
        self.console.print(f"  step {step}: validation loss {loss:.4f}")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, note=f"{self._note}{self._validation}")

    def progress(self, done: int, total: int) -> None:
        """Move the bar."""
        self._move(done, total, "")

    def jobs(self, done: int, total: int, text: str) -> None:
        """Show behind the bar how many jobs of a batch are done."""
        if self._bar is not None and self._task is not None:
            note = f"{self._note}{self._validation}  {done:,}/{total:,} jobs, {text}"
            self._bar.update(self._task, note=note)

    def table(
        self, evaluations: dict[str, list[Evaluation]], comparisons: Sequence[Comparison]
    ) -> None:
        """Print the results."""
        self._finish_bar()
        self.console.print(results_table(evaluations, comparisons))

    def close(self) -> None:
        """Take the bar away, so that what follows starts on a clean line."""
        self._finish_bar()

    def _move(self, done: int, total: int, note: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  "),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._task = self._bar.add_task(self._stage, total=total, note=note)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, note=note)

    def _finish_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def plan_table(plan: Plan) -> Table:
    """Return one column for each arm: its parameters, its circuits, its memory."""
    table = Table(title=f"Base model: {plan.n_base:,} parameters, frozen")
    table.add_column("")
    for arm in plan.arms:
        table.add_column(arm.name, justify="right")
    for name, value in _PLAN_ROWS.items():
        table.add_row(name, *(value(arm) for arm in plan.arms))
    return table


def plan_lines(plan: Plan) -> list[str]:
    """Return what the plan says about data and steps, a sentence a line."""
    sizes = ", ".join(f"{n:,} {name}" for name, n in plan.n_examples.items())
    lines = [
        f"{plan.n_steps:,} steps of about {plan.n_tokens:,} tokens each; examples: {sizes}.",
        f"Memory: {plan.memory_note}.",
    ]
    if plan.n_dropped or plan.n_truncated:
        lines.append(
            f"Too long for training.max_length: {plan.n_dropped:,} examples dropped, "
            f"{plan.n_truncated:,} cut."
        )
    return lines


def results_table(
    evaluations: dict[str, list[Evaluation]], comparisons: Sequence[Comparison]
) -> Table:
    """Return one line for each arm and number of shots."""
    against_base = {(c.arm, c.n_shots): c for c in comparisons if c.other == "base"}
    n_examples = max((e.n for found in evaluations.values() for e in found), default=0)
    table = Table(title=f"{n_examples} test examples, greedy decoding")
    table.add_column("arm")
    for name in ("shots", "accuracy", "95 % interval", "loss", "perplexity", "p (base)"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm, found in evaluations.items():
        for e in found:
            low, high = e.interval
            comparison = against_base.get((arm, e.n_shots))
            table.add_row(
                arm,
                str(e.n_shots),
                f"{e.accuracy:.1%}",
                f"{100 * low:.1f} - {100 * high:.1f}",
                f"{e.loss:.4f}",
                f"{e.perplexity:.4g}",
                "" if comparison is None else f"{comparison.p_value:.2g}",
            )
    return table


def _saving(arm: ArmPlan) -> str:
    saving = arm.count.saving
    if saving is None or arm.method in ("lora", "dora"):
        return ""
    return f"{saving:.1%} fewer" if saving >= 0 else f"{-saving:.1%} more"


_PLAN_ROWS: dict[str, Callable[[ArmPlan], str]] = {
    "trainable parameters": lambda arm: f"{arm.count.n_trainable:,}",
    "of them circuit angles": lambda arm: f"{arm.count.n_circuit_angles:,}",
    "LoRA of the same rank": lambda arm: f"{arm.count.n_lora:,}" if arm.count.n_lora else "",
    "against that LoRA": _saving,
    "adapted layers": lambda arm: f"{arm.count.n_modules:,}",
    "qubits a circuit": lambda arm: f"{arm.count.n_qubits:,}",
    "circuits a token": lambda arm: f"{arm.count.n_circuits:,}",
    "expected memory": lambda arm: f"{arm.memory / 2**30:.2f} GiB",
}
