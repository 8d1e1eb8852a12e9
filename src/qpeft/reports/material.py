"""Results and findings together, with the questions that several sections ask of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from qpeft.reports.arm_styles import ArmStyle, arm_styles
from qpeft.study import numbers
from qpeft.study.findings import Findings, Interval, PairedComparison
from qpeft.study.results import BASE_ARM, RunRow, StudyResults

ALL_TASKS = "all"
"""The name that findings give to all tasks together."""


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    Args:
        results: What was measured.
        findings: What the statistics say of it.
        styles: How each arm is drawn.
    """

    results: StudyResults
    findings: Findings
    styles: dict[str, ArmStyle]

    @classmethod
    def of(cls, results: StudyResults, findings: Findings) -> "Material":
        """Return the material of a study."""
        return cls(results, findings, arm_styles(results))

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms' names in the order in which they are shown."""
        return tuple(self.styles)

    def legend(self, arms: Iterable[str] | None = None) -> tuple[tuple[str, ArmStyle], ...]:
        """Return names and styles of some arms, or of all."""
        chosen = self.arms if arms is None else tuple(arms)
        return tuple((arm, self.styles[arm]) for arm in chosen)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, and before them "all" where there are several."""
        names = tuple(task.name for task in self.results.tasks)
        return names if len(names) == 1 else (ALL_TASKS, *names)

    @property
    def confidence(self) -> str:
        """How often the findings' intervals hold the truth, in percent."""
        found = {summary.value.confidence for summary in self.findings.summaries}
        return listed(f"{100 * share:g}" for share in sorted(found or {0.95}))

    @property
    def certainty(self) -> str:
        """Whose luck the findings' intervals cover, as a sentence."""
        covered = {s.value.covers for s in self.findings.summaries if s.arm != BASE_ARM}
        if covered & {"seeds and examples", "seeds"}:
            return (
                "Intervals cover the luck of the seeds, and for accuracies that of the test examples too; where "
                "there is no interval, there was one seed only."
            )
        if "examples" in covered:
            return (
                "With one seed, intervals cover the luck of the examples alone: how much another seed would "
                "change is unknown, and numbers that are not by example have no interval."
            )
        return "There are no intervals: nothing is known of the luck of seeds or examples."

    def title(self, task: str) -> str:
        """Return a task's few words for people."""
        if task == ALL_TASKS:
            return "All tasks"
        return next(t.title for t in self.results.tasks if t.name == task)

    def value(self, task: str, arm: str, measure: str) -> Interval | None:
        """Return an arm's interval, if the findings have it."""
        for summary in self.findings.summaries:
            if (summary.task, summary.arm, summary.measure) == (task, arm, measure):
                return summary.value
        return None

    def comparison(self, task: str, other: str, measure: str) -> PairedComparison | None:
        """Return the subject's comparison with another arm, if the findings have it."""
        for found in self.findings.comparisons:
            place = (found.task, found.arm, found.other, found.measure)
            if place == (task, self.results.subject, other, measure):
                return found
        return None

    def base_accuracy(self, task: str) -> float | None:
        """Return the untrained model's accuracy in [0, 1]; for all tasks their mean."""
        summary = self.value(task, BASE_ARM, "accuracy")
        if summary is not None:
            return summary.estimate
        names = [t.name for t in self.results.tasks] if task == ALL_TASKS else [task]
        found = [row.accuracy for name in names if (row := self.results.base.get(name))]
        known = [accuracy for accuracy in found if accuracy is not None]
        return fmean(known) if known and len(known) == len(names) else None

    def rows(self, arm: str, task: str = ALL_TASKS) -> list[RunRow]:
        """Return the succeeded runs of an arm, in the order of tasks and seeds."""
        names = [t.name for t in self.results.tasks] if task == ALL_TASKS else [task]
        return [row for name in names for row in self.results.rows_of(name, arm)]

    def known(self, arm: str, field: str, task: str = ALL_TASKS) -> list[float]:
        """Return a number of an arm's succeeded runs, where it was measured."""
        values = (getattr(row, field) for row in self.rows(arm, task))
        return [float(value) for value in values if value is not None]

    def n_parameters(self, arm: str) -> int | None:
        """Return an arm's trainable parameters, from the study or from its runs."""
        counted = self.results.arm(arm).n_parameters
        if counted is None:
            found = self.known(arm, "n_parameters")
            return int(found[0]) if found else None
        return counted

    def measured(self, arm: str, *path: str, task: str = ALL_TASKS) -> list[Any]:
        """Return what the arm's runs hold under a path of keys of `RunRow.measures`, where it is there."""
        found = (measured_in(row, path) for row in self.rows(arm, task))
        return [value for value in found if value is not None]

    def saving(self, arm: str) -> str:
        """Return how many fewer parameters an arm has than the reference, as a signed share."""
        own, reference = self.n_parameters(arm), self.n_parameters(self.results.reference)
        if not own or not reference or arm == self.results.reference:
            return numbers.ABSENT
        change = numbers.decimal(100 * (own / reference - 1), 1, is_signed=True)
        return numbers.with_unit(change, "%")


def measured_in(row: RunRow, path: Iterable[str]) -> Any:
    """Return what a run holds under a path of keys of `RunRow.measures`; None where there is nothing."""
    value: Any = row.measures
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def listed(words: Iterable[str]) -> str:
    """Return words as "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
