"""Sections on what the arms can do: accuracy against size, the arms, the controls, training effect, forgetting."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from qpeft.reports.content import Column, Figure, Panel, Section, Table, arm_table
from qpeft.reports.material import ALL_TASKS, Material
from qpeft.reports.plots import PANEL_WIDTH, Point, Words, common_limits, plot_intervals
from qpeft.reports.samples import forgetting_samples, told
from qpeft.reports.size_plot import WIDE, plot_sizes
from qpeft.study import numbers
from qpeft.study.findings import Interval, PairedComparison
from qpeft.study.numbers import MEASURES
from qpeft.study.results import BASE_ARM


def pareto_section(material: Material) -> Section:
    """Show accuracy against trainable parameters."""
    key, title = "pareto", "Accuracy against trainable parameters"
    panels: list[Panel] = []
    rows = []
    for place, task in enumerate(material.tasks):
        points = _sized_points(material, task)
        if not points:
            continue
        base = material.base_accuracy(task)
        words = Words(
            f"{key}-{place}",
            material.title(task),
            f"{material.title(task)}: accuracy of {len(points)} arms with intervals against their trainable "
            f"parameters on a logarithmic axis. The table below has the numbers.",
            "Trainable parameters (log scale)",
            "Accuracy, %",
        )
        line = None if base is None else 100 * base
        wide = None
        if not panels:
            wide = plot_sizes(points, line, words, WIDE, 420)
            words = replace(words, name=f"{words.name}-narrow")
        narrow = plot_sizes(points, line, words, PANEL_WIDTH, 290)
        panels.append(Panel(words.title, wide or narrow, narrow if wide else None))
        rows += [
            (p.label, material.title(task), numbers.whole(p.x), _shown(material, task, p))
            for p in points
        ]
    if not panels:
        return Section(
            key, title, absent="No arm has both an accuracy and a number of parameters yet."
        )
    columns = (
        Column("Arm", "arm"),
        Column("Task"),
        Column("Trainable parameters", "number"),
        Column("Accuracy, % (interval)", "number"),
    )
    figure = Figure(
        f"Higher is better, further left is smaller; bars are {material.confidence} % intervals. The grey steps "
        "join the arms that no other arm beats in both. The dashed line is the untrained model; slanted strokes "
        "mark a gap in the axis. Arms of nearly equal size stand side by side: the table has their true sizes.",
        "",
        tuple(panels),
        Table("Accuracy against trainable parameters", columns, tuple(rows)),
        material.legend(),
    )
    return Section(key, title, figures=(figure,))


def arms_section(material: Material) -> Section:
    """Show every arm's accuracies and its size."""
    key, title = "arms", "The arms side by side"
    accuracies = measure_table(material, "accuracy", is_whole=True)
    if accuracies is None:
        return Section(
            key, title, tables=(_sizes(material),), notes=("No run has been scored yet.",)
        )
    tables = [accuracies]
    rows = [row for arm in material.arms for row in material.rows(arm)]
    same = "Here every right answer of every trained arm had the right form too, so the two are the same. "
    if any(row.scores != row.strict_scores for row in rows):
        same = ""
        strict = measure_table(material, "strict_accuracy", is_whole=True)
        tables += [strict] if strict is not None else []
    reference = material.results.reference
    notes = (
        "Accuracy: the share of test answers that the task's verifier takes. Strict accuracy: right in content "
        f"and form. {same}Brackets hold {material.confidence} % intervals.",
        f"Step time is against {reference} on the same machine, task and seed; where runs differ, their range "
        "stands in brackets. The runs of a study go side by side on a machine's cores, which makes its times "
        "rough: benchmarks/training_step.py measures them alone.",
        material.certainty,
    )
    return Section(key, title, tables=(*tables, _sizes(material)), notes=notes)


def controls_section(material: Material) -> Section:
    """Show the subject less every other arm, with the margin."""
    key, title = "controls", "What the circuit is worth: the controls"
    subject, margin = material.results.subject, 100 * material.results.margin
    found = {task: _compared(material, task) for task in material.tasks}
    found = {task: comparisons for task, comparisons in found.items() if comparisons}
    if not found:
        return Section(
            key, title, absent="No arm shares scored examples and seeds with the subject yet."
        )
    points = {
        task: [Point(c.other, material.styles[c.other], _scaled(c.difference)) for c in comparisons]
        for task, comparisons in found.items()
    }
    limits = common_limits(list(points.values()), [-margin, margin])
    panels = []
    for place, task in enumerate(found):
        words = Words(
            f"{key}-{place}",
            material.title(task),
            f"{material.title(task)}: accuracy of {subject} less that of each other arm, with intervals, and a "
            f"band of plus and minus the margin. The table has the numbers.",
            f"Accuracy of {subject} less that of the other, pp",
        )
        drawn = plot_intervals(points[task], words, margin=margin, limits=limits)
        panels.append(Panel(words.title, drawn))
    first, *others = found
    figure = Figure(
        f"Right of zero: {subject} is better. Bars are {material.confidence} % intervals. The band is the margin "
        f"of ±{numbers.decimal(margin, 1)} pp that was fixed before the runs.",
        "",
        tuple(panels),
        controls_table(material, others),
    )
    table = controls_table(material, (first,))
    return Section(key, title, CONTROLS_TEXT, (figure,), (table,) if table else (), CONTROLS_NOTES)


