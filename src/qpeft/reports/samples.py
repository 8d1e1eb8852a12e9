"""How much stands behind the measures of trained adapters: examples, texts and tokens, tasks and seeds."""

from collections.abc import Collection, Sequence
from typing import Any

from qpeft.reports.content import Column, Table
from qpeft.reports.material import Material, measured_in
from qpeft.study import numbers
from qpeft.study.results import RunRow


def samples_table(material: Material) -> Table | None:
    """Return on how much each measure was taken, and in how many runs; None where nothing was measured."""
    found = (
        ("Forgetting", forgetting_samples(material), ("forgetting", "n_texts")),
        ("Core out, core shuffled", first_examples(material, "branch"), ("branch", "n_examples")),
        ("Share of the core", token_rows(material, "branch"), ("branch", "n_rows")),
        ("Effective rank", token_rows(material, "effective_rank"), ("effective_rank", "n_rows")),
        ("Gradients", gradient_examples(material), ("angle_gradients", "n_examples")),
        ("Noise and shots", first_examples(material, "noise"), ("noise", "n_examples")),
    )
    rows = tuple((what, on, _tasks_and_seeds(material, path)) for what, on, path in found if on)
    columns = (Column("Measure"), Column("Measured on"), Column("Runs of an arm"))
    caption = "What stands behind the measures of trained adapters"
    return Table(caption, columns, rows) if rows else None


def forgetting_samples(material: Material) -> str:
    """Return on how many texts and tokens, and on whose, forgetting was measured; nothing if it was not."""
    n_texts, n_tokens, texts = (
        _everywhere(material, "forgetting", key) for key in ("n_texts", "n_tokens", "text")
    )
    whose = " or ".join(sorted(set(map(str, texts))))
    return f"{_span(n_texts)} texts, {_span(n_tokens)} tokens in all: {whose}" if n_texts else ""


def first_examples(material: Material, measure: str) -> str:
    """Return on how many test examples a measure was taken, and what one weighs; nothing if it was not."""
    counts = _everywhere(material, measure, "n_examples")
    if not counts:
        return ""
    whole = _span([task.n_test for task in material.results.tasks])
    of_each = " of each task" if len(material.results.tasks) > 1 else ""
    one = numbers.with_unit(numbers.decimal(100 / min(counts), 1), "pp")
    weight = f"{'up to ' if len(set(counts)) > 1 else ''}{one}"
    return f"the first {_span(counts)} of {whole} test examples{of_each}: one answer is {weight}"


def token_rows(material: Material, measure: str) -> str:
    """Return on how many tokens of test examples a measure was taken; nothing if it was not."""
    counts = _everywhere(material, measure, "n_rows")
    return f"{_span(counts)} tokens of test examples" if counts else ""


def gradient_examples(material: Material) -> str:
    """Return on how many training examples gradients were measured; nothing if they were not."""
    counts = _everywhere(material, "angle_gradients", "n_examples")
    return f"a batch of {_span(counts)} training examples" if counts else ""


def told(start: str, samples: str) -> tuple[str, ...]:
    """Return a sentence that ends with samples, or nothing without them."""
    return (f"{start} {samples}.",) if samples else ()


def ranges(
    material: Material,
    *path: str,
    marks: tuple[str, str] = ("Points", "bars"),
    is_by_task: bool = False,
) -> str:
    """Return over which runs the means are taken and what the ranges hold, as a sentence.

    Args:
        material: Of the report.
        path: Keys of `RunRow.measures`, under which at least one run has something.
        marks: What shows the means, and what shows the ranges.
        is_by_task: Whether each task has means of its own.
    """
    means, bounds = marks
    runs = _runs(material, path)
    n_seeds = [len({row.seed for row in rows}) for rows in runs]
    n_tasks = [1 if is_by_task else len({row.task for row in rows}) for rows in runs]
    unknown = "what another seed would change is unknown"
    if max(n_tasks) == max(n_seeds) == 1:
        return f"{means} are single runs and there are no ranges: {unknown}."
    tasks, seeds = _counted(n_tasks, "task"), _counted(n_seeds, "seed")
    if max(n_seeds) == 1:
        return f"{means} are means over {tasks} with one seed, {bounds} the range over tasks: {unknown}."
    if max(n_tasks) == 1:
        return f"{means} are means over {seeds}, {bounds} the range over them."
    return (
        f"{means} are means over {tasks} and {seeds}, {bounds} the range from the lowest to the highest run, of "
        f"whatever task and seed."
    )


def _tasks_and_seeds(material: Material, path: Sequence[str]) -> str:
    runs = _runs(material, path)
    n_tasks = [len({row.task for row in rows}) for rows in runs]
    n_seeds = [len({row.seed for row in rows}) for rows in runs]
    return f"{_counted(n_tasks, 'task')}, {_counted(n_seeds, 'seed')}"


def _runs(material: Material, path: Sequence[str]) -> list[list[RunRow]]:
    """Return the runs of each arm that have something under a path of keys; arms without any are left out."""
    by_arm = (
        [row for row in material.rows(arm) if measured_in(row, path) is not None]
        for arm in material.arms
    )
    return [rows for rows in by_arm if rows]


def _everywhere(material: Material, *path: str) -> list[Any]:
    return [value for arm in material.arms for value in material.measured(arm, *path)]


def _counted(counts: Collection[int], noun: str) -> str:
    """Return a number with its noun, as "1 seed" or "2 to 3 seeds"."""
    return f"{_span(counts)} {noun}{'' if max(counts) == 1 else 's'}"


def _span(counts: Collection[float]) -> str:
    """Return a count, or the least and the most where they differ."""
    ends = dict.fromkeys((min(counts), max(counts)))
    return " to ".join(numbers.whole(end) for end in ends)
