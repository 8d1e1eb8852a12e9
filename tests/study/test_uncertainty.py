import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from qpeft.errors import MissingExtraError
from qpeft.study.uncertainty import (
    SMALLEST_P,
    Estimate,
    Table,
    detectable_effect,
    estimate_mean,
    half_width,
    holm,
    interval,
    p_value,
    p_value_above,
    share_interval,
)

numbers = st.floats(-1, 1).map(lambda x: round(x, 3))
tables = arrays(float, st.tuples(st.integers(2, 4), st.integers(3, 8)), elements=numbers)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def table(values, first_seed: int = 0, is_by_example: bool = True) -> Table:
    values = np.asarray(values, dtype=float)
    return Table(tuple(range(first_seed, first_seed + len(values))), values, is_by_example)


def by_seed(values) -> Table:
    return table(np.asarray(values, dtype=float)[:, None], is_by_example=False)


def estimate(value=0.0, seed_variance=0.0, example_variance=0.0, n_seeds=3, n=500) -> Estimate:
    covers = "seeds and examples"
    return Estimate(
        value, seed_variance, example_variance, max(1, n_seeds - 1), n - 1, n_seeds, n, covers
    )


def test_a_measure_by_seed_has_student_s_interval_and_p_value():
    values = [0.3, 0.1, 0.45, 0.2]
    found = estimate_mean([by_seed(values)])
    expected = stats.ttest_1samp(values, 0.0)
    ends = expected.confidence_interval(0.95)
    assert interval(found).low == pytest.approx(ends.low)
    assert interval(found).high == pytest.approx(ends.high)
    assert p_value(found) == pytest.approx(expected.pvalue, rel=1e-6)
    assert found.covers == "seeds"


def test_one_seed_s_interval_is_student_s_of_the_examples_and_says_so():
    values = np.array([[1, 0, 1, 1, 0, -1, 0, 1, 0, 0]])
    found = estimate_mean([table(values)])
    n = values.shape[1]
    error = math.sqrt(values.std(ddof=1) ** 2 / n + 1 / n**2)
    assert interval(found).high == pytest.approx(values.mean() + stats.t.ppf(0.975, n - 1) * error)
    assert (interval(found).covers, found.n_seeds) == ("examples", 1)


def test_one_seed_of_a_measure_by_seed_has_no_ends_and_no_p_value():
    found = estimate_mean([by_seed([0.3])])
    assert (interval(found).low, interval(found).high) == (-math.inf, math.inf)
    assert p_value(found) is None
    assert p_value_above(found, 0.0) is None
    assert detectable_effect(found) is None
    assert interval(found).covers == "nothing"


def test_the_luck_of_seeds_and_of_examples_is_told_apart():
    """Where no answer has noise of its own, each variance is that of its own effects."""
    of_seeds, of_examples = np.array([0.1, -0.2, 0.4]), np.array([0.5, -0.1, 0.0, 0.3, 0.9])
    found = estimate_mean([table(of_seeds[:, None] + of_examples[None, :])])
    assert found.seed_variance == pytest.approx(of_seeds.var(ddof=1) / 3)
    assert found.example_variance == pytest.approx(of_examples.var(ddof=1) / 5 + 1 / 25)


def test_the_variances_are_right_on_average():
    """Known spreads of seeds, examples and single answers come out again."""
    draw = np.random.default_rng(0)
    n_seeds, n, seed_sd, example_sd, noise_sd = 4, 30, 0.3, 0.8, 1.0
    found = []
    for _ in range(1500):
        values = (
            seed_sd * draw.standard_normal((n_seeds, 1))
            + example_sd * draw.standard_normal((1, n))
            + noise_sd * draw.standard_normal((n_seeds, n))
        )
        one = estimate_mean([table(values)])
        found.append((one.seed_variance, one.example_variance - 1 / n**2))
    of_seeds, of_examples = np.mean(found, axis=0)
    assert of_seeds == pytest.approx(seed_sd**2 / n_seeds + noise_sd**2 / (n_seeds * n), rel=0.06)
    assert of_examples == pytest.approx(example_sd**2 / n, rel=0.06)


def test_a_seed_that_is_lucky_on_all_tasks_does_not_average_out():
    luck = [[0.1], [-0.1], [0.0]]
    one = estimate_mean([table(np.tile(luck, 50))])
    three = estimate_mean([table(np.tile(luck, 50))] * 3)
    assert three.seed_variance == pytest.approx(one.seed_variance)
    assert three.example_variance == pytest.approx(one.example_variance / 3)


