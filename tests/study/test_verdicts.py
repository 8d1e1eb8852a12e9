from collections.abc import Sequence
from dataclasses import replace

import pytest
from synthetic import ARMS, TASKS, synthetic_results

from qpeft.study.findings import ArmSummary, Interval, PairedComparison, Verdict
from qpeft.study.numbers import decimal
from qpeft.study.results import Arm, StudyResults
from qpeft.study.statistics import find
from qpeft.study.verdicts import headline, judge

RESULTS = synthetic_results(failed=(), n_examples=20)
CONTROLS = ("none", "mlp", "frozen")
KEYS = ("parameters", "training_effect", "reasoning", "circuit", "as_good", "equal_parameters")


def comparison(
    other: str, difference: float = 0.0, p: float = 1.0, measure: str = "accuracy", **more
) -> PairedComparison:
    value = Interval(difference, difference - 0.01, difference + 0.01)
    plain = PairedComparison("all", "qtha", other, measure, 3, 60, value, p / 2, p, 0.02)
    return replace(plain, **more)


def summary(arm: str, value: float, measure: str = "accuracy") -> ArmSummary:
    return ArmSummary("all", arm, measure, 3, Interval(value, value - 0.01, value + 0.01))


def verdict(
    key: str,
    comparisons: Sequence[PairedComparison] = (),
    summaries: Sequence[ArmSummary] = (),
    results: StudyResults = RESULTS,
) -> Verdict:
    return next(v for v in judge(results, summaries, comparisons) if v.key == key)


def with_arms(*arms: Arm) -> StudyResults:
    return replace(RESULTS, arms=arms)


def arm(name: str, **how) -> Arm:
    return replace(RESULTS.arm(name), **how)


LARGER = [
    (0.05, 0.01, "supported"),
    (-0.05, 0.01, "contradicted"),
    (0.05, 0.05, "not shown"),
    (-0.05, 0.30, "not shown"),
    (0.0, 1.0, "not shown"),
]


def test_every_claim_has_a_verdict_in_a_fixed_order():
    assert tuple(v.key for v in judge(RESULTS, (), ())) == KEYS
    outcomes = {v.key: v.outcome for v in judge(RESULTS, (), ())}
    assert outcomes.pop("parameters") == "supported"
    assert set(outcomes.values()) == {"not measured"}


@pytest.mark.parametrize(
    ("count", "outcome"),
    [
        (460_800 * 0.24, "supported"),
        (460_800 * 0.2449, "supported"),
        (460_800 * 0.2451, "not shown"),
        (460_799, "not shown"),
        (460_800, "contradicted"),
        (500_000, "contradicted"),
        (None, "not measured"),
    ],
)
def test_the_saving_is_judged_by_its_size(count, outcome):
    count = None if count is None else int(count)
    results = with_arms(*(a for a in ARMS if a.name != "qtha"), arm("qtha", n_parameters=count))
    assert verdict("parameters", results=results).outcome == outcome


def test_the_saving_is_that_of_the_tensor_network():
    text = verdict("parameters").measured
    assert "Without any circuit (none) it has 77.0\u00a0% fewer" in text
    assert "the tensor network saves" in text


def test_the_saving_of_another_method_is_not_explained_by_a_tensor_network():
    dora = arm("qtha", method="dora", n_angles=0, options={"r": 8})
    results = with_arms(arm("lora", options={"r": 8}), dora)
    found = verdict("parameters", results=results)
    assert found.outcome == "supported"
    assert "tensor" not in found.measured


def test_the_order_of_the_modules_names_makes_no_other_adapter():
    pairs = {"lora": ["q_proj", "v_proj"], "qtha": ["v_proj", "q_proj"]}
    arms = [arm(name, options={"r": 8, "target_modules": m}) for name, m in pairs.items()]
    assert verdict("parameters", results=with_arms(*arms)).outcome == "supported"


