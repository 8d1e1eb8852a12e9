"""A study that never ran, with everything that a report can show."""

import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from synthetic import ARMS, synthetic_results

from qpeft.study.findings import Findings
from qpeft.study.results import AnsatzRow, Arm, RunRow, StudyResults

MORE_ARMS = (
    *ARMS,
    Arm("vera", "rival", "vera", {"r": 256}, 15_360, 0, {"parameters": "its own size"}),
    Arm("road", "rival", "road", {"group_size": 64}, 46_080, 0, {"parameters": "its own size"}),
    Arm("ia3", "rival", "ia3", {}, 23_040, 0, {"parameters": "its own size"}),
    Arm(
        "qtha-noisy",
        "rival",
        "qtha",
        {"r": 8, "backend": "noisy", "backend_options": {"scale": 1.0}, "shots": 1024},
        110_592,
        960,
        {"circuits": "noise"},
    ),
)
ACCURACIES = {
    "base": 0.25,
    "lora": 0.78,
    "lora-small": 0.74,
    "qtha": 0.755,
    "none": 0.75,
    "mlp": 0.752,
    "frozen": 0.74,
    "vera": 0.66,
    "road": 0.735,
    "ia3": 0.58,
    "qtha-noisy": 0.73,
}


def rich_study(**options: Any) -> StudyResults:
    """Return a study with every measure of `qpeft.study.measures`."""
    results = synthetic_results(arms=MORE_ARMS, accuracies=ACCURACIES, **options)
    draw = np.random.default_rng(1)
    rows = tuple(
        replace(row, measures=_measures(draw, results.arm(row.arm)))
        if row.status == "succeeded"
        else row
        for row in results.rows
    )
    ansatzes = tuple(
        AnsatzRow(name, n, layers, 0.9 / n + 0.1 / layers, 0.2 + 0.08 * n, 0.2 * 0.7**n / layers)
        for name, layers in (("reupload", 1), ("reupload", 4), ("encode_once", 1))
        for n in (2, 4, 6, 8)
    )
    return replace(
        results,
        title="Does the quantum part earn its place?",
        model="SmolLM2-135M",
        rows=rows,
        ansatzes=ansatzes,
    )


def bare_study() -> StudyResults:
    """Return a study of which not one run has begun."""
    results = synthetic_results(n_seeds=2, tasks=("arithmetic",))
    rows = tuple(RunRow(r.task, r.arm, r.seed, "missing") for r in results.rows)
    arms = tuple(replace(arm, n_parameters=None, n_angles=None, differs={}) for arm in results.arms)
    return replace(results, arms=arms, rows=rows, base={}, trials=(), ansatzes=(), provenance={})


NO_FINDINGS = Findings((), (), (), "Nothing has been measured yet.")


def _measures(draw: np.random.Generator, arm: Arm) -> dict[str, Any]:
    """Return what a run measures of its adapter itself."""
    modules = range(0, 30, 3)
    rank = {str(layer): 4 + 0.1 * layer + 0.3 * float(draw.random()) for layer in modules}
    found: dict[str, Any] = {
        "effective_rank": {
            "mean": fmean(rank.values()),
            "by_layer": rank,
            "modules": [],
            "n_rows": 2048,
        },
        "forgetting": {"n_texts": 16, "n_tokens": 752, "text": "samples of the base model"},
    }
    core = arm.options.get("core", "quantum" if arm.method == "qtha" else None)
    if core in (None, "none"):
        return found | {"branch": {"left_out": "the arm has no core beside its dense branch"}}
    luck = 0.01 * float(draw.standard_normal())
    changed = {
        "accuracy": 0.6,
        "accuracy_difference": -0.12 + luck,
        "test_loss": 0.9,
        "test_loss_difference": 0.21 - luck,
        "changed_answers": 0.24,
    }
    found["branch"] = {
        "share": 0.31 + luck,
        "varying_share": 0.24 + luck,
        "nonlinear_share": 0.08,
        "n_rows": 2048,
        "n_examples": 100,
        "unablated": {"accuracy": 0.75, "test_loss": 0.5},
        "ablated": changed,
        "shuffled": changed
        | {"accuracy_difference": -0.07 - luck, "test_loss_difference": 0.12, "among": "tokens"},
    }
    if core == "quantum":
        found["noise"] = {"n_examples": 100, "rows": _noise(draw)}
    if core in ("quantum", "product"):
        layers = {str(layer): 1e-3 * 0.93**layer * (1 + float(draw.random())) for layer in modules}
        point = {
            "norm_angles": 0.011,
            "norm_others": 0.93,
            "rms_angles": 0.00035,
            "rms_others": 0.0028,
            "ratio": 0.125,
            "by_layer": layers,
        }
        found["angle_gradients"] = {"n_examples": 8, "trained": point, "fresh": point}
    return found


def _noise(draw: np.random.Generator) -> list[dict[str, Any]]:
    places = [(s, None) for s in (0.0, 0.5, 1.0, 2.0, 4.0)] + [
        (0.0, n) for n in (16, 64, 256, 1024)
    ]
    rows = []
    for scale, shots in places:
        loss = 0.03 * scale + (0.4 / math.sqrt(shots) if shots else 0.0)
        accuracy = 0.755 - loss + 0.005 * float(draw.standard_normal())
        rows.append({"error_scale": scale, "shots": shots, "accuracy": accuracy})
    return rows