def test_opposite_luck_on_two_tasks_averages_out():
    luck = np.array([[0.1], [-0.1], [0.0]])
    found = estimate_mean([table(np.tile(luck, 50)), table(np.tile(-luck, 50))])
    assert found.seed_variance == pytest.approx(0.0, abs=1e-18)


def test_tasks_without_a_seed_in_common_have_independent_luck():
    values = np.tile([[0.1], [-0.1], [0.0]], 50)
    one = estimate_mean([table(values)])
    two = estimate_mean([table(values), table(values, first_seed=10)])
    assert two.seed_variance == pytest.approx(one.seed_variance / 2)


def test_a_lost_run_costs_degrees_of_freedom_but_no_task():
    draw = np.random.default_rng(0)
    values = draw.standard_normal((3, 3, 20))
    whole = estimate_mean([table(v) for v in values])
    lost = estimate_mean([table(values[0][1:], 1), table(values[1]), table(values[2])])
    means = [values[0][1:].mean(), values[1].mean(), values[2].mean()]
    assert lost.value == pytest.approx(np.mean(means))
    assert (whole.seed_freedom, lost.seed_freedom) == (2, 2)
    assert (whole.n_seeds, lost.n_seeds) == (3, 2)
    alone = estimate_mean([table(values[0][1:], 1)])
    assert alone.seed_freedom == 1


def test_without_any_difference_between_seeds_the_interval_is_that_of_the_examples():
    wide = estimate(seed_variance=0.0, example_variance=1e-4, n=501)
    assert half_width(wide, 0.05) == pytest.approx(stats.t.ppf(0.975, 500) * 0.01)


def test_the_two_half_widths_add_up_in_squares():
    found = estimate(seed_variance=4e-4, example_variance=1e-4, n=501)
    expected = math.hypot(stats.t.ppf(0.975, 2) * 0.02, stats.t.ppf(0.975, 500) * 0.01)
    assert half_width(found, 0.05) == pytest.approx(expected)


@given(tables, st.floats(0.001, 0.999))
@settings(max_examples=60, deadline=None)
def test_a_p_value_below_alpha_is_an_interval_that_leaves_out_zero(values, alpha):
    found = estimate_mean([table(values)])
    p = p_value(found)
    if abs(p - alpha) > 1e-9:
        ends = interval(found, 1 - alpha)
        assert (p < alpha) == (ends.low > 0 or ends.high < 0)


@given(tables)
@settings(max_examples=60, deadline=None)
def test_the_opposite_numbers_have_the_opposite_interval_and_the_same_p_value(values):
    ours, theirs = (estimate_mean([table(v)]) for v in (values, -values))
    assert interval(ours).low == pytest.approx(-interval(theirs).high)
    assert interval(ours).high == pytest.approx(-interval(theirs).low)
    assert p_value(ours) == pytest.approx(p_value(theirs))


@given(tables, st.floats(-5, 5))
@settings(max_examples=60, deadline=None)
def test_a_constant_moves_the_interval_and_nothing_else(values, shift):
    before, after = (estimate_mean([table(v)]) for v in (values, values + shift))
    assert interval(after).low - shift == pytest.approx(interval(before).low, abs=1e-9)
    assert interval(after).high - shift == pytest.approx(interval(before).high, abs=1e-9)