CONTROLS_TEXT = (
    "A control is the subject with its circuit taken out or exchanged for something classical. If the circuit "
    "earns its place, the subject stands right of its controls. (A control that is the subject itself on a noisy "
    "machine says what noise costs, and nothing of that.)",
)
CONTROLS_NOTES = (
    "p is two-sided and corrected for the number of comparisons (Holm). “Would be found from” is the smallest "
    "true difference that so many seeds and examples would show with 80 % power before that correction; after it, "
    "it takes a larger one. “Equivalent” means that the whole 90 % interval lies within the margin.",
)


def controls_table(material: Material, tasks: Sequence[str]) -> Table | None:
    """Return the subject less every other arm on some tasks; None where there is nothing to compare."""
    found = [comparison for task in tasks for comparison in _compared(material, task)]
    rows = tuple(
        (
            c.other,
            material.results.arm(c.other).role,
            material.title(c.task),
            str(c.n_seeds),
            numbers.difference(c.difference, "accuracy", has_unit=False),
            numbers.p_value(c.p_adjusted),
            _detectable(c.minimal_detectable_effect, "accuracy"),
            c.equivalence or numbers.ABSENT,
        )
        for c in found
    )
    columns = (
        Column(f"{material.results.subject} less", "arm"),
        Column("Role"),
        Column("Task"),
        Column("Seeds", "number"),
        Column("Difference, pp (interval)", "number"),
        Column("p, corrected", "number"),
        Column("Would be found from, pp", "number"),
        Column("Against the margin"),
    )
    where = ", task by task" if len({c.task for c in found}) > 1 else ""
    caption = f"Accuracy of {material.results.subject} less that of each other arm{where}"
    return Table(caption, columns, rows) if rows else None


def effect_section(material: Material) -> Section:
    """Show the relative reduction of the training loss."""
    text = (
        "The relative reduction of the training loss from the first step to the last tenth of the steps, at equal "
        "steps: the quantity of which the reported 8.4 % speaks. Larger means that the loss fell further.",
    )
    return _measure_section(material, "effect", "Training effect", "training_effect", text)


def forgetting_section(material: Material) -> Section:
    """Show what the adapters do to the loss on general text."""
    text = (
        "The loss on general text with the adapter on, less that of the untrained model. Zero is nothing "
        "forgotten; smaller is better.",
        *told("It was measured on", forgetting_samples(material)),
    )
    return _measure_section(
        material, "forgetting", "Forgetting", "forgetting", text, zero="untrained"
    )


def measure_table(material: Material, measure: str, *, is_whole: bool = False) -> Table | None:
    """Return a table of a measure, arms by tasks; None where no arm has it.

    Args:
        material: Of the report.
        measure: A key of `numbers.MEASURES`.
        is_whole: Whether what takes no training stands below the arms.
    """
    how = MEASURES[measure]
    rows = []
    for arm in material.arms:
        values = [material.value(task, arm, measure) for task in material.tasks]
        if any(values):
            shown = (
                numbers.interval(v, measure, has_unit=False) if v else numbers.ABSENT
                for v in values
            )
            rows.append((arm, *shown))
    if not rows:
        return None
    if is_whole:
        rows += _untrained_rows(material, measure)
    caption = f"{how.label.capitalize()}, {how.unit} (interval)"
    return arm_table(caption, [material.title(task) for task in material.tasks], rows)


def difference_table(material: Material, measure: str) -> Table | None:
    """Return the subject less every other arm in one measure; None where there is nothing to compare.

    Args:
        material: Of the report.
        measure: A key of `numbers.MEASURES`.
    """
    how, subject = MEASURES[measure], material.results.subject
    rows = []
    for arm in _others(material):
        found = [material.comparison(task, arm, measure) for task in material.tasks]
        if any(found):
            shown = (
                numbers.difference(c.difference, measure, has_unit=False) if c else numbers.ABSENT
                for c in found
            )
            rows.append((arm, *shown))
    if not rows:
        return None
    what = f"{how.label.capitalize()} of {subject} less that of each other arm"
    caption = f"{what}, {how.difference_unit} (interval)"
    return arm_table(caption, [material.title(task) for task in material.tasks], rows)


