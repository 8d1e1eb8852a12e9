"""What is read from a study's folder is what its runs wrote, and runs on other data are refused."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_study import LORA, QTHA, write_study

from qpeft.errors import StudyError
from qpeft.jobs.rows import Tally
from qpeft.study import measures, record
from qpeft.study.estimate import estimate_seconds, guess_seconds
from qpeft.study.folder import open_study
from qpeft.study.job_folder import (
    JOBS_BEFORE,
    begin_job,
    read_status,
    seconds_of,
    write_status,
)
from qpeft.study.method_comparison import write_method_comparison
from qpeft.study.plan import StudyPlan, plan_study, run_folder
from qpeft.study.progress import progress_line
from qpeft.study.reading import load_study
from qpeft.study.record import measure_circuits, read_results, write_rows
from qpeft.study.results import AnsatzRow
from qpeft.study.running import done_so_far
from qpeft.training.record import write_json, write_jsonl, write_text

N_CIRCUITS = 4
"""Of the tiny subject, for a token: one in each of two projections of two layers."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    return plan_study(load_study(write_study(tmp_path_factory.mktemp("record"), seeds=[0])))


@pytest.fixture
def study(plan: StudyPlan, tmp_path: Path) -> Path:
    """The folder of a study with one run that was written by hand."""
    moved = plan.spec.model_copy(update={"output_dir": tmp_path / "study"})
    (tmp_path / "study").mkdir()
    folder = open_study(StudyPlan(**{**vars(plan), "spec": moved}), is_quick=False)
    write_run(plan, folder, "qtha")
    return folder


def write_run(plan: StudyPlan, folder: Path, arm: str, tokens: int = 500, **results: Any) -> None:
    path = folder / run_folder("sums", arm, 0)
    recipe = plan.spec.recipe(
        plan.spec.tasks[0], plan.spec.arm(arm), plan.arm(arm).adapter, 0, path
    )
    content = {"kind": "run", "task": "sums", "arm": arm, "seed": 0, "measures": None}
    path.mkdir(parents=True)
    begin_job(path, {**content, "recipe": recipe.model_dump(mode="json")}, retry_failed=False)
    write_status(path, "running", command=["x"])
    write_status(path, "succeeded", peak_memory=123)
    metrics: list[dict[str, Any]] = []
    for step in range(1, 21):
        # The first step warms up; the eleventh comes after a validation of 50 seconds.
        seconds = 9.0 + 2 * step + (50 if step > 10 else 0)
        loss, seen = 3.0 - 0.1 * step, tokens * step // 20
        metrics.append({"step": step, "loss": loss, "seconds": seconds, "tokens": seen})
        if step == 10:
            metrics.append({"step": 10, "validation_loss": 2.5, "seconds": seconds + 50})
    write_jsonl(path / arm / "metrics.jsonl", metrics)
    write_text(path / "recipe.yaml", recipe.to_yaml())
    hashes = {str(path / "sums.jsonl"): "abc"}
    write_json(path / "provenance.json", {"data_hashes": hashes, "seed": 0})
    training = {
        "steps": 20,
        "steps_done": 20,
        "loss": 1.0,
        "validation_loss": 2.5,
        "tokens": tokens,
        "seconds": 99.0,
    }
    own = {
        "parameters": {"n_trainable": plan.arm(arm).count.n_trainable},
        "training": training,
        "evaluations": [{"n_shots": 0, "loss": 0.75}],
        **results,
    }
    write_json(path / "results.json", {"status": "finished", "arms": {arm: own}})
    answers = [("12", 1.0), ("12 ", 1.0), ("12.0", 1.0), ("13", 0.0)]
    rows = [{"prompt": "p", "expected": "12", "text": t, "score": s} for t, s in answers]
    write_jsonl(path / "predictions" / f"{arm}-0shot.jsonl", rows)
    write_json(path / "measures.json", {"adapter_bytes": 7, "forgetting": {"difference": 0.25}})


