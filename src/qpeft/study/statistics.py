"""From a study's rows to its findings: every arm by itself, the subject against every other, the verdicts.

find
  summaries      mean of each arm, task and measure, with its interval
  comparisons    subject less other, example by example and seed by seed: interval, p-value, power, equivalence
  verdicts       `qpeft.study.verdicts`
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qpeft.errors import StudyError, did_you_mean
from qpeft.study.findings import ArmSummary, Findings, Interval, PairedComparison
from qpeft.study.results import BASE_ARM, RunRow, StudyResults
from qpeft.study.uncertainty import (
    Estimate,
    Table,
    detectable_effect,
    estimate_mean,
    holm,
    interval,
    p_value,
    p_value_above,
    share_interval,
)
from qpeft.study.verdicts import headline, judge

ALL_TASKS = "all"
"""In place of a task's name: the mean over the tasks, each with the same weight."""

REASONING_TASKS = "reasoning"
"""The mean over the tasks of reasoning alone, where others stand beside them."""

SHARES = {"accuracy": "scores", "strict_accuracy": "strict_scores"}
"""Measures by example, and the field of a row with the single answers."""

MEASURES = (
    "accuracy",
    "strict_accuracy",
    "training_effect",
    "test_loss",
    "validation_loss",
    "forgetting",
)


def find(results: StudyResults) -> Findings:
    """Return what a study's results say, with how sure it is.

    Nothing in it is drawn at random: the same results give the same findings.

    Args:
        results: All rows of the study; failed and missing runs just make the seeds fewer.

    Raises:
        StudyError: The subject or the reference is no arm of the study, or rows of a task have
            different numbers of test examples.
        MissingExtraError: scipy is not installed.
    """
    _check(results)
    summaries = tuple(_summaries(results))
    comparisons = tuple(_comparisons(results))
    verdicts = judge(results, summaries, comparisons)
    return Findings(summaries, comparisons, verdicts, headline(results, summaries, comparisons))


def _check(results: StudyResults) -> None:
    """Refuse results that cannot be compared."""
    names = [arm.name for arm in results.arms]
    for part, name in (("subject", results.subject), ("reference", results.reference)):
        if name not in names:
            raise StudyError(
                f"The {part} '{name}' is no arm of the study; its arms are {', '.join(names)}."
                f"{did_you_mean(name, names)}"
            )
    for task in results.tasks:
        rows = [row for row in results.rows if row.task == task.name]
        rows += [results.base[task.name]] if task.name in results.base else []
        for field in SHARES.values():
            sizes = {len(getattr(row, field)) for row in rows} - {0}
            if len(sizes) > 1:
                raise StudyError(
                    f"Runs on task '{task.name}' have {' and '.join(map(str, sorted(sizes)))} "
                    f"{field}; all arms must answer the same test examples. Run the study again "
                    "into a new folder."
                )


def _summaries(results: StudyResults) -> list[ArmSummary]:
    """Return every arm's means, the untrained model's first."""
    found = []
    for arm in (BASE_ARM, *(arm.name for arm in results.arms)):
        for measure in MEASURES:
            tables = {t.name: _table(results, t.name, arm, measure) for t in results.tasks}
            for task, estimate in _by_task(results, tables).items():
                value = share_interval(estimate) if measure in SHARES else interval(estimate)
                found.append(ArmSummary(task, arm, measure, estimate.n_seeds, value))
    return found


def _comparisons(results: StudyResults) -> list[PairedComparison]:
    """Return the subject against the reference, all other arms and the untrained model."""
    others = [results.reference]
    others += [a.name for a in results.arms if a.name not in (results.subject, results.reference)]
    found = []
    for measure in MEASURES:
        for other in (*others, BASE_ARM):
            tables = {
                t.name: _difference(
                    _table(results, t.name, results.subject, measure),
                    _table(results, t.name, other, measure),
                    is_base=other == BASE_ARM,
                )
                for t in results.tasks
            }
            for task, estimate in _by_task(results, tables).items():
                where = (task, results.subject, other, measure)
                margin = results.margin if measure == "accuracy" and other != BASE_ARM else None
                found.append(_compare(where, estimate, margin))
    return _adjusted(found)