@given(tables, st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_order_of_seeds_and_examples_does_not_matter(values, random):
    rows, columns = list(range(len(values))), list(range(values.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    ours, theirs = (estimate_mean([table(v)]) for v in (values, values[rows][:, columns]))
    assert interval(theirs).low == pytest.approx(interval(ours).low)


def test_no_difference_at_all_has_p_value_one():
    assert p_value(estimate_mean([table(np.zeros((3, 20)))])) == 1.0
    assert p_value(estimate_mean([by_seed([0.0, 0.0, 0.0])])) == 1.0


def test_no_difference_in_few_examples_is_no_certainty():
    found = interval(estimate_mean([table(np.zeros((3, 20)))]))
    assert found.high > 0.05


def test_a_difference_without_any_spread_has_p_value_zero():
    assert p_value(estimate_mean([by_seed([0.5, 0.5, 0.5])])) == 0.0


def test_a_p_value_stops_at_the_smallest():
    assert p_value(estimate(0.5, example_variance=1e-8)) == SMALLEST_P


def test_one_sided_p_values_are_halves_and_add_up_to_one():
    found = estimate(0.02, seed_variance=1e-4, example_variance=1e-4)
    above = p_value_above(found, 0.0)
    below = p_value_above(found.at(-found.value), 0.0)
    assert above == pytest.approx(p_value(found) / 2)
    assert above + below == pytest.approx(1.0)


@given(p_values)
@settings(deadline=None)
def test_holm_never_lowers_a_p_value_and_keeps_their_order(values):
    adjusted = holm(values)
    assert all(a >= p for a, p in zip(adjusted, values, strict=True))
    assert all(a <= 1 for a in adjusted)
    for i in range(len(values)):
        for j in range(len(values)):
            if values[i] < values[j]:
                assert adjusted[i] <= adjusted[j]


@given(p_values)
@settings(deadline=None)
def test_holm_rejects_what_stepping_down_one_by_one_rejects(values):
    alpha, rejected = 0.05, set()
    for left, k in zip(range(len(values), 0, -1), np.argsort(values, kind="stable"), strict=True):
        if left * values[k] >= alpha:
            break
        rejected.add(int(k))
    assert {k for k, p in enumerate(holm(values)) if p < alpha} == rejected


def test_a_detectable_effect_is_the_normal_one_for_many_seeds():
    found = estimate(example_variance=1e-4, n=100_000)
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.01
    assert detectable_effect(found) == pytest.approx(expected, rel=1e-3)


def test_a_detectable_effect_is_found_four_times_in_five():
    n_seeds, spread = 3, 0.2
    effect = detectable_effect(estimate(seed_variance=spread**2 / n_seeds, n_seeds=n_seeds))
    draw = np.random.default_rng(0)
    samples = effect + spread * draw.standard_normal((20_000, n_seeds))
    found = stats.ttest_1samp(samples, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.012)


def test_a_detectable_effect_of_two_kinds_of_luck_is_found_four_times_in_five():
    n_seeds, n, seed_sd, example_sd = 3, 200, 0.03, 0.4
    variances = (seed_sd**2 / n_seeds, example_sd**2 / n)
    effect = detectable_effect(estimate(0.0, *variances, n_seeds=n_seeds, n=n))
    draw, found, n_studies = np.random.default_rng(0), 0, 3000
    for _ in range(n_studies):
        of_seeds = seed_sd * draw.standard_normal((n_seeds, 1))
        values = effect + of_seeds + example_sd * draw.standard_normal((1, n))
        one = estimate_mean([table(values)])
        found += abs(one.value) > half_width(one, 0.05)
    assert found / n_studies == pytest.approx(0.8, abs=3.5 * math.sqrt(0.8 * 0.2 / n_studies))


def test_more_seeds_find_smaller_differences():
    effects = [
        detectable_effect(estimate(seed_variance=1e-3 / n, example_variance=1e-4, n_seeds=n))
        for n in (2, 3, 5, 10)
    ]
    assert effects == sorted(effects, reverse=True)
    assert detectable_effect(estimate()) == 0.0


def test_the_interval_of_a_share_of_one_seed_is_wilson_s():
    from qpeft.training.significance import wilson_interval

    scores = np.array([[1.0] * 30 + [0.0] * 70])
    found = share_interval(estimate_mean([table(scores)]))
    low, high = wilson_interval(30, 100)
    assert found.low == pytest.approx(low, abs=0.005)
    assert found.high == pytest.approx(high, abs=0.005)


@pytest.mark.parametrize(("share", "end"), [(1.0, "high"), (0.0, "low")])
def test_a_share_of_all_or_none_is_no_certainty(share, end):
    found = share_interval(estimate_mean([table(np.full((3, 100), share))]))
    assert getattr(found, end) == share
    assert found.high - found.low == pytest.approx(0.037, abs=0.001)


@given(arrays(bool, st.tuples(st.integers(1, 4), st.integers(2, 12))))
@settings(max_examples=60, deadline=None)
def test_the_interval_of_a_share_holds_it_and_stays_a_share(scores):
    found = share_interval(estimate_mean([table(scores)]))
    assert 0 <= found.low <= found.estimate + 1e-12
    assert found.estimate - 1e-12 <= found.high <= 1


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.05])
def test_intervals_hold_the_truth_as_often_as_they_say(n_seeds, seed_sd):
    """Normal effects of seeds and examples with noise; bounds are 3.5 standard errors of the count."""
    draw = np.random.default_rng(n_seeds)
    n_studies, n, held = 800, 200, 0
    for _ in range(n_studies):
        values = (
            seed_sd * draw.standard_normal((n_seeds, 1))
            + 0.4 * draw.standard_normal((1, n))
            + 0.5 * draw.standard_normal((n_seeds, n))
        )
        found = interval(estimate_mean([table(values)]))
        held += found.low <= 0 <= found.high
    assert held / n_studies > 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / n_studies)


def test_a_missing_scipy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"qpeft\[study\]"):
        interval(estimate(seed_variance=1.0))
