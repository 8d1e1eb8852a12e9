"""Jobs are done once, go on where they were, and stay visible when they fail."""

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_process import TUNING, InThisProcess, do, names
from safetensors.torch import load_file
from tiny_study import LORA, QTHA, study_keys, write_study

from qpeft.errors import StudyError
from qpeft.recipe import Recipe
from qpeft.study import running, worker
from qpeft.study.job_folder import begin_job, read_status, take_training, write_status
from qpeft.study.plan import plan_study
from qpeft.study.reading import load_study
from qpeft.study.record import read_results
from qpeft.study.results import RunRow, TrialRow
from qpeft.study.running import run_study
from qpeft.study.spec import JOURNAL
from qpeft.study.tuning import choose_rate
from qpeft.training import run as training_run
from qpeft.training import train
from qpeft.training.record import read_jsonl, write_json, write_jsonl

SHORT = {"steps": 1, "evaluate_every": None, "save_every": None}


def test_a_finished_study_has_all_rows_with_all_numbers(finished: Path) -> None:
    results = read_results(finished)
    assert [(row.arm, row.seed, row.status) for row in results.rows] == [
        ("lora", 0, "succeeded"),
        ("lora", 1, "succeeded"),
        ("qtha", 0, "succeeded"),
        ("qtha", 1, "succeeded"),
    ]
    for row in results.rows:
        assert (row.steps, len(row.losses), len(row.scores)) == (6, 6, 10)
        assert None not in (row.forgetting, row.peak_memory, row.seconds_per_step, row.test_loss)
        assert row.adapter_bytes
    assert len(results.base["sums"].scores) == 10
    answers = read_jsonl(finished / "sums" / "base" / "predictions" / "base-2shot.jsonl")
    right = sum(answer["score"] >= 1 for answer in answers) / 10
    assert results.base["sums"].few_shot_accuracy == right
    commonest = max(Counter(answer["expected"] for answer in answers).values()) / 10
    assert results.tasks[0].commonest == commonest
    assert results.base["sums"].n_parameters is None


def test_arms_of_a_seed_have_the_same_tokens_and_other_seeds_other_batches(finished: Path) -> None:
    rows = {(row.arm, row.seed): row for row in read_results(finished).rows}
    for seed in (0, 1):
        assert rows["lora", seed].tokens == rows["qtha", seed].tokens
        # Both start as the base model, so equal first batches have equal first losses.
        first = [rows[arm, seed].losses[0][1] for arm in ("lora", "qtha")]
        assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert rows["lora", 0].losses[0] != rows["lora", 1].losses[0]


def test_a_run_is_what_training_its_recipe_makes(finished: Path, tmp_path: Path) -> None:
    run = finished / "sums" / "qtha" / "seed1"
    recipe = Recipe.model_validate(json.loads((run / "job.json").read_text())["recipe"])
    train(recipe.model_copy(update={"output_dir": tmp_path / "alone"}))
    ours, alone = (
        load_file(folder / "qtha" / "adapter_model.safetensors")
        for folder in (run, tmp_path / "alone")
    )
    assert ours.keys() == alone.keys()
    assert all(ours[name].equal(alone[name]) for name in ours)


def test_trials_see_no_test_example_and_are_not_tested(finished: Path) -> None:
    runs = finished / "sums" / "lora" / "seed0" / "predictions" / "lora-0shot.jsonl"
    tested = {json.loads(line)["prompt"] for line in runs.read_text().splitlines()}
    assert len(tested) == 10
    seen = "".join(file.read_text() for file in (finished / "sums" / "data").iterdir())
    assert not any(json.dumps(prompt)[1:-1] in seen for prompt in tested)
    for trial in (finished / "sums").glob("*/trials/*"):
        recipe = Recipe.model_validate(json.loads((trial / "job.json").read_text())["recipe"])
        assert recipe.data.files is not None
        assert recipe.data.files.train.parent == finished / "sums" / "data"
        assert recipe.data.files.test is None
        assert recipe.data.n_test is None
        assert not (trial / "predictions").exists()
        results = json.loads((trial / "results.json").read_text())
        assert all(arm["evaluations"] == [] for arm in results["arms"].values())