@pytest.mark.parametrize("options", [{"r": 4}, {"r": 8, "rank_pattern": {"layer": 9}}])
def test_the_saving_is_against_the_same_rank_only(options):
    results = with_arms(arm("lora", options=options), arm("qtha"))
    assert verdict("parameters", results=results).outcome == "not measured"


@pytest.mark.parametrize(("difference", "p", "outcome"), LARGER)
def test_the_training_effect_is_judged_against_the_reference(difference, p, outcome):
    found = comparison("lora", difference, p, "training_effect", n_examples=0)
    got = verdict("training_effect", [found], [summary("lora", 0.5, "training_effect")])
    assert got.outcome == outcome
    assert f"as a share of lora's {decimal(200 * difference, is_signed=True)} %" in got.measured


def test_a_training_effect_at_different_steps_is_not_measured():
    rows = tuple(replace(r, steps=30) if r.arm == "lora" else r for r in RESULTS.rows)
    found = comparison("lora", 0.1, 0.001, "training_effect")
    summaries = [summary("lora", 0.5, "training_effect")]
    results = replace(RESULTS, rows=rows)
    assert verdict("training_effect", [found], summaries, results).outcome == "not measured"


@pytest.mark.parametrize(("difference", "p", "outcome"), LARGER)
def test_the_gain_on_reasoning_is_judged_against_the_untrained_model(difference, p, outcome):
    found = [
        comparison("base", difference, p, "strict_accuracy"),
        comparison("lora", -0.2, 0.001, "strict_accuracy"),
    ]
    arms = {"base": 0.3, "qtha": 0.5, "lora": 0.7}
    summaries = [summary(a, x, "strict_accuracy") for a, x in arms.items()]
    got = verdict("reasoning", found, summaries)
    assert got.outcome == outcome
    assert "From 30.0\u00a0% to 50.0\u00a0%" in got.measured
    assert "lora reaches 70.0\u00a0%; qtha less lora: \u221220.0 points" in got.measured
    assert "says nothing about the circuit" in got.measured


@pytest.mark.parametrize(
    ("controls", "outcome"),
    [
        ({"none": (0.05, 0.01), "mlp": (0.05, 0.01), "frozen": (0.05, 0.01)}, "supported"),
        ({"none": (0.05, 0.01), "mlp": (0.05, 0.01), "frozen": (0.05, 0.20)}, "not shown"),
        ({"none": (0.05, 0.01), "mlp": (-0.05, 0.01), "frozen": (0.05, 0.01)}, "contradicted"),
        ({"none": (0.0, 1.0), "mlp": (0.0, 1.0), "frozen": (0.0, 1.0)}, "not shown"),
        ({"none": (0.05, 0.01), "mlp": (0.05, 0.01)}, "not shown"),
        ({"none": (0.05, 0.01)}, "not measured"),
        ({"mlp": (0.05, 0.01), "frozen": (0.05, 0.01)}, "not measured"),
        ({}, "not measured"),
    ],
)
def test_the_circuit_must_beat_every_control(controls, outcome):
    found = [comparison(name, *numbers) for name, numbers in controls.items()]
    assert verdict("circuit", found).outcome == outcome


def test_one_control_alone_decides_nothing_and_is_shown():
    found = verdict("circuit", [comparison("none", 0.02)])
    assert found.outcome == "not measured"
    assert f"less none: +{decimal(2.0)} points" in found.measured
    assert "It takes the control 'none'" in found.measured


def test_a_control_without_result_is_named():
    found = [comparison(name, 0.05, 0.01) for name in ("none", "mlp")]
    assert "No result of frozen." in verdict("circuit", found).measured


def test_equivalent_controls_are_named():
    found = [comparison(name, 0.0, 1.0, equivalence="equivalent") for name in CONTROLS]
    got = verdict("circuit", found).measured
    assert "Within the margin of 3 points, so equivalent: none, mlp, frozen." in got


