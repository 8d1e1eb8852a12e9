"""Sections on the trained adapter itself, as `qpeft.study.measures` sees it: branch, rank, gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from qpeft.reports.circuit_sections import ansatz_curves
from qpeft.reports.content import Column, Figure, Panel, Section, Table, arm_table
from qpeft.reports.material import Material, listed
from qpeft.reports.plots import Line, Point, Words, plot_intervals, plot_lines
from qpeft.reports.samples import first_examples, gradient_examples, ranges, token_rows, told
from qpeft.study import numbers
from qpeft.study.findings import Interval


def branch_section(material: Material) -> Section:
    """Show what happens where the circuit, or what stands in its place, is taken out or shuffled."""
    summary = branch_summary(material)
    ablated = _ablated(material)
    panels = []
    for place, (name, unit, factor) in enumerate(_DIFFERENCES):
        points = [
            Point(f"{arm}, {what}", material.styles[arm], value)
            for arm in ablated
            for what, change in (("off", "ablated"), ("shuffled", "shuffled"))
            if (value := _range(material.measured(arm, "branch", change, name), factor))
        ]
        if points:
            label = name.replace("_", " ").capitalize()
            words = Words(
                f"{summary.key}-{place}",
                label,
                f"{label} against the whole adapter, with the core taken out and with its outputs shuffled "
                f"among tokens, by arm, with the range over the runs. The table below has the numbers.",
                f"{label}, {unit}",
            )
            panels.append(
                Panel(words.title, plot_intervals(points, words, lines=((0.0, "whole adapter"),)))
            )
    caption = ranges(material, "branch", "ablated") if panels else ""
    figures = (Figure(caption, "", tuple(panels), None),) if panels else ()
    return replace(summary, figures=figures)


def branch_summary(material: Material) -> Section:
    """Return what is said of the branch without its pictures."""
    key, title = "branch", "What the quantum branch carries"
    tables = tuple(t for t in (_ablation_table(material), _share_table(material)) if t)
    if not tables:
        return Section(key, title, absent="The branch was not ablated in this study.")
    paragraphs = (
        "After training, the core (the circuit, or what a control has in its place) is taken out, or shuffled: "
        "each token is given the core's output of another token of the same pass, of its own text or of another "
        "one in the batch. If accuracy falls and loss rises, the adapter has learned to use it. That it is used "
        "does not say that it is needed: for that, see the controls.",
        *told("Accuracies and losses are those on", first_examples(material, "branch")),
        *told("The core's share was measured on", token_rows(material, "branch")),
    )
    return Section(key, title, paragraphs, tables=tables, notes=_shuffle_notes(material))


def _ablation_table(material: Material) -> Table | None:
    """Return what a core's removal, and its shuffling, change in the answers of every arm that has one."""
    rows = []
    for arm in material.arms:
        if not material.measured(arm, "branch", "ablated"):
            continue
        for what, change in (("taken out", "ablated"), ("shuffled", "shuffled")):
            path = ("branch", change)
            accuracy = material.measured(arm, *path, "accuracy_difference")
            changed = material.measured(arm, *path, "changed_answers")
            rows.append(
                (
                    arm,
                    what,
                    numbers.percent(
                        _mean(material.measured(arm, "branch", "unablated", "accuracy"))
                    ),
                    _signed(accuracy, 100.0, 1),
                    _signed(material.measured(arm, *path, "test_loss_difference"), 1.0, 3),
                    numbers.spread([100 * float(share) for share in changed], 1),
                )
            )
    if not rows:
        return None
    headers = (
        "Accuracy, whole adapter",
        "Accuracy difference, pp (range)",
        "Test loss difference, nats/token (range)",
        "Changed answers, % (range)",
    )
    columns = (Column("Arm", "arm"), Column("Core"), *(Column(h, "number") for h in headers))
    return Table(
        "The core taken out and shuffled: means over runs (range over runs)", columns, tuple(rows)
    )