def _measure_section(
    material: Material,
    key: str,
    title: str,
    measure: str,
    paragraphs: tuple[str, ...],
    zero: str | None = None,
) -> Section:
    """Return a section with one measure by arm, a picture for each task, and the subject's differences."""
    how, table = MEASURES[measure], measure_table(material, measure)
    if table is None:
        return Section(key, title, absent=f"The {how.label} was not measured in this study.")
    panels = []
    for place, task in enumerate(material.tasks):
        found = [(arm, material.value(task, arm, measure)) for arm in material.arms]
        points = [Point(arm, material.styles[arm], _scaled(v, how.factor)) for arm, v in found if v]
        if points:
            words = Words(
                f"{key}-{place}",
                material.title(task),
                f"{material.title(task)}: {how.label} of {len(points)} arms with intervals. "
                f"The table below has the numbers.",
                f"{how.label.capitalize()}, {how.unit}",
            )
            lines = ((0.0, zero),) if zero else ()
            limits = common_limits([points], [0.0] if zero else [])
            panels.append(
                Panel(words.title, plot_intervals(points, words, lines=lines, limits=limits))
            )
    caption = f"{how.label.capitalize()} by arm, with {material.confidence} % intervals."
    figure = Figure(caption, "", tuple(panels), table)
    compared = difference_table(material, measure)
    return Section(key, title, paragraphs, (figure,), (compared,) if compared else ())


def _compared(material: Material, task: str) -> list[PairedComparison]:
    """Return the subject's comparisons in accuracy on a task, the controls first."""
    found = (material.comparison(task, arm, "accuracy") for arm in _others(material))
    return [comparison for comparison in found if comparison is not None]


def _sizes(material: Material) -> Table:
    """Return what each arm weighs and takes."""
    rows = []
    for arm in material.arms:
        rows.append(
            (
                arm,
                material.results.arm(arm).role,
                numbers.whole(material.n_parameters(arm)),
                material.saving(arm),
                numbers.whole(material.results.arm(arm).n_angles),
                numbers.spread(step_ratios(material, arm), 2),
                numbers.size(max(material.known(arm, "peak_memory"), default=None)),
                numbers.size(max(material.known(arm, "adapter_bytes"), default=None)),
                numbers.whole(max(material.known(arm, "circuits"), default=None)),
            )
        )
    headers = (
        "Trainable parameters",
        f"Against {material.results.reference}",
        "Of them angles",
        "Step time, ratio",
        "Peak memory, largest",
        "Adapter file",
        "Circuits a run, most",
    )
    columns = (
        Column("Arm", "arm"),
        Column("Role"),
        *(Column(header, "number") for header in headers),
    )
    return Table("What each arm weighs and takes", columns, tuple(rows))


def step_ratios(material: Material, arm: str) -> list[float]:
    """Return an arm's step time over the reference's, for each task and seed that one machine did for both."""
    reference = {
        (row.task, row.seed, row.machine): row.seconds_per_step
        for row in material.rows(material.results.reference)
    }
    ratios = []
    for row in material.rows(arm):
        other = reference.get((row.task, row.seed, row.machine))
        if row.seconds_per_step and other:
            ratios.append(row.seconds_per_step / other)
    return ratios


def _others(material: Material) -> list[str]:
    """Return all arms but the subject: the controls first, then reference and rivals."""
    names = [arm for arm in material.arms if arm != material.results.subject]
    return sorted(names, key=lambda arm: material.results.arm(arm).role != "control")


def _sized_points(material: Material, task: str) -> list[Point]:
    points = []
    for arm in material.arms:
        value, size = material.value(task, arm, "accuracy"), material.n_parameters(arm)
        if value is not None and size:
            points.append(Point(arm, material.styles[arm], _scaled(value), float(size)))
    return points


def _untrained_rows(material: Material, measure: str) -> list[tuple[str, ...]]:
    """Return what can be had without any training, in percent, where it is known."""
    results = material.results
    values = [material.value(task, BASE_ARM, measure) for task in material.tasks]
    base = [numbers.interval(v, measure, has_unit=False) if v else numbers.ABSENT for v in values]
    rows = [("base model", *base)] if any(values) else []
    shown = {task.name: results.base.get(task.name) for task in results.tasks}
    few = {name: row.few_shot_accuracy if row else None for name, row in shown.items()}
    commonest = {task.name: task.commonest for task in results.tasks}
    for name, shares in (
        (f"base model, {results.base_shots} examples in the prompt", few),
        ("always the commonest answer", commonest),
    ):
        if any(share is not None for share in shares.values()):
            rows.append((name, *(_share(shares, task) for task in material.tasks)))
    return rows


def _share(shares: Mapping[str, float | None], task: str) -> str:
    """Return a share in percent, of all tasks their mean if each has one."""
    known = [share for name, share in shares.items() if task in (name, ALL_TASKS)]
    found = [share for share in known if share is not None]
    return numbers.decimal(100 * fmean(found) if len(found) == len(known) else None)


def _scaled(value: Interval, factor: float = 100.0) -> Interval:
    """Return an interval in the unit of a picture; one without ends becomes a point without a bar."""
    ends = (value.low, value.high)
    low, high = (end if math.isfinite(end) else value.estimate for end in ends)
    return replace(value, estimate=factor * value.estimate, low=factor * low, high=factor * high)


def _shown(material: Material, task: str, point: Point) -> str:
    value = material.value(task, point.label, "accuracy")
    assert value is not None, point
    return numbers.interval(value, "accuracy", has_unit=False)


def _detectable(effect: float | None, measure: str) -> str:
    how = MEASURES[measure]
    return numbers.decimal(None if effect is None else how.factor * effect, how.n_digits)
