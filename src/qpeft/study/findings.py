"""What the statistics of a study say, as plain data for reports. `qpeft.study.statistics` makes it."""

from dataclasses import dataclass
from typing import Literal

Covers = Literal["seeds and examples", "seeds", "examples", "nothing"]
"""Whose luck an interval covers. Of one seed only the examples' is known, and no luck at all for a measure that is
not by example: such an interval reaches from -inf to inf."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, all in the unit of the measure.

    Args:
        estimate: The best single number.
        low: The interval's lower end.
        high: Its upper end.
        confidence: How often such an interval holds the true value, in (0, 1).
        covers: Whose luck it covers.
    """

    estimate: float
    low: float
    high: float
    confidence: float = 0.95
    covers: Covers = "seeds and examples"


@dataclass(frozen=True)
class ArmSummary:
    """One arm on one task (or on all tasks together, task "all") over the seeds.

    Args:
        task: A task's name, "all" for the mean over tasks, or "reasoning" for that over those of reasoning, where
            not all are.
        arm: An arm's name, or "base" for the untrained model.
        measure: "accuracy", "strict_accuracy", "training_effect", "test_loss", "validation_loss" or "forgetting".
        n_seeds: Succeeded runs with this measure; for "all" those of the task that has fewest.
        value: Mean over the seeds.
    """

    task: str
    arm: str
    measure: str
    n_seeds: int
    value: Interval


@dataclass(frozen=True)
class PairedComparison:
    """Two arms on the same examples and seeds.

    Args:
        task: A task's name, or "all".
        arm: The first arm.
        other: The second arm, or "base" for the untrained model.
        measure: As in `ArmSummary`.
        n_seeds: Seeds that both have; for "all" those of the task that has fewest.
        n_examples: Test examples of each; 0 for measures that are not by example.
        difference: Of `arm` less `other`.
        p_value: Two-sided, that they are equal; None where there is too little to say.
        p_adjusted: The same, corrected for the number of comparisons (Holm). Those of one measure are corrected
            together: the ones on "all" with all other arms, the ones on single tasks, the ones with "base".
        minimal_detectable_effect: Smallest true difference that this many seeds and examples would find with 80 %
            power at the 5 % level, not corrected; None with one seed, or if shares cannot differ by so much.
        equivalence: "equivalent" if the whole 90 % interval lies within the margin (two one-sided tests),
            "not inferior" if only its lower end does, "inferior" if all of it lies below, else "undecided".
        p_equivalence: The larger of the two one-sided p-values.
        p_not_inferior: That of them which asks whether the first arm is worse by the margin or more.
    """

    task: str
    arm: str
    other: str
    measure: str
    n_seeds: int
    n_examples: int
    difference: Interval
    p_value: float | None
    p_adjusted: float | None
    minimal_detectable_effect: float | None
    equivalence: Literal["equivalent", "not inferior", "inferior", "undecided"] | None = None
    p_equivalence: float | None = None
    p_not_inferior: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured here.

    Args:
        key: A short name, such as "parameters" or "circuit".
        claim: What was reported, in plain words, with its source.
        measured: What this study measured, in plain words, with intervals.
        outcome: Whether the numbers bear it out.
    """

    key: str
    claim: str
    measured: str
    outcome: Literal["supported", "contradicted", "not shown", "not measured"]


@dataclass(frozen=True)
class Findings:
    """All that the statistics say of a study.

    An arm without a single measured run on a task has no entry for the task, nor for "all".

    Args:
        summaries: Arm by arm.
        comparisons: Subject against reference, and against every other arm.
        verdicts: The claims, one by one.
        headline: The answer in one or two plain sentences, with its uncertainty.
    """

    summaries: tuple[ArmSummary, ...]
    comparisons: tuple[PairedComparison, ...]
    verdicts: tuple[Verdict, ...]
    headline: str
