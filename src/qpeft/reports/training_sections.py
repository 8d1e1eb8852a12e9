"""Sections on the training: loss curves, the tuning of the learning rates, and what it all cost."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from qpeft.reports.accuracy_sections import step_ratios
from qpeft.reports.content import Column, Figure, Panel, Section, Table, arm_table
from qpeft.reports.material import Material, listed
from qpeft.reports.plots import Line, Words, plot_lines
from qpeft.study import numbers
from qpeft.study.results import TrialRow

Curve = Sequence[tuple[int, float]]
_MAX_BINS = 40  # points of a curve; more only make the file larger


def losses_section(material: Material) -> Section:
    """Show training and validation losses by task, mean and range over the seeds."""
    key, title = "losses", "Loss curves"
    panels = []
    for field, what in (("losses", "training loss"), ("validation_losses", "validation loss")):
        for place, task in enumerate(material.results.tasks):
            lines = [
                line for arm in material.arms if (line := _line(material, arm, task.name, field))
            ]
            if not lines:
                continue
            words = Words(
                f"{key}-{what.split()[0]}-{place}",
                f"{task.title}: {what}",
                f"{task.title}: {what} of {len(lines)} arms over the optimiser steps, mean and range over the "
                f"seeds. The table below has first and last losses.",
                "Optimiser step",
                f"{what.capitalize()}, nats/token",
            )
            low, high = min(min(x.low) for x in lines), max(max(x.high) for x in lines)
            is_wide = 0 < 4 * low < high  # late differences would be flat on a linear axis
            drawn = plot_lines(lines, words, scales=("linear", "log" if is_wide else "linear"))
            panels.append(Panel(words.title, drawn))
    table = _loss_table(material)
    if not panels:
        return Section(key, title, absent="No run has logged its losses.")
    caption = (
        "Lines are means over the seeds, bands the range from the lowest to the highest seed. Training losses are "
        f"averaged in at most {_MAX_BINS} bins of steps."
    )
    return Section(
        key, title, figures=(Figure(caption, "", tuple(panels), table, material.legend()),)
    )


def tuning_section(material: Material) -> Section:
    """Show every learning rate that was tried, and which was chosen."""
    key, title = "tuning", "Tuning"
    trials = material.results.trials
    if not trials:
        return Section(
            key,
            title,
            absent="No trial of a learning rate is on record.",
        )
    rates = sorted({trial.learning_rate for trial in trials})
    tables = []
    for task in material.results.tasks:
        found: dict[str, dict[float, TrialRow]] = defaultdict(dict)
        for trial in trials:
            if trial.task == task.name:
                found[trial.arm][trial.learning_rate] = trial
        rows = [
            (arm, *(_trial(found[arm].get(rate)) for rate in rates), _chosen(found[arm]))
            for arm in material.arms
            if found[arm]
        ]
        if rows:
            headers = [*(numbers.short(rate) for rate in rates), "Chosen rate"]
            caption = f"{task.title}: validation loss by learning rate, nats/token"
            tables.append(arm_table(caption, headers, rows))
    counts = sorted({len(rates_of) for rates_of in _trials_by_place(material).values()})
    n_trials = listed(str(n) for n in counts)
    paragraphs = (
        f"Every arm may try the same learning rates on every task (here {n_trials} trials for each arm and task). "
        "The validation split alone decides; the test split is not looked at.",
    )
    notes = ["✓ marks the rate that was chosen."]
    at_ends = [
        f"{t.arm} ({material.title(t.task)}, {numbers.short(t.learning_rate)})"
        for t in trials
        if t.is_chosen and len(rates) > 1 and t.learning_rate in (rates[0], rates[-1])
    ]
    if at_ends:
        notes.append(
            f"Chosen at an end of the grid, beyond which another rate might do better: {listed(at_ends)}."
        )
    return Section(key, title, paragraphs, tables=tuple(tables), notes=tuple(notes))


def cost_section(material: Material) -> Section:
    """Show time, circuits and memory by arm."""
    key, title = "cost", "What it cost"
    rows = []
    # Without a machine there were no jobs, and nobody needs three empty columns.
    work = _WORK if any(material.known(arm, "jobs") for arm in material.arms) else {}
    for arm in material.arms:
        runs = material.rows(arm)
        seconds = [r.steps * r.seconds_per_step for r in runs if r.steps and r.seconds_per_step]
        if not runs:
            continue
        rows.append(
            (
                arm,
                str(len(runs)),
                numbers.spread([1000 * s for s in material.known(arm, "seconds_per_step")], 0),
                numbers.spread(step_ratios(material, arm), 2),
                numbers.duration(sum(seconds) if seconds else None),
                numbers.whole(_total(material.known(arm, "tokens"))),
                numbers.whole(_total(material.known(arm, "circuits"))),
                *(numbers.whole(_total(material.known(arm, kind))) for kind in work),
                numbers.size(max(material.known(arm, "peak_memory"), default=None)),
            )
        )
    if not rows:
        return Section(key, title, absent="No run has finished.")
    headers = (
        "Runs",
        "Step, ms (range)",
        "Step ratio",
        "Training time, all runs",
        "Tokens, all runs",
        "Circuits, all runs",
        *work.values(),
        "Peak memory, largest",
    )
    notes = [
        "Training time is steps times the median step; tuning, evaluation and loading come on top. Circuits are "
        "those evaluated in training; on a machine, those that were sent."
    ]
    n_taken = sum(row.trained_in is not None for row in material.results.rows)
    if n_taken:
        notes.append(
            f"Runs that took over the adapter of a trial, the very same training: {n_taken} of "
            f"{len(material.results.rows)}. Its time is counted here too."
        )
    return Section(
        key, title, tables=(arm_table("Cost by arm", headers, rows),), notes=tuple(notes)
    )


_WORK = {
    "programs": "Programs sent, all runs",
    "jobs": "Jobs sent, all runs",
    "shots": "Shots, all runs",
}


def _line(material: Material, arm: str, task: str, field: str) -> Line | None:
    """Return an arm's mean curve with the range over its seeds."""
    curves: list[Curve] = [c for row in material.rows(arm, task) if (c := getattr(row, field))]
    if not curves:
        return None
    last = max(step for curve in curves for step, _ in curve)
    width = max(1, -(-last // _MAX_BINS)) if field == "losses" else 1
    bins: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for curve in curves:
        own: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for step, loss in curve:
            own[(step - 1) // width].append((step, loss))
        for place, points in own.items():
            bins[place].append((fmean(s for s, _ in points), fmean(v for _, v in points)))
    places = sorted(bins)
    return Line(
        arm,
        material.styles[arm],
        tuple(fmean(x for x, _ in bins[p]) for p in places),
        tuple(fmean(y for _, y in bins[p]) for p in places),
        tuple(min(y for _, y in bins[p]) for p in places),
        tuple(max(y for _, y in bins[p]) for p in places),
    )


def _loss_table(material: Material) -> Table | None:
    rows = []
    for task in material.results.tasks:
        for arm in material.arms:
            fields = ("first_loss", "last_loss", "validation_loss", "test_loss")
            values = [material.known(arm, field, task.name) for field in fields]
            if any(values):
                rows.append((arm, task.title, *(numbers.spread(v, 3) for v in values)))
    if not rows:
        return None
    headers = ("Training, first step", "Training, last tenth", "Validation, end", "Test")
    columns = (Column("Arm", "arm"), Column("Task"), *(Column(h, "number") for h in headers))
    return Table("Losses, nats/token: mean (range over the seeds)", columns, tuple(rows))


def _trial(trial: TrialRow | None) -> str:
    if trial is None:
        return numbers.ABSENT
    if trial.status != "succeeded":
        return trial.status
    return numbers.decimal(trial.validation_loss, 3) + (" ✓" if trial.is_chosen else "")


def _chosen(trials: dict[float, TrialRow]) -> str:
    return numbers.short(next((rate for rate, trial in trials.items() if trial.is_chosen), None))


def _trials_by_place(material: Material) -> dict[tuple[str, str], set[float]]:
    found: dict[tuple[str, str], set[float]] = defaultdict(set)
    for trial in material.results.trials:
        found[trial.task, trial.arm].add(trial.learning_rate)
    return found


def _total(values: Sequence[float]) -> float | None:
    return sum(values) if values else None
