"""How sure a mean over seeds and examples is, when both are samples: intervals, p-values, power.

    table of one task (n_seeds, n_examples)
        -> seed variance      how much the mean would move with other seeds
        -> example variance   how much it would move with other test examples
        -> half width of an interval = sqrt((t * seed error)^2 + (t * example error)^2)

Each error has its own Student quantile, with few degrees of freedom for the few seeds and many for the many
examples. docs/statistics.md has the measured coverage, also of what was not chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qpeft.errors import MissingExtraError
from qpeft.study.findings import Covers, Interval

SMALLEST_P = 1e-15
"""No p-value below this is told apart from it."""

N_WIDTHS = 400
"""Widths of an interval that the power is a mean of."""


@dataclass(frozen=True)
class Table:
    """What was measured on one task: one number for each seed and example.

    Args:
        seeds: Of the rows.
        values: (n_seeds, n_examples); one column for a measure that is not by example.
        is_by_example: Whether the columns are test examples, a sample of all that could be asked.
    """

    seeds: tuple[int, ...]
    values: np.ndarray
    is_by_example: bool


@dataclass(frozen=True)
class Estimate:
    """A mean with the variances of its two sources of luck, in the squared unit of the measure.

    Args:
        value: The mean over seeds, examples and tasks.
        seed_variance: Of the mean, from the seeds; holds the noise of single answers too.
        example_variance: Of the mean, from the examples, beyond what the seeds' share holds.
        seed_freedom: Degrees of freedom of the seed variance, at least 1.
        example_freedom: Degrees of freedom of the example variance.
        n_seeds: The smallest number of seeds of a task.
        n_examples: The sum over the tasks; 0 for a measure that is not by example.
        covers: What an interval from it covers.
    """

    value: float
    seed_variance: float
    example_variance: float
    seed_freedom: float
    example_freedom: int
    n_seeds: int
    n_examples: int
    covers: Covers

    def at(self, value: float) -> "Estimate":
        """Return an equally uncertain estimate with another value."""
        return replace(self, value=value)


def estimate_mean(tables: Sequence[Table]) -> Estimate:
    """Return the mean over the tables, each with the same weight, and how uncertain it is.

    Examples of different tasks are different samples. A seed is one thing in all tasks, since it
    also draws the adapter's first weights, which can be lucky everywhere (arXiv 2002.06305); so its
    effects are added up over the tasks before they are squared.

    Args:
        tables: One for each task; all by example, or none.

    References:
        A. B. Owen, D. Eckles, arXiv 1106.2125, for two crossed samples; E. Miller, arXiv 2411.00640,
        for errors of evaluations.
    """
    n_tables = len(tables)
    n_seeds = min(len(table.seeds) for table in tables)
    is_by_example = tables[0].is_by_example
    example_variance, effects = 0.0, dict.fromkeys((s for t in tables for s in t.seeds), 0.0)
    for table in tables:
        of_seeds = table.values.mean(axis=1)
        if n_seeds > 1:
            unbiased = math.sqrt(len(of_seeds) / (len(of_seeds) - 1))
            for seed, mean in zip(table.seeds, of_seeds, strict=True):
                share = unbiased * (mean - of_seeds.mean()) / (n_tables * len(of_seeds))
                effects[seed] += float(share)
        if is_by_example:
            example_variance += _example_variance(table.values, n_seeds > 1) / n_tables**2
    # An estimated variance can fall below zero; and one more example could always be a surprise.
    smallest = sum(1 / t.values.shape[1] ** 2 for t in tables) / n_tables**2
    return Estimate(
        value=float(np.mean([table.values.mean() for table in tables])),
        seed_variance=sum(effect**2 for effect in effects.values()),
        example_variance=max(0.0, example_variance) + smallest if is_by_example else 0.0,
        seed_freedom=_seed_freedom(tables),
        example_freedom=max(1, min(table.values.shape[1] for table in tables) - 1),
        n_seeds=n_seeds,
        n_examples=sum(t.values.shape[1] for t in tables) if is_by_example else 0,
        covers=_covers(n_seeds, is_by_example),
    )


def interval(estimate: Estimate, confidence: float = 0.95) -> Interval:
    """Return the interval around an estimate; without ends if nothing is known of its luck.

    Args:
        estimate: What it is about.
        confidence: How often such an interval holds the true value, in (0, 1).
    """
    half = math.inf
    if estimate.covers != "nothing":
        half = half_width(estimate, 1 - confidence)
    value = estimate.value
    return Interval(value, value - half, value + half, confidence, estimate.covers)


def share_interval(estimate: Estimate, confidence: float = 0.95) -> Interval:
    """Return the interval of a share of right answers, which stays within [0, 1].

    It is Wilson's, with as many examples as would be as uncertain as the estimate is, yet never
    more than there are.

    References:
        E. L. Korn, B. I. Graubard, Survey Methodology 24, 193 (1998), for the effective sample
        size; N. Dean, M. Pagano, J. Surv. Stat. Methodol. 3, 484 (2015), for Wilson's with it.
    """
    share, half = estimate.value, half_width(estimate, 1 - confidence)
    z = _student_quantile(1_000_000, 1 - confidence)
    n = float(estimate.n_examples)
    if half > 0 and 0 < share < 1:
        n = min(n, z * z * share * (1 - share) / half**2)
    spread = z * z / n
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(spread) / (1 + spread) * math.sqrt(share * (1 - share) + spread / 4)
    low = 0.0 if share == 0 else middle - reach
    high = 1.0 if share == 1 else middle + reach
    return Interval(share, low, high, confidence, estimate.covers)


def half_width(estimate: Estimate, alpha: float) -> float:
    """Return how far the two-sided interval of level 1 - alpha reaches to each side."""
    of_seeds = _student_quantile(estimate.seed_freedom, alpha) ** 2 * estimate.seed_variance
    of_examples = _student_quantile(estimate.example_freedom, alpha) ** 2
    return math.sqrt(of_seeds + of_examples * estimate.example_variance)


def p_value(estimate: Estimate, null: float = 0.0) -> float | None:
    """Return the two-sided p-value of a true value: 1 less the confidence of the interval that just reaches it.

    Args:
        estimate: What was measured.
        null: The value on trial.

    Returns:
        The p-value, in [1e-15, 1], or 0 for a difference without any spread; None if nothing is
        known of the estimate's luck.
    """
    optimize = _scipy("optimize")
    if estimate.covers == "nothing":
        return None
    distance = abs(estimate.value - null)
    if distance == 0:
        return 1.0
    if half_width(estimate, 0.5) == 0:
        return 0.0
    if half_width(estimate, SMALLEST_P) <= distance:
        return SMALLEST_P

    def reaches_beyond(log_alpha: float) -> float:
        return half_width(estimate, math.exp(log_alpha)) - distance

    return math.exp(optimize.brentq(reaches_beyond, math.log(SMALLEST_P), 0.0, xtol=1e-12))


def p_value_above(estimate: Estimate, bound: float) -> float | None:
    """Return the one-sided p-value of a true value at or below the bound; small speaks for "above it"."""
    p = p_value(estimate, bound)
    if p is None:
        return None
    return p / 2 if estimate.value > bound else 1 - p / 2


def detectable_effect(estimate: Estimate, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """Return the smallest true difference that this design finds with the given power.

    The variances are taken as estimated. The next study would estimate the seeds' anew, from few:
    so the power is a mean over the interval widths that it may come to.

    Args:
        estimate: Of the same design.
        power: How often it would be found, in (0, 1).
        alpha: The level of the two-sided test.

    Returns:
        The difference, in the measure's unit; None if the luck of the seeds is unknown.

    References:
        H. S. Bloom, Evaluation Review 19, 547 (1995), for the notion.
    """
    special, optimize = _scipy("special"), _scipy("optimize")
    if estimate.covers in ("nothing", "examples"):
        return None
    error = math.sqrt(estimate.seed_variance + estimate.example_variance)
    if error == 0:
        return 0.0
    chances = (np.arange(N_WIDTHS) + 0.5) / N_WIDTHS
    factors = special.chdtri(estimate.seed_freedom, chances) / estimate.seed_freedom
    of_seeds = _student_quantile(estimate.seed_freedom, alpha) ** 2 * estimate.seed_variance
    of_examples = _student_quantile(estimate.example_freedom, alpha) ** 2
    halves = np.sqrt(of_seeds * factors + of_examples * estimate.example_variance)

    def found_too_often(shift: float) -> float:
        found = special.ndtr((shift - halves) / error) + special.ndtr((-shift - halves) / error)
        return float(found.mean()) - power

    return float(optimize.brentq(found_too_often, 0.0, float(halves.max()) + 10 * error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in the order given.

    References:
        S. Holm, Scand. J. Stat. 6, 65 (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, so_far = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = so_far
    return adjusted


def _example_variance(values: np.ndarray, has_seeds: bool) -> float:
    """Return the variance of the mean from the examples, less the noise that the seeds' share holds already."""
    n_seeds, n = values.shape
    if n < 2:
        return 0.0
    of_examples, of_seeds = values.mean(axis=0), values.mean(axis=1)
    mean = values.mean()
    variance = float(((of_examples - mean) ** 2).sum() / (n * (n - 1)))
    if not has_seeds:
        return variance
    noise = values - of_examples[None, :] - of_seeds[:, None] + mean
    return variance - float((noise**2).sum() / ((n_seeds - 1) * (n - 1) * n_seeds * n))