def _compare(
    where: tuple[str, str, str, str], estimate: Estimate, margin: float | None
) -> PairedComparison:
    """Return one comparison, not yet corrected for the others."""
    difference, detectable = interval(estimate), detectable_effect(estimate)
    if where[3] in SHARES:
        difference = _within_one(difference)
        detectable = None if detectable is None or detectable > 1 else detectable
    found = PairedComparison(
        *where,
        n_seeds=estimate.n_seeds,
        n_examples=estimate.n_examples,
        difference=difference,
        p_value=p_value(estimate),
        p_adjusted=None,
        minimal_detectable_effect=detectable,
    )
    # Two trainings say nothing about whether the methods are equivalent.
    if margin is None or margin <= 0 or estimate.covers != "seeds and examples":
        return found
    return _with_equivalence(found, estimate, margin)


def _with_equivalence(
    found: PairedComparison, estimate: Estimate, margin: float
) -> PairedComparison:
    """Add the two one-sided tests against the margin.

    References:
        D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 657 (1987).
    """
    ends = interval(estimate, 0.90)
    above = p_value_above(estimate, -margin)
    below = p_value_above(estimate.at(-estimate.value), -margin)
    p_equivalence = None if above is None or below is None else max(above, below)
    found = replace(found, p_equivalence=p_equivalence, p_not_inferior=above)
    if ends.low > -margin and ends.high < margin:
        return replace(found, equivalence="equivalent")
    if ends.low > -margin:
        return replace(found, equivalence="not inferior")
    if ends.high < -margin:
        return replace(found, equivalence="inferior")
    return replace(found, equivalence="undecided")


def _adjusted(comparisons: Sequence[PairedComparison]) -> list[PairedComparison]:
    """Correct each family's p-values: one measure, on means over tasks, on single ones, or with the base."""
    families: dict[tuple[str, str, bool], list[int]] = {}
    for k, found in enumerate(comparisons):
        if found.p_value is not None:
            group = found.task if found.task in (ALL_TASKS, REASONING_TASKS) else "single"
            key = (found.measure, group, found.other == BASE_ARM)
            families.setdefault(key, []).append(k)
    corrected = list(comparisons)
    for members in families.values():
        p_values = [p for k in members if (p := comparisons[k].p_value) is not None]
        for k, p in zip(members, holm(p_values), strict=True):
            corrected[k] = replace(comparisons[k], p_adjusted=p)
    return corrected


def _by_task(results: StudyResults, tables: dict[str, Table | None]) -> dict[str, Estimate]:
    """Return the estimates of the tasks that were measured, and of those together of which all were."""
    measured = {task: table for task, table in tables.items() if table is not None}
    found = {task: estimate_mean([table]) for task, table in measured.items()}
    groups = {ALL_TASKS: list(tables)}
    reasoning = [task.name for task in results.tasks if task.is_reasoning]
    if 0 < len(reasoning) < len(tables):
        groups[REASONING_TASKS] = reasoning
    for group, names in groups.items():
        if names and all(name in measured for name in names):
            found[group] = estimate_mean([measured[name] for name in names])
    return found


def _table(results: StudyResults, task: str, arm: str, measure: str) -> Table | None:
    """Return an arm's numbers on a task, one line for each succeeded run that has the measure."""
    rows: tuple[RunRow, ...] = results.rows_of(task, arm)
    if arm == BASE_ARM:
        base = results.base.get(task)
        rows = (base,) if base is not None and base.status == "succeeded" else ()
    rows = tuple(row for row in rows if getattr(row, measure) is not None)
    if not rows:
        return None
    seeds = tuple(row.seed for row in rows)
    if measure in SHARES:
        values = np.array([getattr(row, SHARES[measure]) for row in rows], dtype=float)
        return Table(seeds, values, is_by_example=True)
    values = np.array([[getattr(row, measure)] for row in rows], dtype=float)
    return Table(seeds, values, is_by_example=False)


def _difference(arm: Table | None, other: Table | None, *, is_base: bool) -> Table | None:
    """Return arm less other, for the seeds that both have; the untrained model has no seed of its own."""
    if arm is None or other is None:
        return None
    if is_base:
        return replace(arm, values=arm.values - other.values)
    shared = tuple(seed for seed in arm.seeds if seed in other.seeds)
    if not shared:
        return None
    ours = arm.values[[arm.seeds.index(seed) for seed in shared]]
    theirs = other.values[[other.seeds.index(seed) for seed in shared]]
    return Table(shared, ours - theirs, arm.is_by_example)


def _within_one(found: Interval) -> Interval:
    """Cut an interval of a difference of two shares to what such a difference can be."""
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high))