def test_runs_train_on_the_examples_that_trials_saw(finished: Path) -> None:
    # The same batches with the same seed and rate: the first steps' losses are equal.
    first = {}
    for kind in ("trials/lr0.03", "seed0"):
        log = finished / "sums" / "lora" / kind / "lora" / "metrics.jsonl"
        first[kind] = json.loads(log.read_text().splitlines()[0])["loss"]
    assert first["trials/lr0.03"] == first["seed0"]


def test_runs_use_the_rate_with_the_least_validation_loss(finished: Path) -> None:
    results = read_results(finished)
    for arm in ("lora", "qtha"):
        trials = [trial for trial in results.trials if trial.arm == arm]
        best = min(trials, key=lambda trial: trial.validation_loss or 0.0)
        assert [trial.is_chosen for trial in trials] == [trial is best for trial in trials]
        assert {row.learning_rate for row in results.rows_of("sums", arm)} == {best.learning_rate}


def test_of_equal_trials_the_smaller_rate_is_chosen_and_failed_ones_never() -> None:
    def trial(rate: float, loss: float | None, status: Any = "succeeded") -> TrialRow:
        return TrialRow("t", "a", rate, status, loss)

    assert choose_rate([trial(0.1, 2.0), trial(0.01, 2.0), trial(1.0, 3.0)]) == 0.01
    assert choose_rate([trial(0.1, 1.0, "failed"), trial(0.01, 2.0)]) == 0.01
    assert choose_rate([trial(0.1, None, "failed")]) is None


def test_what_is_done_is_not_done_again(a_copy: Path, in_this_process: list[str]) -> None:
    outcome = do(write_study(a_copy, tuning=TUNING, title="another title"))
    assert (outcome.n_jobs, outcome.n_succeeded) == (9, 9)
    assert in_this_process == []


def test_another_seed_is_added_and_no_other_run_is_touched(
    a_copy: Path, in_this_process: list[str]
) -> None:
    do(write_study(a_copy, tuning=TUNING, seeds=[0, 1, 2]))
    assert names(in_this_process) == ["lora/seed2", "qtha/seed2"]