def test_a_control_that_is_only_called_a_rival_must_be_beaten_too():
    results = with_arms(*(replace(a, role="rival") if a.role == "control" else a for a in ARMS))
    found = [
        comparison(n, *x) for n, x in zip(CONTROLS, [(0.05, 0.01)] * 2 + [(0, 1)], strict=True)
    ]
    assert verdict("circuit", found, results=results).outcome == "not shown"


@pytest.mark.parametrize(
    ("equivalence", "outcome"),
    [
        ("equivalent", "supported"),
        ("not inferior", "supported"),
        ("inferior", "contradicted"),
        ("undecided", "not shown"),
        (None, "not shown"),
    ],
)
def test_as_good_follows_the_equivalence_test(equivalence, outcome):
    found = comparison("lora", equivalence=equivalence, p_equivalence=0.2)
    got = verdict("as_good", [found])
    assert got.outcome == outcome
    assert "within 3 points" in got.claim


@pytest.mark.parametrize(("difference", "p", "outcome"), LARGER)
def test_equal_parameters_are_judged_against_the_nearest_lora(difference, p, outcome):
    found = [comparison("lora-small", difference, p), comparison("lora", -0.3, 0.001)]
    got = verdict("equal_parameters", found)
    assert got.outcome == outcome
    assert "110,592 parameters against 115,200 of lora-small" in got.measured


def test_no_lora_of_equal_size_is_not_measured():
    results = with_arms(*(a for a in ARMS if a.name != "lora-small"))
    found = [comparison("lora", 0.05, 0.01)]
    assert verdict("equal_parameters", found, results=results).outcome == "not measured"


@pytest.mark.parametrize("key", ["reasoning", "circuit", "equal_parameters", "training_effect"])
@pytest.mark.parametrize("difference", [0.5, -0.5])
def test_one_seed_decides_nothing(key, difference):
    others = ("base", "lora", "lora-small", *CONTROLS)
    measures = ("accuracy", "strict_accuracy", "training_effect")
    found = [comparison(o, difference, 1e-9, m, n_seeds=1) for o in others for m in measures]
    summaries = [summary(a, 0.5, m) for a in ("base", "lora", "qtha") for m in measures]
    assert verdict(key, found, summaries).outcome == "not shown"


def test_one_seed_is_told_in_words():
    found = find(synthetic_results(n_seeds=1, failed=(), n_examples=50))
    by_key = {v.key: v.measured for v in found.verdicts}
    assert "for these very trainings: one seed" in by_key["circuit"]
    assert "one seed: no interval" in by_key["training_effect"]


def test_every_word_of_a_quick_study_says_that_its_numbers_mean_little():
    found = find(synthetic_results(is_quick=True, n_examples=20))
    assert all(
        v.measured.startswith("A quick study, whose numbers mean little") for v in found.verdicts
    )
    assert found.headline.startswith("A quick study, whose numbers mean little")


def test_an_advantage_over_lora_that_controls_share_is_not_the_circuit_s():
    shares = {"base": 0.2, "lora": 0.5, "lora-small": 0.5, "qtha": 0.8, "none": 0.8, "mlp": 0.8}
    results = synthetic_results(
        accuracies={**shares, "frozen": 0.8}, n_seeds=5, failed=(), seed_of_arm_sd=0.02
    )
    found = find(results)
    assert next(v for v in found.verdicts if v.key == "circuit").outcome == "not shown"
    assert "qtha is more accurate" in found.headline
    assert found.headline.endswith("That the circuit contributes anything is not shown.")


def test_a_circuit_that_beats_everything_is_supported_from_the_answers_on():
    shares = dict.fromkeys([a.name for a in ARMS], 0.5)
    results = synthetic_results(
        accuracies={**shares, "base": 0.2, "qtha": 0.8}, n_seeds=5, failed=(), seed_of_arm_sd=0.02
    )
    found = find(results)
    by_key = {v.key: v.outcome for v in found.verdicts}
    expected = ("reasoning", "circuit", "as_good", "equal_parameters", "parameters")
    assert all(by_key[key] == "supported" for key in expected)
    assert "Its circuit does better than every control" in found.headline


