"""Studies that never ran: results of realistic shape, drawn from a model whose truth is known.

An answer is right where a latent normal variable is above a threshold:

    latent[arm, seed, i] = threshold(arm, task) + example[i] + example_of_arm[arm, i]
                           + seed[s] + seed_of_arm[arm, s] + noise

so accuracies are exactly `accuracies[arm]` on average, arms agree on which examples are hard, and both
the luck of the seed and the choice of the examples move what is measured.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from qpeft.study.results import (
    AnsatzRow,
    Arm,
    RunRow,
    StudyResults,
    Task,
    TrialRow,
)

ARMS = (
    Arm("lora", "reference", "lora", {"r": 8}, 460_800, 0),
    Arm("lora-small", "rival", "lora", {"r": 2}, 115_200, 0, {"parameters": "r matched to qtha's"}),
    Arm(
        "qtha",
        "subject",
        "qtha",
        {"r": 8, "core": "quantum", "n_layers": 1, "groups": 2, "target_saving": 0.76},
        110_592,
        960,
        {"parameters": "the claim is about fewer", "circuits": "the circuit is on trial"},
    ),
    Arm("none", "control", "qtha", {"r": 8, "core": "none"}, 105_792, 0, {"parameters": "no core"}),
    Arm("mlp", "control", "qtha", {"r": 8, "core": "mlp"}, 110_610, 0, {"parameters": "as qtha"}),
    Arm(
        "frozen",
        "control",
        "qtha",
        {"r": 8, "core": "frozen"},
        109_632,
        0,
        {"parameters": "its angles are not trained"},
    ),
)
TASKS = ("arithmetic", "chains", "diagnoses")
TITLES = {
    "arithmetic": "Sums of two numbers",
    "chains": "Chains of additions and subtractions",
    "diagnoses": "The body system of a diagnosis",
}
ACCURACIES = {
    "base": 0.25,
    "lora": 0.78,
    "lora-small": 0.74,
    "qtha": 0.75,
    "none": 0.75,
    "mlp": 0.75,
    "frozen": 0.74,
}
N_STEPS = 60
LEARNING_RATES = (3e-4, 1e-3, 3e-3)


def synthetic_results(
    seed: int = 0,
    *,
    n_seeds: int = 3,
    n_examples: int = 500,
    arms: Sequence[Arm] = ARMS,
    tasks: Sequence[str] = TASKS,
    accuracies: Mapping[str, float] = ACCURACIES,
    failed: Sequence[tuple[str, str, int]] = (("chains", "mlp", 1),),
    missing: Sequence[tuple[str, str, int]] = (),
    margin: float = 0.03,
    is_quick: bool = False,
    example_sd: float = 1.0,
    example_of_arm_sd: float = 0.6,
    seed_sd: float = 0.03,
    seed_of_arm_sd: float = 0.08,
    strictness: float = 0.95,
    loss_seed_sd: float = 0.01,
) -> StudyResults:
    """Draw a whole study.

    Args:
        seed: Of the draw; the same seed gives the same study.
        n_seeds: Runs of each arm on each task.
        n_examples: Test examples of each task.
        arms: What is compared; subject and reference are found by role.
        tasks: Names of the tasks.
        accuracies: The true accuracy by arm, with "base" for the untrained model; an arm that is not named has
            that of "qtha".
        failed: (task, arm, index of the seed) of the runs that crash.
        missing: The same of the runs that have not begun.
        margin: As in `StudyResults`.
        is_quick: As in `StudyResults`.
        example_sd: How much examples differ in difficulty, for all arms alike; the noise has 1.
        example_of_arm_sd: How much an arm has examples of its own that are hard for it, whatever the seed.
        seed_sd: How much a seed (its order of the data) moves all arms alike.
        seed_of_arm_sd: How much a seed moves one arm alone.
        strictness: The share of right answers that have the right form too.
        loss_seed_sd: How much a seed moves the losses of an arm, nats a token.
    """
    draw = np.random.default_rng(seed)
    seeds = tuple(range(n_seeds))
    spreads = (example_sd, example_of_arm_sd, seed_sd, seed_of_arm_sd)
    rows: list[RunRow] = []
    base: dict[str, RunRow] = {}
    for task in tasks:
        latent = _latent(draw, len(arms), n_seeds, n_examples, spreads)
        threshold_sd = math.sqrt(1 + sum(x * x for x in spreads))
        for a, arm in enumerate(arms):
            accuracy = accuracies.get(arm.name, accuracies["qtha"])
            threshold = -threshold_sd * NormalDist().inv_cdf(accuracy)
            for s in seeds:
                where = (task, arm.name, s)
                if where in missing:
                    rows.append(RunRow(*where, "missing", folder=f"{task}/{arm.name}/seed-{s}"))
                elif where in failed:
                    rows.append(_failed(arm, where))
                else:
                    scores = latent[a, s] > threshold
                    rows.append(_run(draw, arm, where, scores, strictness, accuracy, loss_seed_sd))
        base[task] = _base(draw, task, accuracies["base"], n_examples)
    return StudyResults(
        name="synthetic",
        title="Drawn, not run",
        model="no-model",
        is_quick=is_quick,
        arms=tuple(arms),
        tasks=tuple(Task(t, TITLES.get(t, t), n_examples, "exact") for t in tasks),
        seeds=seeds,
        subject=next(arm.name for arm in arms if arm.role == "subject"),
        reference=next(arm.name for arm in arms if arm.role == "reference"),
        margin=margin,
        rows=tuple(rows),
        base=base,
        trials=tuple(trial for task in tasks for arm in arms for trial in _trials(task, arm)),
        ansatzes=(
            AnsatzRow("reupload", 4, 1, 0.21, 0.41, 0.085),
            AnsatzRow("encode_once", 4, 1, 0.35, 0.38, 0.110),
        ),
        provenance={
            "versions": {"qpeft": "0.1.0", "torch": "2.9.0", "peft": "0.21.0"},
            "machine": {"processor": "a processor", "n_cores": 2},
            "command": "qpeft study study.yaml",
            "started": "2026-01-01T00:00:00+00:00",
            "hashes": {"study.yaml": "0" * 64},
        },
        folder=Path("runs/synthetic"),
    )


def _latent(
    draw: np.random.Generator,
    n_arms: int,
    n_seeds: int,
    n_examples: int,
    spreads: tuple[float, float, float, float],
) -> np.ndarray:
    """Return (n_arms, n_seeds, n_examples) latent values of mean zero."""
    example, example_of_arm, seed, seed_of_arm = spreads
    return (
        draw.standard_normal((n_arms, n_seeds, n_examples))
        + example * draw.standard_normal((1, 1, n_examples))
        + example_of_arm * draw.standard_normal((n_arms, 1, n_examples))
        + seed * draw.standard_normal((1, n_seeds, 1))
        + seed_of_arm * draw.standard_normal((n_arms, n_seeds, 1))
    )


def _run(
    draw: np.random.Generator,
    arm: Arm,
    where: tuple[str, str, int],
    scores: np.ndarray,
    strictness: float,
    accuracy: float,
    loss_seed_sd: float,
) -> RunRow:
    """Return a run that succeeded."""
    last = 1.2 - accuracy + loss_seed_sd * draw.standard_normal()
    losses = _curve(draw, first=2.5, last=last, noise=0.05)
    tenth = max(1, len(losses) // 10)
    strict = scores & (draw.random(len(scores)) < strictness)
    return RunRow(
        *where,
        "succeeded",
        learning_rate=LEARNING_RATES[1],
        n_parameters=arm.n_parameters,
        adapter_bytes=4 * (arm.n_parameters or 0) + 512,
        steps=N_STEPS,
        tokens=N_STEPS * 400,
        first_loss=losses[0][1],
        last_loss=float(np.mean([loss for _, loss in losses[-tenth:]])),
        validation_loss=last + 0.05,
        test_loss=last + 0.06 + 0.002 * float(draw.standard_normal()),
        scores=tuple(bool(x) for x in scores),
        strict_scores=tuple(bool(x) for x in strict),
        forgetting=0.08 + 0.01 * float(draw.standard_normal()),
        seconds_per_step=1.6 if arm.n_angles else 1.1,
        peak_memory=1_900_000_000,
        circuits=N_STEPS * 400 * 60 * 2 if arm.n_angles else 0,
        losses=losses,
        validation_losses=tuple(
            (step, loss + 0.05) for step, loss in losses if step % (N_STEPS // 3) == 0
        ),
        measures=_measures(arm),
        folder=f"{where[0]}/{where[1]}/seed-{where[2]}",
    )


def _curve(
    draw: np.random.Generator, first: float, last: float, noise: float
) -> tuple[tuple[int, float], ...]:
    """Return a loss for every step, falling from `first` to `last`."""
    steps = np.arange(1, N_STEPS + 1)
    falling = last + (first - last) * np.exp(-6 * (steps - 1) / N_STEPS)
    values = falling + noise * draw.standard_normal(N_STEPS)
    return tuple((int(step), float(value)) for step, value in zip(steps, values, strict=True))


def _measures(arm: Arm) -> dict[str, Any]:
    """Return what a run measures of its adapter itself; see `qpeft.study.measures`."""
    rank = {"mean": 6.5, "by_layer": {"0": 6.2, "1": 6.8}, "modules": [], "n_rows": 512}
    if arm.method != "qtha" or arm.options.get("core") == "none":
        return {"effective_rank": rank, "branch": {"left_out": "the adapter has no core"}}
    unablated = {"accuracy": 0.75, "test_loss": 0.52}
    ablated = {
        "accuracy": 0.73,
        "accuracy_difference": -0.02,
        "test_loss": 0.55,
        "test_loss_difference": 0.03,
        "changed_answers": 0.08,
    }
    branch = {
        "share": 0.21,
        "varying_share": 0.12,
        "nonlinear_share": 0.05,
        "modules": [],
        "n_rows": 512,
        "n_examples": 100,
        "unablated": unablated,
        "ablated": ablated,
        "shuffled": {**ablated, "test_loss": 0.56, "test_loss_difference": 0.04},
    }
    return {"effective_rank": rank, "branch": branch}


def _failed(arm: Arm, where: tuple[str, str, int]) -> RunRow:
    """Return a run that crashed on its way."""
    return RunRow(
        *where,
        "failed",
        error="RuntimeError: the loss is not a number at step 31",
        learning_rate=LEARNING_RATES[1],
        n_parameters=arm.n_parameters,
        folder=f"{where[0]}/{where[1]}/seed-{where[2]}",
    )


def _base(draw: np.random.Generator, task: str, accuracy: float, n_examples: int) -> RunRow:
    """Return the untrained model's row."""
    scores = draw.random(n_examples) < accuracy
    strict = scores & (draw.random(n_examples) < 0.5)
    return RunRow(
        task,
        "base",
        0,
        "succeeded",
        test_loss=2.6,
        scores=tuple(bool(x) for x in scores),
        strict_scores=tuple(bool(x) for x in strict),
        folder=f"{task}/base",
    )


def _trials(task: str, arm: Arm) -> tuple[TrialRow, ...]:
    """Return the tuning of one arm: the middle rate wins, the largest diverges for the reference."""
    found = []
    for k, rate in enumerate(LEARNING_RATES):
        if k == len(LEARNING_RATES) - 1 and arm.role == "reference":
            found.append(TrialRow(task, arm.name, rate, "failed", None, error="diverged"))
        else:
            found.append(TrialRow(task, arm.name, rate, "succeeded", 0.5 + 0.1 * (k != 1), k == 1))
    return tuple(found)