def test_the_same_runs_of_another_study_are_taken_over(
    finished: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    other = {**QTHA, "name": "wide", "bond_dim": 2}
    path = write_study(tmp_path, tuning=TUNING, arms=[LORA, QTHA, other])
    plan = plan_study(load_study(path))
    outcome = run_study(plan, n_workers=1, take_from=[finished])
    assert outcome.n_succeeded == outcome.n_jobs == 13
    assert {Path(folder).relative_to(outcome.folder).parts[1] for folder in in_this_process} == {
        "wide"
    }
    taken, original = (
        read_results(folder).rows_of("sums", "lora") for folder in (outcome.folder, finished)
    )
    assert taken == original
    assert not list(outcome.folder.rglob("*.partial"))


def test_a_run_with_the_seed_of_the_trials_takes_their_training_and_comes_to_the_same(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    make_trainer = training_run.make_trainer

    def make(recipe: Recipe, *args: Any, **options: Any) -> Any:
        trained.append("/".join(recipe.output_dir.parts[-2:]))
        return make_trainer(recipe, *args, **options)

    monkeypatch.setattr(training_run, "make_trainer", make)
    rates = {"learning_rates": [0.03]}  # all steps
    rows = {}
    for way in ("taken", "anew"):
        if way == "anew":
            monkeypatch.setattr(running, "take_training", lambda *_: None)
        path = write_study(tmp_path / way, tuning=rates, output_dir=str(tmp_path / way / "study"))
        assert do(path).n_succeeded == 7
        rows[way] = read_results(tmp_path / way / "study").rows
    assert trained[:4] == ["trials/lr0.03", "trials/lr0.03", "lora/seed1", "qtha/seed1"]
    assert len(trained) == 4 + 6
    assert len(in_this_process) == 14  # the answers and the measures are a job of their own
    assert [row.trained_in for row in rows["taken"]] == ["lr0.03", None] * 2
    taken, anew = ([_without_times(row) for row in rows[way]] for way in rows)
    assert taken == anew


def _without_times(row: RunRow) -> RunRow:
    measures = {key: value for key, value in row.measures.items() if key != "seconds"}
    return replace(row, seconds_per_step=None, peak_memory=None, trained_in=None, measures=measures)


def test_a_run_with_another_recipe_is_not_taken_over(
    finished: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    path = write_study(tmp_path, tuning=TUNING, arms=[LORA, {**QTHA, "bond_dim": 2}])
    run_study(plan_study(load_study(path)), n_workers=1, take_from=[finished])
    assert {Path(folder).parts[-3 if "trials" in folder else -2] for folder in in_this_process} == {
        "qtha"
    }
    with pytest.raises(StudyError, match="holds no study from which"):
        run_study(plan_study(load_study(path)), n_workers=1, take_from=[tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": 0.1}, "margin: is 0.1, was 0.05"),
        ({"training": {"steps": 5}}, "training.steps: is 5, was 6"),
        ({"arms": [LORA, {**QTHA, "bond_dim": 2}]}, "arms.qtha.bond_dim: is 2, was 1"),
        ({"seeds": [0]}, "seeds: '1' is not there any more"),
        ({"tuning": {"learning_rates": [0.01]}}, "tuning.learning_rates: is "),
    ],
)
def test_the_folder_of_another_study_is_refused(
    changes: dict[str, Any], message: str, a_copy: Path
) -> None:
    raw = {"tuning": TUNING, **changes}
    with pytest.raises(StudyError) as caught:
        do(write_study(a_copy, **raw))
    assert message in str(caught.value)


def test_learning_rates_are_added_only_before_the_first_run(
    a_copy: Path, in_this_process: list[str]
) -> None:
    path = write_study(
        a_copy, tuning={**TUNING, "learning_rates": [*TUNING["learning_rates"], 0.3]}
    )
    with pytest.raises(StudyError, match="learning_rates"):
        do(path)
    for run in (a_copy / "study").glob("*/*/seed*"):
        shutil.rmtree(run)
    do(path)
    trials = [name for name in names(in_this_process) if name.startswith("trials")]
    assert trials == ["trials/lr0.3"] * 2


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.txt").touch()
    with pytest.raises(StudyError, match="holds something, but no study"):
        do(path)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    (tmp_path / "study").touch()
    with pytest.raises(StudyError, match=r"study cannot be made or written to \(File exists\)"):
        do(path)


def test_a_key_that_a_later_version_adds_unset_makes_no_other_job(a_copy: Path) -> None:
    run = a_copy / "study" / "sums" / "lora" / "seed0"
    content = json.loads((run / "job.json").read_text())
    content["recipe"]["training"]["from_the_future"] = None
    assert begin_job(run, content, retry_failed=False) == "succeeded"
    content["recipe"]["training"]["from_the_future"] = 1
    assert begin_job(run, content, retry_failed=False) == "waiting"
    assert not (run / "results.json").exists()


def test_a_job_that_is_another_one_now_keeps_what_the_old_one_had_done(a_copy: Path) -> None:
    run = a_copy / "study" / "sums" / "lora" / "seed0"
    content = json.loads((run / "job.json").read_text())
    recipe = {**content["recipe"], "seed": 5}
    assert begin_job(run, {**content, "recipe": recipe}, retry_failed=False) == "waiting"
    assert [file.name for file in run.iterdir()] == ["job.json"]
    (aside,) = (run.parent / "replaced").iterdir()
    assert aside.name.startswith("seed0-")
    assert json.loads((aside / "job.json").read_text()) == content
    assert (aside / "lora" / "adapter_model.safetensors").exists()
    # Neither rows nor the study's identity see it.
    assert [row.status for row in read_results(a_copy / "study").rows].count("succeeded") == 3


def test_an_answer_may_hold_what_unicode_calls_a_line_break(tmp_path: Path) -> None:
    rows = [{"text": f"a{sign}b"} for sign in "\u2028\u2029\x85\x0b\x1c"]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": "cut o')
    assert read_jsonl(tmp_path / "a.jsonl") == rows


def test_a_run_takes_what_its_trial_has_sent_too(tmp_path: Path) -> None:
    trial, run, sent = tmp_path / "trial", tmp_path / "run", [{"sent": {"n_jobs": 3}}]
    part = {"model": {}, "adapter": {}, "training": {}, "seed": 0}
    content = {"kind": "trial", "task": "t", "arm": "a", "recipe": part}
    write_json(trial / "job.json", content)
    write_json(trial / "status.json", {"status": "succeeded"})
    record = {"training": {"seconds": 1.0}, "jobs": sent}
    write_json(trial / "results.json", {"arms": {"a": record}})
    (trial / "a").mkdir()
    with closing(sqlite3.connect(trial / JOURNAL)) as journal, journal:
        journal.execute("CREATE TABLE jobs (id)")
        journal.execute("INSERT INTO jobs VALUES (7)")
    take_training(trial, run, {**content, "kind": "run"})
    own = json.loads((run / "results.json").read_text())["arms"]["a"]
    assert (own["jobs_before"], "jobs" in own) == (sent, False)
    with closing(sqlite3.connect(run / JOURNAL)) as journal:
        assert journal.execute("SELECT id FROM jobs").fetchall() == [(7,)]


def test_runs_that_share_a_journal_have_labels_of_their_own(tmp_path: Path) -> None:
    keys = study_keys(tmp_path)
    tasks = [keys["tasks"][0], {**keys["tasks"][0], "name": "again"}]
    spec = load_study(
        write_study(tmp_path, tasks=tasks, jobs={"journal": "j.sqlite", "max_jobs": 9})
    )
    arm = spec.arm("qtha")
    jobs = [
        spec.recipe(task, arm, arm, seed, tmp_path / f"seed{seed}").jobs
        for task in spec.tasks
        for seed in spec.seeds
    ]
    assert {(one.journal.name, one.max_jobs) for one in jobs} == {("j.sqlite", 9)}
    assert [one.label for one in jobs] == [
        f"study/{task}/seed{seed}" for task in ("sums", "again") for seed in (0, 1)
    ]


def test_what_a_machine_was_paid_for_is_kept_though_the_job_did_not_end(a_copy: Path) -> None:
    run = a_copy / "study" / "sums" / "lora" / "seed0"
    content = json.loads((run / "job.json").read_text())
    write_status(run, "cancelled")
    (run / JOURNAL).write_text("jobs")
    recipe = {**content["recipe"], "seed": 5}
    assert begin_job(run, {**content, "recipe": recipe}, retry_failed=False) == "waiting"
    (aside,) = (run.parent / "replaced").iterdir()
    assert (aside / JOURNAL).read_text() == "jobs"


def test_an_interrupted_study_goes_on_in_another_place(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials read files in the study's folder, runs those beside the study file; both move with it."""
    path = write_study(tmp_path / "here", tuning=TUNING, seeds=[0])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_adapter", interrupted)
        assert do(path).n_succeeded == 1
    assert len(list((tmp_path / "here").rglob("trials/*/recipe.yaml"))) == 4
    (tmp_path / "here").rename(tmp_path / "there")
    outcome = do(tmp_path / "there" / path.name)
    assert (outcome.n_succeeded, outcome.n_failed) == (outcome.n_jobs, 0)
    assert len(read_results(outcome.folder).rows) == 2


def test_a_base_model_that_could_not_be_asked_is_a_row_with_its_error(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, seeds=[0], training=SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "do_job", _fails_for("base", worker.do_job))
        assert do(path).n_failed == 1
    row = read_results(tmp_path / "study").base["sums"]
    assert (row.status, row.error, row.accuracy) == ("failed", "the chip is on fire", None)
    assert do(path, retry_failed=True).n_failed == 0


def test_a_failed_trial_is_not_done_again_once_its_rate_was_chosen_without_it(
    a_copy: Path, in_this_process: list[str]
) -> None:
    arm = a_copy / "study" / "sums" / "qtha"
    chosen = json.loads((arm / "seed1" / "job.json").read_text())
    rate = chosen["recipe"]["training"]["learning_rate"]
    (other,) = (f"lr{r:g}" for r in TUNING["learning_rates"] if r != rate)
    write_status(arm / "trials" / other, "failed", error="out of memory")
    outcome = do(write_study(a_copy, tuning=TUNING), retry_failed=True)
    assert (outcome.n_failed, in_this_process) == (1, [])
    for seed in (0, 1):
        shutil.rmtree(arm / f"seed{seed}")
    do(write_study(a_copy, tuning=TUNING), retry_failed=True)
    assert names(in_this_process)[0] == f"trials/{other}"


def test_a_second_process_on_the_same_study_is_refused(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    lock = running.study_lock(tmp_path / "study")
    with pytest.raises(StudyError, match="Another process is at work on the study"):
        do(path)
    lock.release()


def test_a_failed_run_stays_visible_stops_nothing_and_is_done_again_when_asked(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, seeds=[0], training=SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "do_job", _fails_for("qtha", worker.do_job))
        outcome = do(path)
        assert (outcome.n_succeeded, outcome.n_failed) == (2, 1)
    (row,) = [row for row in read_results(tmp_path / "study").rows if row.arm == "qtha"]
    assert (row.status, row.error, row.accuracy) == ("failed", "the chip is on fire", None)
    in_this_process.clear()
    assert do(path).n_failed == 1
    assert in_this_process == []
    assert do(path, retry_failed=True).n_succeeded == 3
    assert names(in_this_process) == ["qtha/seed0"]


def test_a_failed_arm_that_is_changed_in_the_file_is_done_again(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(worker, "do_job", _fails_for("qtha", worker.do_job))
        do(write_study(tmp_path, seeds=[0], training=SHORT))
    in_this_process.clear()
    changed = [LORA, {**QTHA, "groups": 2}]
    outcome = do(write_study(tmp_path, seeds=[0], training=SHORT, arms=changed))
    assert outcome.n_succeeded == 3
    assert names(in_this_process) == ["qtha/seed0"]


def test_without_a_trial_that_succeeded_the_runs_fail_and_say_why(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = {"learning_rates": [0.01], "steps": 1}
    path = write_study(tmp_path, seeds=[0], training=SHORT, tuning=tuning)
    with monkeypatch.context() as patch:
        patch.setattr(worker, "do_job", _fails_for("qtha", worker.do_job))
        assert do(path).n_failed == 2
    (row,) = [row for row in read_results(tmp_path / "study").rows if row.arm == "qtha"]
    assert (row.status, row.error) == ("failed", "no trial of its learning rate succeeded")
    assert do(path, retry_failed=True).n_succeeded == 5


def test_an_interrupted_run_is_cancelled_and_done_by_the_next_session(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, seeds=[0], training=SHORT)

    def interrupted(folder: Path) -> bool:
        return False if folder.parent.name == "qtha" else real(folder)

    real = worker.do_job
    with monkeypatch.context() as patch:
        patch.setattr(worker, "do_job", interrupted)
        assert do(path).n_succeeded == 2
    status = read_status(tmp_path / "study" / "sums" / "qtha" / "seed0")
    assert status["status"] == "cancelled"
    in_this_process.clear()
    assert do(path).n_succeeded == 3
    assert names(in_this_process) == ["qtha/seed0"]


def test_a_job_that_goes_on_keeps_its_threads_and_so_its_rounding(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, seeds=[0], training=SHORT)
    monkeypatch.setattr(worker, "do_job", lambda _folder: False)
    do(path, n_threads=3)
    (tmp_path / "study" / "sums" / "qtha" / "seed0" / "status.json").unlink()
    InThisProcess.n_threads.clear()
    do(path, n_threads=2)
    assert names(in_this_process)[-3:] == ["sums/base", "lora/seed0", "qtha/seed0"]
    assert InThisProcess.n_threads == [3, 3, 2]


def test_a_run_that_had_only_its_measures_left_keeps_the_peak_of_its_training(
    tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(tmp_path, seeds=[0], training=SHORT)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_measure", interrupted)
        patch.setattr(worker, "peak_memory", lambda: 10**12)
        outcome = do(path)
    assert (outcome.n_succeeded, outcome.n_failed) == (1, 0)
    assert do(path).n_succeeded == 3
    assert [row.peak_memory for row in read_results(tmp_path / "study").rows] == [10**12] * 2


def _fails_for(arm: str, real: Callable[[Path], bool]) -> Callable[[Path], bool]:
    def job(folder: Path) -> bool:
        if arm in folder.parts:
            raise StudyError("the chip is on fire")
        return real(folder)

    return job
