"""How often the 95 % intervals of a study hold the true difference of two arms, and how wide they are.

    python benchmarks/interval_coverage.py [--studies 1000] [--seeds 3 5] [--examples 500]

Draws studies whose truth is known (two arms of the same accuracy; examples that are hard for both or for one,
seeds that are lucky for both or for one) and counts. Beside qpeft's interval stand those that were not chosen:

    examples    paired by example, the seeds taken as they are
    seeds       Student's t of the seeds' means, the examples taken as they are
    pooled      one variance from both, with Satterthwaite's degrees of freedom
    pigeonhole  bootstrap of seeds and examples (arXiv 1106.2125), percentiles of 200 resamples;
                every fifth study
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
from scipy import stats

from qpeft.study.uncertainty import Estimate, Table, detectable_effect, estimate_mean, half_width

EXAMPLE_SD, SEED_SD = 1.0, 0.05
N_RESAMPLES = 200


def draw_differences(
    draw: np.random.Generator,
    shape: tuple[int, int, int],
    accuracy: float,
    spreads: tuple[float, float],
) -> np.ndarray:
    """Return (n_tasks, n_seeds, n_examples) differences of the scores of two arms that are equally good.

    Args:
        draw: Where the numbers come from.
        shape: (n_tasks, n_seeds, n_examples).
        accuracy: Of both arms.
        spreads: How much examples, and seeds, differ for one arm alone; the noise of an answer has 1.
    """
    n_tasks, n_seeds, n_examples = shape
    of_example, of_seed = spreads
    total = math.sqrt(1 + EXAMPLE_SD**2 + SEED_SD**2 + of_example**2 + of_seed**2)
    shared = EXAMPLE_SD * draw.standard_normal((n_tasks, 1, n_examples))
    shared = shared + SEED_SD * draw.standard_normal((1, n_seeds, 1))
    arms = [
        shared
        + draw.standard_normal(shape)
        + of_example * draw.standard_normal((n_tasks, 1, n_examples))
        # The worst case for a mean over tasks: a seed that is lucky is so on every task.
        + of_seed * draw.standard_normal((1, n_seeds, 1))
        > -total * NormalDist().inv_cdf(accuracy)
        for _ in range(2)
    ]
    return arms[0].astype(float) - arms[1]


def intervals(values: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return the interval of each method with a formula, for one task."""
    n_seeds, n = values.shape
    of_seeds, of_examples = values.mean(axis=1), values.mean(axis=0)
    seed_error = of_seeds.std(ddof=1) / math.sqrt(n_seeds)
    example_error = of_examples.std(ddof=1) / math.sqrt(n)
    both = seed_error**2 + example_error**2
    quartic = seed_error**4 / (n_seeds - 1) + example_error**4 / (n - 1)
    freedom = both**2 / quartic if both > 0 else n - 1
    halves = {
        "qpeft": half_width(estimate_mean([_table(values)]), 0.05),
        "examples": 1.96 * example_error,
        "seeds": float(stats.t.ppf(0.975, n_seeds - 1)) * seed_error,
        "pooled": float(stats.t.ppf(0.975, freedom)) * math.sqrt(both),
    }
    mean = float(values.mean())
    return {name: (mean - half, mean + half) for name, half in halves.items()}