def rank_section(material: Material) -> Section:
    """Show how many directions the update really uses."""
    key, title = "rank", "Effective rank of the update"
    found, table = _ranks(material), rank_table(material)
    if not found:
        return Section(key, title, absent="The effective rank was not measured in this study.")
    points = [
        Point(a, material.styles[a], v) for a, values in found.items() if (v := _range(values))
    ]
    description = "Effective rank of the update by arm, with the range over the runs. The table has the numbers."
    words = Words(f"{key}-0", "Mean over layers", description, "Effective rank, directions")
    panels = [Panel(words.title, plot_intervals(points, words))]
    lines = _by_layer(material, ("effective_rank", "by_layer"))
    if any(len(line.x) > 1 for line in lines):
        description = "Effective rank of the update over the decoder layers, by arm."
        words = Words(
            f"{key}-1", "By layer", description, "Decoder layer", "Effective rank, directions"
        )
        panels.append(Panel(words.title, plot_lines(lines, words)))
    paragraphs = (
        "The exponential of the entropy of the update's singular values on real inputs: how many directions a "
        "layer's change really uses, whatever rank it could have.",
        *told("It was measured on", token_rows(material, "effective_rank")),
    )
    figure = Figure(ranges(material, *_RANK), "", tuple(panels), table, material.legend(found))
    return Section(key, title, paragraphs, (figure,))


def rank_table(material: Material) -> Table | None:
    """Return how many directions the update of every arm uses."""
    rows = [
        (arm, numbers.spread([float(v) for v in values], 2))
        for arm, values in _ranks(material).items()
    ]
    caption = "Effective rank: mean over layers (range over runs)"
    return arm_table(caption, ["Effective rank"], rows) if rows else None


def gradients_section(material: Material) -> Section:
    """Show the size of the angles' gradients by layer."""
    key, title = "gradients", "Gradients of the angles"
    panels, arms = [], []
    for place, (when, words_when) in enumerate(
        (("fresh", "before training"), ("trained", "after training"))
    ):
        lines = _by_layer(material, ("angle_gradients", when, "by_layer"))
        lines = [line for line in lines if min(line.y) > 0]
        if lines:
            heading = f"By layer, {words_when}"
            description = (
                f"Root mean square gradient of the angles over the decoder layers {words_when}, by arm, on a "
                f"logarithmic axis."
            )
            words = Words(
                f"{key}-{place}", heading, description, "Decoder layer", "RMS gradient, nats/rad"
            )
            panels.append(Panel(words.title, plot_lines(lines, words, scales=("linear", "log"))))
            arms += [line.label for line in lines if line.label not in arms]
    table = gradient_table(material)
    if not panels and table is None:
        return Section(key, title, absent="Gradients of angles were not measured in this study.")
    marks = ("Lines", "bands")
    caption = ranges(material, "angle_gradients", "fresh", marks=marks) if panels else ""
    figures = (Figure(caption, "", tuple(panels), None, material.legend(arms)),) if panels else ()
    has_curve = bool(ansatz_curves(material.results.ansatzes))
    where = "stands in the next section" if has_curve else "was not measured in this study"
    paragraphs = (
        "On a barren plateau the angles of a circuit get no gradient worth the name. The ratio compares them, a "
        "parameter, with all other trained parameters of the same adapter: far below one means that the circuit "
        f"hardly learns. How the gradient's variance changes with the number of qubits {where}.",
        *told("Gradients are those of", gradient_examples(material)),
    )
    return Section(key, title, paragraphs, figures, (table,) if table else ())


_RANK = ("effective_rank", "mean")
_DIFFERENCES = (("accuracy_difference", "pp", 100.0), ("test_loss_difference", "nats/token", 1.0))


def _ranks(material: Material) -> dict[str, list[Any]]:
    return {arm: values for arm in material.arms if (values := material.measured(arm, *_RANK))}