def _seed_freedom(tables: Sequence[Table]) -> float:
    """Return the degrees of freedom of the seeds' variance: all seeds less one, or fewer where tasks lack some.

    References:
        F. E. Satterthwaite, Biometrics Bulletin 2, 110 (1946), with equal variances in all tasks.
    """
    sizes = [len(table.seeds) for table in tables]
    n_distinct = len({seed for table in tables for seed in table.seeds})
    if min(sizes) < 2:
        return 1.0
    pooled = sum(1 / n for n in sizes) ** 2 / sum(1 / (n * n * (n - 1)) for n in sizes)
    return min(n_distinct - 1.0, pooled)


def _covers(n_seeds: int, is_by_example: bool) -> Covers:
    """Return which luck can be seen in data of this shape."""
    if n_seeds > 1:
        return "seeds and examples" if is_by_example else "seeds"
    return "examples" if is_by_example else "nothing"


def _student_quantile(freedom: float, alpha: float) -> float:
    """Return the two-sided quantile of Student's t distribution."""
    return float(-_scipy("special").stdtrit(freedom, alpha / 2))


def _scipy(part: str):  # type: ignore[no-untyped-def]
    """Import a part of scipy, or say which extra brings it."""
    try:
        from scipy import optimize, special
    except ImportError as error:
        raise MissingExtraError("scipy", "study", "The statistics of a study") from error
    return {"optimize": optimize, "special": special}[part]