def test_a_circuit_that_loses_to_a_control_is_contradicted_from_the_answers_on():
    shares = {**dict.fromkeys([a.name for a in ARMS], 0.5), "base": 0.2, "mlp": 0.8, "lora": 0.8}
    found = find(synthetic_results(accuracies=shares, n_seeds=5, failed=(), seed_of_arm_sd=0.02))
    by_key = {v.key: v.outcome for v in found.verdicts}
    assert (by_key["circuit"], by_key["as_good"]) == ("contradicted", "contradicted")
    assert "qtha is less accurate" in found.headline
    assert "A control in its circuit's place does better" in found.headline


def test_a_headline_has_the_interval_and_the_share_of_parameters():
    found = [comparison("lora", -0.004, 0.6, equivalence="equivalent")]
    summaries = [summary("qtha", 0.751), summary("lora", 0.755)]
    text = headline(RESULTS, summaries, found)
    assert text.startswith(
        "With 24\u00a0% of the trainable parameters of lora, qtha is as accurate"
    )
    plain = text.replace("\u00a0", " ").replace("\u2212", "-")
    assert (
        "75.1 % against 75.5 %, a difference of -0.4 points (95 % interval -1.4 to +0.6; " in plain
    )
    assert text.endswith("Whether the circuit contributes was not measured.")


def test_a_headline_without_runs_says_so():
    assert headline(RESULTS, (), ()) == "qtha and lora cannot be compared: runs are missing."


def test_a_lost_arm_is_not_measured_from_the_rows_on():
    lost = [(task, "lora", seed) for task in TASKS for seed in range(3)]
    found = find(synthetic_results(failed=lost, n_examples=20))
    by_key = {v.key: v.outcome for v in found.verdicts}
    assert (by_key["as_good"], by_key["training_effect"]) == ("not measured", "not measured")


def test_reasoning_is_judged_on_the_tasks_of_reasoning_and_shows_what_a_prompt_does():
    tasks = tuple(replace(t, is_reasoning=t.name != "diagnoses") for t in RESULTS.tasks)
    base = {t: replace(row, few_shot_accuracy=0.4) for t, row in RESULTS.base.items()}
    results = replace(RESULTS, tasks=tasks, base=base, base_shots=4)
    found = [
        comparison("base", 0.2, 0.001, "strict_accuracy", task="reasoning"),
        comparison("base", -0.9, 0.001, "strict_accuracy"),
    ]
    summaries = [
        replace(summary(a, x, "strict_accuracy"), task="reasoning")
        for a, x in {"base": 0.3, "qtha": 0.5}.items()
    ]
    got = verdict("reasoning", found, summaries, results)
    assert got.outcome == "supported"
    assert "mean over arithmetic and chains: +20.0 points" in got.measured
    assert "With 4 examples in its prompt the untrained model has 40.0\u00a0%" in got.measured


def test_a_noisy_twin_of_the_subject_is_no_control_of_its_circuit():
    noisy = replace(arm("qtha"), name="qtha-noisy", role="control", options={"backend": "noisy"})
    results = with_arms(*ARMS, noisy)
    found = [comparison(name, 0.05, 0.01) for name in ("none", "mlp", "frozen")]
    found.append(comparison("qtha-noisy", -0.05, 0.01))
    assert verdict("circuit", found, results=results).outcome == "supported"


def test_not_inferior_comes_with_its_own_p():
    found = replace(
        comparison("lora", 0.04, 0.2),
        equivalence="not inferior",
        p_equivalence=0.6,
        p_not_inferior=0.01,
    )
    text = verdict("as_good", [found]).measured
    assert "not inferior (p = 0.01" in text
    assert "0.6" not in text