def pigeonhole(draw: np.random.Generator, values: np.ndarray) -> tuple[float, float]:
    """Return the percentiles of the means of resampled seeds and examples, for one task."""
    n_seeds, n = values.shape
    weights = draw.multinomial(n_seeds, [1 / n_seeds] * n_seeds, size=N_RESAMPLES) / n_seeds
    resampled = weights @ values
    resampled = (resampled * draw.multinomial(n, [1 / n] * n, size=N_RESAMPLES) / n).sum(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def coverage(n_studies: int, n_seeds: int, n_examples: int) -> Iterator[tuple[str, ...]]:
    """Yield a line for each accuracy and spread: share of intervals that hold the truth, and their half width."""
    for accuracy in (0.75, 0.95):
        for spreads in ((0.0, 0.0), (0.6, 0.0), (0.6, 0.05), (0.6, 0.1), (0.6, 0.2), (0.0, 0.2)):
            draw = np.random.default_rng(1)
            held: dict[str, list[bool]] = {}
            widths: dict[str, list[float]] = {}
            for k in range(n_studies):
                values = draw_differences(draw, (1, n_seeds, n_examples), accuracy, spreads)[0]
                found = intervals(values)
                if k % 5 == 0:  # slow, and far off where it is
                    found["pigeonhole"] = pigeonhole(draw, values)
                for name, (low, high) in found.items():
                    held.setdefault(name, []).append(low <= 0 <= high)
                    widths.setdefault(name, []).append((high - low) / 2)
            cells = [
                f"{100 * np.mean(held[name]):.1f} % (±{100 * np.mean(widths[name]):.1f})"
                for name in held
            ]
            yield (str(n_seeds), f"{accuracy:.0%}", *map(str, spreads), *cells)


def coverage_over_tasks(n_studies: int, n_seeds: int, n_examples: int) -> Iterator[tuple[str, ...]]:
    """Yield lines for the mean over three tasks, with all runs and with one run lost."""
    for n_lost in (0, 1):
        for spreads in ((0.6, 0.0), (0.6, 0.1), (0.6, 0.2)):
            draw = np.random.default_rng(2)
            held, widths = [], []
            for _ in range(n_studies):
                values = draw_differences(draw, (3, n_seeds, n_examples), 0.75, spreads)
                tables = [_table(values[0][n_lost:], n_lost), _table(values[1]), _table(values[2])]
                estimate = estimate_mean(tables)
                half = half_width(estimate, 0.05)
                held.append(abs(estimate.value) <= half)
                widths.append(half)
            cell = f"{100 * np.mean(held):.1f} % (±{100 * np.mean(widths):.1f})"
            yield (str(n_seeds), str(n_lost), *map(str, spreads), cell)


def power_at_detectable(n_studies: int, n_seeds: int) -> float:
    """Return how often a difference of the stated detectable size is found, with known variances."""
    draw = np.random.default_rng(3)
    n_examples, seed_sd, example_sd = 500, 0.02, 0.4
    design = Estimate(
        0.0, seed_sd**2 / n_seeds, example_sd**2 / n_examples, n_seeds - 1, 499, n_seeds, 500,
        "seeds and examples",
    )  # fmt: skip
    effect = detectable_effect(design) or 0.0
    found = 0
    for _ in range(n_studies):
        seeds = seed_sd * draw.standard_normal(n_seeds)
        examples = example_sd * draw.standard_normal(n_examples)
        values = effect + seeds[:, None] + examples[None, :]
        estimate = estimate_mean([_table(values)])
        found += abs(estimate.value) > half_width(estimate, 0.05)
    return found / n_studies


def _table(values: np.ndarray, first_seed: int = 0) -> Table:
    seeds = tuple(range(first_seed, first_seed + len(values)))
    return Table(seeds, values, is_by_example=True)


def _print_table(head: Sequence[str], lines: Iterator[tuple[str, ...]]) -> None:
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--examples", type=int, default=500)
    options = parser.parse_args()
    spreads = ("spread of examples", "spread of seeds")
    for n_seeds in options.seeds:
        _print_table(
            ("seeds", "accuracy", *spreads, "qpeft", "examples", "seeds", "pooled", "pigeonhole"),
            coverage(options.studies, n_seeds, options.examples),
        )
        _print_table(
            ("seeds", "lost runs", *spreads, "mean over three tasks"),
            coverage_over_tasks(options.studies, n_seeds, options.examples),
        )
        power = power_at_detectable(4 * options.studies, n_seeds)
        print(f"Power at the detectable effect, {n_seeds} seeds: {power:.1%}\n")


if __name__ == "__main__":
    main()