def test_a_row_holds_what_the_run_wrote(study: Path) -> None:
    (row,) = read_results(study).rows_of("sums", "qtha")
    assert row.first_loss == 2.9  # of the untrained adapter, however fast it then learned
    assert row.last_loss == pytest.approx((1.1 + 1.0) / 2)
    assert row.training_effect == pytest.approx(1 - 1.05 / 2.9)
    assert row.seconds_per_step == pytest.approx(2.0)
    assert (row.validation_loss, row.test_loss) == (2.5, 0.75)
    assert row.scores == (True, True, True, False)
    assert row.strict_scores == (True, True, False, False)
    assert (row.adapter_bytes, row.forgetting, row.peak_memory) == (7, 0.25, 123)
    assert row.validation_losses == ((10, 2.5),)
    assert row.learning_rate == 0.01
    assert row.circuits == N_CIRCUITS * 500


def test_work_on_a_machine_is_what_was_sent(plan: StudyPlan, study: Path) -> None:
    jobs = [{"sent": asdict(Tally(30, 4, 2, 4000))}, {"sent": asdict(Tally(12, 3, 1, 3000))}]
    file = study / run_folder("sums", "qtha", 0) / "results.json"
    results = json.loads(file.read_text())
    results["arms"]["qtha"]["jobs"] = jobs
    write_json(file, results)
    (row,) = read_results(study).rows_of("sums", "qtha")
    assert (row.circuits, row.programs, row.jobs, row.shots) == (42, 7, 3, 7000)
    # Of a trial whose training the run has taken over.
    results["arms"]["qtha"][JOBS_BEFORE] = [{"sent": asdict(Tally(100, 10, 5, 10000))}]
    write_json(file, results)
    (row,) = read_results(study).rows_of("sums", "qtha")
    assert (row.circuits, row.programs, row.jobs, row.shots) == (142, 17, 8, 17000)


def test_what_never_ran_is_missing_and_what_was_cut_off_is_cancelled(
    plan: StudyPlan, study: Path
) -> None:
    lora = read_results(study).rows[0]
    assert (lora.arm, lora.status, lora.scores, lora.steps) == ("lora", "missing", (), None)
    write_status(study / run_folder("sums", "qtha", 0), "running")
    qtha = read_results(study).rows[1]
    assert qtha.status == "cancelled"
    assert read_results(study).base == {}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        # The same sum of tokens in another order is another order of the examples.
        (
            "lora/metrics.jsonl",
            '"tokens": 75}',
            '"tokens": 76}',
            "on 75 tokens up to step 3, but sums/lora/seed0, which it is compared with, on 76 tok",
        ),
        ("provenance.json", '"abc"', '"abd"', "trained on the data [0-9a-f]{12}, but sums/lora"),
        ("provenance.json", '"seed": 0', '"seed": 1', "trained on the data"),
        ("recipe.yaml", "n_test: 10", "n_test: 9", "trained on the data"),
    ],
)
def test_runs_on_other_data_or_in_another_order_are_refused(
    file: str, old: str, new: str, message: str, plan: StudyPlan, study: Path
) -> None:
    write_run(plan, study, "lora")
    assert read_results(study).rows[0].tokens == 500
    path = study / run_folder("sums", "lora", 0) / file
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(StudyError, match=message):
        read_results(study)


def test_an_arm_that_declares_more_steps_may_have_other_tokens_but_no_other_data(
    plan: StudyPlan, study: Path
) -> None:
    record = json.loads((study / "study.json").read_text())
    record["arms"]["qtha"]["differs"]["steps"] = "it learns slowly"
    write_json(study / "study.json", record)
    write_run(plan, study, "lora", tokens=501)
    read_results(study)
    file = study / run_folder("sums", "lora", 0) / "provenance.json"
    file.write_text(file.read_text().replace("abc", "abd"))
    with pytest.raises(StudyError, match="trained on the data"):
        read_results(study)


