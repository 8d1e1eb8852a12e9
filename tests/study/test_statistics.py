import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic import ARMS, TASKS, synthetic_results

from qpeft.errors import StudyError
from qpeft.study.findings import Findings, PairedComparison
from qpeft.study.results import StudyResults
from qpeft.study.statistics import MEASURES, find

COMPLETE = {"failed": (), "n_examples": 60}
SMALL = {**COMPLETE, "arms": ARMS[:3], "tasks": TASKS[:2]}


def compare(
    found: Findings, other: str, measure: str = "accuracy", task: str = "all"
) -> PairedComparison:
    wanted = (task, other, measure)
    return next(c for c in found.comparisons if (c.task, c.other, c.measure) == wanted)


def changed(results: StudyResults, arm: str, **how) -> StudyResults:
    """Return the results with a function applied to fields of one arm's rows."""
    rows = (
        replace(r, **{k: f(r) for k, f in how.items()})
        if r.arm == arm and r.status == "succeeded"
        else r
        for r in results.rows
    )
    return replace(results, rows=tuple(rows))


def with_subject(results: StudyResults, subject: str, reference: str) -> StudyResults:
    return replace(results, subject=subject, reference=reference)


def test_every_arm_task_and_measure_has_a_summary_and_the_subject_every_comparison():
    results = synthetic_results(**COMPLETE)
    found = find(results)
    n_tasks, n_measures = len(TASKS) + 1, len(MEASURES)
    of_base = 3 * n_tasks  # accuracy, strict accuracy and test loss
    assert len(found.summaries) == len(ARMS) * n_tasks * n_measures + of_base
    assert len(found.comparisons) == (len(ARMS) - 1) * n_tasks * n_measures + of_base
    assert {c.arm for c in found.comparisons} == {"qtha"}
    assert found.comparisons[0].other == "lora"


def test_estimates_are_the_plain_means():
    results = synthetic_results(**COMPLETE)
    found = find(results)
    for task in TASKS:
        accuracies = [row.accuracy for row in results.rows_of(task, "mlp")]
        value = next(
            s.value
            for s in found.summaries
            if (s.task, s.arm, s.measure) == (task, "mlp", "accuracy")
        )
        assert value.estimate == pytest.approx(np.mean(accuracies))
    by_task = [compare(found, "mlp", task=task).difference.estimate for task in TASKS]
    assert compare(found, "mlp").difference.estimate == pytest.approx(np.mean(by_task))


@pytest.mark.parametrize("measure", ["training_effect", "test_loss", "forgetting"])
def test_a_measure_by_seed_is_compared_as_by_the_paired_t_test(measure):
    results = synthetic_results(n_seeds=4, failed=())
    ours, theirs = (
        [getattr(row, measure) for row in results.rows_of("chains", arm)]
        for arm in ("qtha", "none")
    )
    expected = stats.ttest_rel(ours, theirs)
    got = compare(find(results), "none", measure, "chains")
    assert got.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert got.difference.low == pytest.approx(expected.confidence_interval(0.95).low)
    assert (got.n_seeds, got.n_examples, got.difference.covers) == (4, 0, "seeds")


def test_pairing_by_example_makes_intervals_narrower_than_shuffled_examples():
    results = synthetic_results(failed=(), seed_of_arm_sd=0.0, example_of_arm_sd=0.0)
    order = np.random.default_rng(0).permutation(500)
    shuffled = changed(results, "lora", scores=lambda r: tuple(np.array(r.scores)[order].tolist()))

    def width(found: Findings) -> float:
        one = [compare(found, "lora", task=t).difference for t in TASKS]
        return float(np.mean([d.high - d.low for d in one]))

    assert width(find(results)) < 0.95 * width(find(shuffled))