def _ablated(material: Material) -> list[str]:
    """Return the arms whose core was taken out."""
    return [arm for arm in material.arms if material.measured(arm, "branch", "ablated")]


def _shuffle_notes(material: Material) -> tuple[str, ...]:
    """Say so where the core's outputs of padding were dealt out too."""
    shuffled = {arm: material.measured(arm, "branch", "shuffled") for arm in _ablated(material)}
    padded = {arm: sum("among" not in one for one in found) for arm, found in shuffled.items()}
    n_padded, n_all = sum(padded.values()), sum(map(len, shuffled.values()))
    if not n_padded:
        return ()
    arms = listed(arm for arm, n in padded.items() if n)
    return (
        f"In {n_padded} of {n_all} runs ({arms}) padding took part in the shuffle: a token could be given the "
        f"core's output of padding, or keep its own.",
    )


def _share_table(material: Material) -> Table | None:
    arms = [arm for arm in material.arms if material.measured(arm, "branch", "share")]
    names = ("share", "varying_share", "nonlinear_share")
    rows = []
    for arm in arms:
        values = (material.measured(arm, "branch", name) for name in names)
        rows.append(
            (arm, *(numbers.spread([100 * float(v) for v in found], 1) for found in values))
        )
    headers = (
        "Share, % (range)",
        "Of what varies by token, % (range)",
        "Not affine in z, % (range)",
    )
    caption = "How much of the update's size comes from the core: means over runs (range over runs)"
    return arm_table(caption, headers, rows) if rows else None


def gradient_table(material: Material) -> Table | None:
    """Return the size of the gradients of the angles, and of all other parameters."""
    rows = []
    for arm in material.arms:
        for when, label in (("fresh", "before training"), ("trained", "after training")):
            path = ("angle_gradients", when)
            if not material.measured(arm, *path):
                continue
            values = (material.measured(arm, *path, name) for name in _GRADIENTS)
            rows.append((arm, label, *(numbers.short(_mean(found)) for found in values)))
    if not rows:
        return None
    headers = (
        "Norm, angles",
        "Norm, others",
        "RMS an angle",
        "RMS an other parameter",
        "Ratio of the RMS",
    )
    columns = (Column("Arm", "arm"), Column("When"), *(Column(h, "number") for h in headers))
    return Table(
        "Gradients of the loss, nats/token per unit of the parameter: means over runs",
        columns,
        tuple(rows),
    )


_GRADIENTS = ("norm_angles", "norm_others", "rms_angles", "rms_others", "ratio")


def _by_layer(material: Material, path: tuple[str, ...]) -> list[Line]:
    """Return for each arm the mean over its runs of a number by decoder layer, with the range."""
    lines = []
    for arm in material.arms:
        found = [m for m in material.measured(arm, *path) if isinstance(m, Mapping)]
        layers = sorted({int(layer) for mapping in found for layer in mapping})
        columns = [[float(m[str(layer)]) for m in found if str(layer) in m] for layer in layers]
        if layers:
            lines.append(
                Line(
                    arm,
                    material.styles[arm],
                    tuple(float(layer) for layer in layers),
                    tuple(fmean(column) for column in columns),
                    tuple(min(column) for column in columns),
                    tuple(max(column) for column in columns),
                )
            )
    return lines


def _range(values: Sequence[Any], factor: float = 1.0) -> Interval | None:
    """Return mean, least and most, which is no confidence interval."""
    if not values:
        return None
    scaled = [factor * float(value) for value in values]
    return Interval(fmean(scaled), min(scaled), max(scaled))


def _mean(values: Sequence[Any]) -> float | None:
    return fmean(float(value) for value in values) if values else None


def _signed(values: Sequence[Any], factor: float, n_digits: int) -> str:
    found = _range(values, factor)
    if found is None:
        return numbers.ABSENT
    ends = (found.estimate, found.low, found.high)
    middle, low, high = (numbers.decimal(x, n_digits, is_signed=True) for x in ends)
    return f"{middle} ({low} to {high})"