def test_where_the_files_lie_makes_no_other_data(plan: StudyPlan, study: Path) -> None:
    write_run(plan, study, "lora")
    file = study / run_folder("sums", "lora", 0) / "recipe.yaml"
    file.write_text(file.read_text().replace("sums.jsonl", "elsewhere.jsonl"))
    assert read_results(study).rows[0].status == "succeeded"


def test_arms_and_tasks_are_those_of_the_plan(study: Path) -> None:
    results = read_results(study)
    assert [(arm.name, arm.role, arm.method) for arm in results.arms] == [
        ("lora", "reference", "lora"),
        ("qtha", "subject", "qtha"),
    ]
    assert results.arm("qtha").n_parameters == 480
    assert results.arm("qtha").options["bond_dim"] == QTHA["bond_dim"]
    assert results.arm("lora").options["r"] == LORA["r"]
    assert (results.tasks[0].title, results.tasks[0].n_test) == ("sums of two numbers", 10)
    assert (results.subject, results.reference, results.margin) == ("qtha", "lora", 0.05)
    assert results.provenance["parity"][1]["compared_with"] == "lora"
    assert list(results.provenance["data_hashes"]["sums"]) == ["sums/sums.jsonl"]


def test_rows_and_scores_are_written_as_csv(study: Path, tmp_path: Path) -> None:
    write_rows(read_results(study), tmp_path / "out" / "rows.csv")
    with (tmp_path / "out" / "rows.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["status"], row["accuracy"]) for row in rows] == [
        ("lora", "missing", ""),
        ("qtha", "succeeded", "0.75"),
    ]
    assert json.loads(rows[1]["measures"])["adapter_bytes"] == 7
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8") as file:
        scores = list(csv.DictReader(file))
    assert [(row["example"], row["score"], row["strict_score"]) for row in scores] == [
        ("0", "1", "1"),
        ("1", "1", "1"),
        ("2", "1", "0"),
        ("3", "0", "0"),
    ]


def test_an_errors_text_is_no_formula_in_the_rows(study: Path, tmp_path: Path) -> None:
    results = read_results(study)
    failed = replace(results.rows[0], status="failed", error="=HYPERLINK(1)", learning_rate=-0.5)
    write_rows(replace(results, rows=(failed,)), tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["error"], row["learning_rate"]) == ("'=HYPERLINK(1)", "-0.5")


def test_each_circuit_is_measured_once_and_kept(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "CURVE_QUBITS", (2, 3, 4))
    rows = measure_circuits(study)
    assert [(row.name, row.n_qubits, row.n_layers) for row in rows] == [
        ("reupload", 2, 1),
        ("reupload", 3, 1),
        ("reupload", 4, 1),
    ]
    write_json(study / "ansatzes.json", [{**vars(row), "expressibility": 42.0} for row in rows[:2]])
    again = measure_circuits(study)
    assert [row.expressibility for row in again[:2]] == [42.0, 42.0]
    assert again[2] == rows[2]  # which was missing
    assert read_results(study).ansatzes == again