@given(st.integers(0, 50), st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_swapping_the_arms_flips_the_sign(seed, n_seeds):
    results = synthetic_results(seed, n_seeds=n_seeds, **SMALL)
    ours = find(results)
    theirs = find(with_subject(results, "lora", "qtha"))
    for measure in MEASURES:
        for task in (*TASKS[:2], "all"):
            a, b = compare(ours, "lora", measure, task), compare(theirs, "qtha", measure, task)
            assert a.difference.estimate == pytest.approx(-b.difference.estimate)
            assert a.difference.low == pytest.approx(-b.difference.high)
            assert a.p_value == pytest.approx(b.p_value)
            assert a.minimal_detectable_effect == pytest.approx(b.minimal_detectable_effect)


@given(st.integers(0, 50))
@settings(max_examples=10, deadline=None)
def test_identical_arms_differ_by_nothing_and_are_equivalent(seed):
    results = synthetic_results(seed, **{**SMALL, "n_examples": 300})
    twin = {(r.task, r.seed): r for r in results.rows if r.arm == "lora"}
    rows = tuple(
        replace(twin[r.task, r.seed], arm="qtha") if r.arm == "qtha" else r for r in results.rows
    )
    found = find(replace(results, rows=rows))
    for measure in MEASURES:
        got = compare(found, "lora", measure)
        assert (got.difference.estimate, got.p_value, got.p_adjusted) == (0.0, 1.0, 1.0)
    got = compare(found, "lora")
    assert got.equivalence == "equivalent"
    assert got.p_equivalence < 0.05


@given(st.floats(-2, 2))
@settings(max_examples=10, deadline=None)
def test_a_constant_on_one_arm_s_loss_moves_its_difference_by_it(shift):
    results = synthetic_results(**SMALL)
    moved = changed(results, "qtha", test_loss=lambda row: row.test_loss + shift)
    before, after = (compare(find(r), "lora", "test_loss") for r in (results, moved))
    for end in ("estimate", "low", "high"):
        expected = getattr(before.difference, end) + shift
        assert getattr(after.difference, end) == pytest.approx(expected, abs=1e-9)


@given(st.integers(0, 200), st.floats(0.6, 0.9), st.floats(0.005, 0.2))
@settings(max_examples=25, deadline=None)
def test_equivalence_is_what_the_ninety_percent_interval_and_the_p_value_say(seed, share, margin):
    results = synthetic_results(
        seed, accuracies={"base": 0.2, "lora": 0.75, "qtha": share}, margin=margin,
        seed_of_arm_sd=0.02, **{**SMALL, "n_examples": 300},
    )  # fmt: skip
    got = compare(find(results), "lora")
    assert (got.p_equivalence < 0.05) == (got.equivalence == "equivalent")
    low, high = got.difference.low, got.difference.high
    if got.equivalence == "inferior":
        assert got.difference.estimate < -margin
    if low > -margin:  # the 95 % interval holds the 90 % one
        assert got.equivalence in ("equivalent", "not inferior")
    if high < -margin:
        assert got.equivalence == "inferior"


@pytest.mark.parametrize(
    ("share", "margin", "expected"),
    [
        (0.75, 0.05, "equivalent"),
        (0.95, 0.05, "not inferior"),
        (0.50, 0.05, "inferior"),
        (0.75, 0.002, "undecided"),
    ],
)
def test_every_answer_of_the_equivalence_test_is_reached(share, margin, expected):
    results = synthetic_results(
        accuracies={"base": 0.2, "lora": 0.75, "qtha": share}, margin=margin, n_seeds=5, seed_sd=0,
        seed_of_arm_sd=0,
    )  # fmt: skip
    assert compare(find(results), "lora").equivalence == expected


def test_equivalence_is_of_accuracy_only_and_never_of_one_seed_or_without_a_margin():
    results = synthetic_results(**COMPLETE)
    tested = {c.measure for c in find(results).comparisons if c.equivalence is not None}
    assert tested == {"accuracy"}
    for other in (synthetic_results(n_seeds=1, **COMPLETE), replace(results, margin=0.0)):
        assert all(c.equivalence is None for c in find(other).comparisons)


def test_p_values_are_corrected_within_their_family():
    found = find(synthetic_results(**COMPLETE))
    for measure in MEASURES:
        on_all = [c for c in found.comparisons if (c.task, c.measure) == ("all", measure)]
        family = [c for c in on_all if c.other != "base"]
        smallest = min(family, key=lambda c: c.p_value)
        assert smallest.p_adjusted == pytest.approx(min(1, smallest.p_value * (len(ARMS) - 1)))
        single = [
            c
            for c in found.comparisons
            if c.measure == measure and c.task != "all" and c.other != "base"
        ]
        smallest = min(single, key=lambda c: c.p_value)
        n = (len(ARMS) - 1) * len(TASKS)
        assert smallest.p_adjusted == pytest.approx(min(1, smallest.p_value * n))
    assert all(c.p_adjusted >= c.p_value for c in found.comparisons if c.p_value is not None)


def test_a_failed_run_leaves_the_seeds_that_both_have():
    results = synthetic_results(failed=(("chains", "mlp", 1), ("chains", "qtha", 0)))
    found = find(results)
    assert compare(found, "mlp", task="chains").n_seeds == 1
    assert compare(found, "lora", task="chains").n_seeds == 2
    assert compare(found, "mlp", task="diagnoses").n_seeds == 3
    assert compare(found, "mlp").n_seeds == 1
    assert compare(found, "mlp").difference.covers == "examples"


def test_an_arm_without_a_run_on_a_task_has_no_entry_there_and_none_for_all_tasks():
    results = synthetic_results(missing=[("chains", "frozen", s) for s in range(3)])
    found = find(results)
    tasks = {c.task for c in found.comparisons if c.other == "frozen"}
    assert tasks == {"arithmetic", "diagnoses"}
    assert {s.task for s in found.summaries if s.arm == "frozen"} == tasks


def test_a_study_of_which_nothing_ran_has_findings():
    every = [(t, a.name, s) for t in TASKS for a in ARMS for s in range(3)]
    results = replace(synthetic_results(missing=every, failed=()), base={})
    found = find(results)
    assert (found.summaries, found.comparisons) == ((), ())
    assert {v.outcome for v in found.verdicts} <= {"not measured", "supported"}
    assert "cannot be compared" in found.headline


def test_one_seed_s_intervals_cover_examples_or_nothing():
    found = find(synthetic_results(n_seeds=1, failed=()))
    assert compare(found, "lora").difference.covers == "examples"
    assert compare(found, "lora").minimal_detectable_effect is None
    loss = compare(found, "lora", "test_loss")
    assert (loss.difference.covers, loss.p_value, loss.p_adjusted) == ("nothing", None, None)
    assert loss.difference.high == math.inf


def test_the_untrained_model_is_compared_by_example():
    results = synthetic_results(failed=())
    got = compare(find(results), "base", task="chains")
    ours = np.mean([row.accuracy for row in results.rows_of("chains", "qtha")])
    assert got.difference.estimate == pytest.approx(ours - results.base["chains"].accuracy)
    assert got.n_seeds == 3


def test_the_same_results_give_the_same_findings():
    assert find(synthetic_results()) == find(synthetic_results())


def test_rows_that_answered_different_examples_are_refused():
    results = synthetic_results(**COMPLETE)
    broken = changed(results, "mlp", scores=lambda row: row.scores[:-1])
    with pytest.raises(StudyError, match="59 and 60"):
        find(broken)


@pytest.mark.parametrize("part", ["subject", "reference"])
def test_a_subject_or_reference_that_is_no_arm_is_refused(part):
    with pytest.raises(StudyError, match=f"{part} 'qhta' is no arm.*lora"):
        find(replace(synthetic_results(**COMPLETE), **{part: "qhta"}))


def test_the_script_that_measures_coverage_prints_a_line_for_every_setting(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script = importlib.import_module("interval_coverage")
    arguments = ["--studies", "5", "--seeds", "2", "--examples", "20"]
    monkeypatch.setattr(sys, "argv", ["interval_coverage.py", *arguments])
    script.main()
    out = capsys.readouterr().out
    assert out.count("\n| 2 |") == 12 + 6
    assert "Power at the detectable effect, 2 seeds" in out


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("seed_of_arm_sd", [0.0, 0.08])
def test_comparisons_of_whole_studies_hold_the_truth_and_rarely_raise_a_false_alarm(
    n_seeds, seed_of_arm_sd
):
    """All arms are equally good; bounds are 3.5 standard errors of the counts."""
    equal = dict.fromkeys(("base", *(arm.name for arm in ARMS)), 0.75)
    n_studies, held, alarms = 250, 0, 0
    for seed in range(n_studies):
        found = find(
            synthetic_results(
                seed, n_seeds=n_seeds, accuracies=equal, seed_of_arm_sd=seed_of_arm_sd, failed=(),
                tasks=TASKS[:1],
            )
        )  # fmt: skip
        family = [compare(found, arm.name) for arm in ARMS if arm.name != "qtha"]
        held += family[0].difference.low <= 0 <= family[0].difference.high
        alarms += any(c.p_adjusted < 0.05 for c in family)
    slack = 3.5 * math.sqrt(0.95 * 0.05 / n_studies)
    assert held / n_studies > 0.95 - slack
    assert alarms / n_studies < 0.05 + slack


def test_the_mean_over_tasks_of_reasoning_is_that_of_those_tasks_alone():
    results = synthetic_results()
    marked = tuple(replace(t, is_reasoning=t.name != "diagnoses") for t in results.tasks)
    with_marks = find(replace(results, tasks=marked))
    only = find(synthetic_results(tasks=("arithmetic", "chains")))

    def picked(findings, task):
        return {
            (c.other, c.measure): (c.difference, c.p_adjusted)
            for c in findings.comparisons
            if c.task == task
        }

    ours, theirs = picked(with_marks, "reasoning"), picked(only, "all")
    assert ours.keys() == theirs.keys()
    for key, (difference, p) in ours.items():
        assert difference.estimate == pytest.approx(theirs[key][0].estimate)
        assert p == pytest.approx(theirs[key][1]) or p is theirs[key][1] is None
    # Marks change no other number, and where all tasks are of reasoning there is no second mean.
    assert picked(with_marks, "all") == picked(find(results), "all")
    assert picked(with_marks, "chains") == picked(find(results), "chains")
    all_marked = tuple(replace(t, is_reasoning=True) for t in results.tasks)
    assert not picked(find(replace(results, tasks=all_marked)), "reasoning")
