"""Published rows are the study again: its report is made of them, and another study goes on from them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from in_process import TUNING, InThisProcess, names
from safetensors.torch import load_file, save_file
from synthetic import synthetic_results
from tiny_study import LORA, QTHA, write_study

from qpeft.errors import StudyError
from qpeft.reports import write_csv
from qpeft.reports.csv_rows import csv_files
from qpeft.study.plan import plan_study
from qpeft.study.published import read_published
from qpeft.study.reading import load_study
from qpeft.study.record import read_results, write_record
from qpeft.study.results import StudyResults
from qpeft.study.running import run_study


@pytest.fixture
def published(finished: Path, tmp_path: Path) -> Path:
    """The published rows of a finished tiny study, without its folder."""
    folder = tmp_path / "published"
    write_csv(read_results(finished), folder)
    return folder


def texts(results: StudyResults) -> dict[str, str]:
    return {file.name: file.text for file in csv_files(results)}


def test_what_is_read_back_is_written_the_same_again(
    finished: Path,
    published: Path,
) -> None:
    ours, again = read_results(finished), read_results(published)
    assert texts(again) == texts(ours)
    for own, other in zip(ours.rows, again.rows, strict=True):
        assert replace(own, measures={}) == replace(other, measures={})
    assert (again.arms, again.tasks, again.trials) == (ours.arms, ours.tasks, ours.trials)
    assert again.provenance == ours.provenance


def test_failed_runs_and_ansatzes_are_read_back_too(tmp_path: Path) -> None:
    results = synthetic_results(n_seeds=2, n_examples=20)
    failed = replace(results.rows[-1], status="failed", error="-1 is no shape")
    results = replace(results, rows=(*results.rows[:-1], failed))
    write_csv(results, tmp_path)
    again = read_published(tmp_path)
    assert again.rows[-1].error == "-1 is no shape"
    assert again.ansatzes == results.ansatzes
    assert [row.status for row in again.rows] == [row.status for row in results.rows]
    assert again.base == {task: replace(row) for task, row in results.base.items()}


def test_no_place_on_the_machine_is_published(finished: Path, published: Path) -> None:
    text = (published / "published.json").read_text(encoding="utf-8")
    assert str(finished) not in text
    assert "output_dir: study" in json.loads(text)["provenance"]["study_file"]


def go_on(path: Path, *sources: Path, **options: Any) -> tuple[list[str], StudyResults]:
    InThisProcess.started.clear()
    outcome = run_study(plan_study(load_study(path)), n_workers=1, take_from=sources, **options)
    assert outcome.n_succeeded == outcome.n_jobs
    return names(InThisProcess.started), write_record(outcome.folder)


@pytest.mark.usefixtures("in_this_process")
def test_a_study_goes_on_from_published_rows(
    finished: Path,
    published: Path,
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path, tuning=TUNING, seeds=[0, 1, 2])
    started, results = go_on(path, published)
    assert started == ["lora/seed2", "qtha/seed2"]
    before = read_results(published)
    for row in before.rows:
        assert row in results.rows
    assert results.trials == before.trials
    assert results.base == before.base
    status = json.loads((results.folder / "sums/qtha/seed1/status.json").read_text())
    assert status["taken_from"] == "published"
    experiments = results.folder / "method_comparison" / "experiments" / "qtha"
    configs = [
        json.loads((experiments / f"sums--qtha--seed{k}" / "adapter_config.json").read_text())
        for k in (1, 2)  # taken and trained
    ]
    for config in configs:
        config.pop("base_model_name_or_path")  # known when a model is adapted
    assert configs[0]["peft_type"] == "QTHA"
    assert configs[0].keys() == configs[1].keys()
    assert [config["r"] for config in configs] == [2, 2]
    again, same = go_on(path, published)
    assert (again, same.rows) == ([], results.rows)


@pytest.mark.usefixtures("in_this_process")
def test_a_trial_of_published_rows_has_no_adapter_to_take_over(
    published: Path, tmp_path: Path
) -> None:
    """The run with the trials' seed is trained anew where only its trial's loss is known."""
    full = {"learning_rates": [0.03]}  # all steps, so that a run could take the trial over
    path = write_study(tmp_path, tuning=full, seeds=[0])
    _, first = go_on(path)
    write_csv(first, published)
    lines = (published / "rows.csv").read_text("utf-8").splitlines(keepends=True)
    (published / "rows.csv").write_text("".join(x for x in lines if ",qtha,0," not in x), "utf-8")
    shutil.rmtree(tmp_path / "study")
    started, results = go_on(path, published)
    assert started == ["qtha/seed0"]
    assert [row.trained_in for row in results.rows] == ["lr0.03", None]
    assert results.rows[1].scores == first.rows[1].scores


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("is_published", [False, True])
def test_jobs_on_other_data_are_not_taken(
    is_published: bool,
    finished: Path,
    published: Path,
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path, tuning=TUNING, arms=[LORA, QTHA])
    file = tmp_path / "sums.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[1:]), encoding="utf-8")
    started, _ = go_on(path, published if is_published else finished)
    assert len(started) == 9


@pytest.mark.parametrize("is_published", [False, True])
def test_runs_on_other_weights_of_the_same_name_are_refused(
    is_published: bool,
    finished: Path,
    published: Path,
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path, tuning=TUNING)
    weights = tmp_path / "model" / "model.safetensors"
    changed = {name: 1.01 * tensor for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    with pytest.raises(StudyError, match=r"were made with other weights .* Use the same copy"):
        go_on(path, published if is_published else finished)
    assert not (tmp_path / "study" / "sums").exists()
    # Its own folder is not gone on with either.
    shutil.copytree(finished, tmp_path / "study", dirs_exist_ok=True)
    with pytest.raises(StudyError, match=r"model\.weights: is '"):
        go_on(path)


@pytest.mark.parametrize("is_published", [False, True])
def test_a_margin_is_not_chosen_after_the_runs(
    is_published: bool, finished: Path, published: Path, tmp_path: Path
) -> None:
    path = write_study(tmp_path, tuning=TUNING, margin=0.1)
    with pytest.raises(StudyError, match=r"under a margin of 0\.05, this study has 0\.1"):
        go_on(path, published if is_published else finished)


@pytest.mark.usefixtures("in_this_process")
def test_rows_that_lie_in_a_studys_own_folder_do_not_stand_for_it(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "study")
    write_csv(read_results(finished), tmp_path / "study")
    _, results = go_on(write_study(tmp_path, tuning=TUNING, seeds=[0, 1, 2]))
    assert results.seeds == (0, 1, 2)


@pytest.mark.usefixtures("in_this_process")
def test_a_source_that_does_not_know_its_weights_is_taken_at_its_word(
    published: Path, tmp_path: Path
) -> None:
    head = json.loads((published / "published.json").read_text(encoding="utf-8"))
    assert len(head["provenance"].pop("weights")) == 64
    (published / "published.json").write_text(json.dumps(head), encoding="utf-8")
    assert go_on(write_study(tmp_path, tuning=TUNING), published)[0] == []


@pytest.mark.usefixtures("in_this_process")
def test_the_first_source_that_has_a_job_gives_it(
    finished: Path,
    published: Path,
    tmp_path: Path,
) -> None:
    path = write_study(tmp_path, tuning=TUNING)
    assert go_on(path, published, finished)[0] == []
    assert (tmp_path / "study" / "sums" / "lora" / "seed0" / "row.json").exists()
    shutil.rmtree(tmp_path / "study")
    assert go_on(path, finished, published)[0] == []
    assert (tmp_path / "study" / "sums" / "lora" / "seed0" / "lora").is_dir()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("scores.csv", "sums,lora,0,9,", "sums,lora,7,9,"),
        ("rows.csv", ",succeeded,", ",done,"),
        ("published.json", '"margin": 0.05', '"margin": "wide"'),
        ("published.json", '"subject"', '"object"'),
    ],
)
def test_published_rows_that_were_changed_are_refused_in_one_line(
    file: str, old: str, new: str, published: Path
) -> None:
    path = published / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(StudyError, match=r"cannot be read: .*write them again") as caught:
        read_results(published)
    assert "\n" not in str(caught.value)