@pytest.mark.parametrize(
    ("role", "changes", "expected"),
    [
        ("subject", {}, [2, 4, 6, 8, 10]),
        ("subject", {"n_layers": 3, "core": "product"}, [2, 4, 6, 8, 10]),
        ("subject", {"n_layers": 11}, [2, 4, 6, 8]),
        ("rival", {}, [2]),
        ("control", {"core": "product"}, [2]),
        ("control", {"core": "none"}, []),
    ],
)
def test_only_the_subjects_circuit_is_measured_in_many_sizes(
    role: str,
    changes: dict[str, Any],
    expected: list[int],
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(name: str, n_qubits: int, n_layers: int, *, is_entangled: bool) -> AnsatzRow:
        label = name if is_entangled else f"{name} without rings"
        return AnsatzRow(label, n_qubits, n_layers, 0.1, 0.2, 0.3)

    monkeypatch.setattr(measures, "measure_ansatz", measured, raising=False)
    content = json.loads((study / "study.json").read_text())
    arm = content["arms"]["qtha"]
    arm["role"], arm["options"] = role, {**arm["options"], **changes}
    if changes.get("core") == "none":
        arm["count"]["n_qubits"] = 0
    write_json(study / "study.json", content)
    rows = measure_circuits(study)
    assert [row.n_qubits for row in rows] == expected
    assert {row.n_layers for row in rows} <= {changes.get("n_layers", 1)}
    has_rings = changes.get("core") != "product"
    assert all((row.name == "reupload") == has_rings for row in rows)


def test_method_comparison_has_pefts_keys(study: Path, tmp_path: Path) -> None:
    (file,) = write_method_comparison(read_results(study), tmp_path / "mc")
    assert file.name == "qtha--sums--qtha--seed0.json"
    params = tmp_path / "mc/experiments/qtha/sums--qtha--seed0/training_params.json"
    assert json.loads(params.read_text())["optimizer_kwargs"]["lr"] == 0.01
    log = json.loads(file.read_text())
    # The keys of huggingface/peft, method_comparison/MetaMathQA/results/*.json.
    assert list(log) == ["run_info", "train_info", "meta_info"]
    assert list(log["run_info"]) == [
        "created_at",
        "total_time",
        "experiment_name",
        "peft_branch",
        "train_config",
        "peft_config",
        "error_msg",
    ]
    assert set(log["train_info"]) == {
        "accelerator_memory_reserved_avg",
        "accelerator_memory_max",
        "accelerator_memory_reserved_99th",
        "train_time",
        "file_size",
        "num_trainable_params",
        "num_total_params",
        "status",
        "metrics",
    }
    assert set(log["meta_info"]) == {
        "model_info",
        "dataset_info",
        "package_info",
        "system_info",
        "pytorch_info",
    }
    assert log["train_info"]["status"] == "success"
    assert log["train_info"]["num_total_params"] == 37280 + 480
    last = log["train_info"]["metrics"][-1]
    assert (last["test accuracy"], last["train total tokens"], last["forgetting"]) == (
        0.75,
        500,
        0.25,
    )
    assert set(log["run_info"]["train_config"]) == {
        "model_id",
        "dtype",
        "max_seq_length",
        "batch_size",
        "batch_size_eval",
        "max_steps",
        "eval_steps",
        "compile",
        "use_gc",
        "query_template",
        "seed",
        "grad_norm_clip",
        "optimizer_type",
        "optimizer_kwargs",
        "lr_scheduler",
        "use_amp",
        "autocast_adapter_dtype",
        "generation_kwargs",
        "attn_implementation",
        "init_kv_cache_prefix",
    }


def test_time_left_is_read_off_the_jobs_that_are_done(plan: StudyPlan, study: Path) -> None:
    status = study / run_folder("sums", "qtha", 0) / "status.json"
    times = {"started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:01:30+00:00"}
    write_json(status, {"status": "succeeded", "seconds_before": 10.0, **times})
    assert seconds_of(read_status(status.parent)) == 100.0
    moved = StudyPlan(**{**vars(plan), "spec": plan.spec.model_copy(update={"output_dir": study})})
    states = done_so_far(moved)
    assert progress_line(states, 7200.0) == "1 of 3 jobs done, about 2.0 h left."
    base = next(job for job in states if job.kind == "base")  # of which no job has told its time
    assert estimate_seconds(moved, study, states, 1) == guess_seconds(moved, base) + 100.0
    known = {job: "succeeded" if job.kind == "base" else state for job, state in states.items()}
    assert estimate_seconds(moved, study, known, 1) == 100.0


def test_a_study_that_cannot_be_read_is_one_line(study: Path) -> None:
    (study / "study.json").write_text("{")
    with pytest.raises(StudyError, match=r"holds a study that cannot be read \(JSONDecodeError\)"):
        read_results(study)


def test_no_study_is_an_error_that_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        read_results(tmp_path)
