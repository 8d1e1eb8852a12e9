"""`qpeft study` and `qpeft report` answer, and every mistake of a user's is one line."""

import os
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "study"))

from tiny_study import LORA, QTHA, write_study

from qpeft import cli, study_verbs
from qpeft.study.folder import open_study
from qpeft.study.plan import plan_study
from qpeft.study.reading import load_study
from qpeft.training.record import write_json


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qpeft", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else int(bool(ended.value.code))


@pytest.mark.parametrize("verb", ["study", "report"])
def test_every_verb_has_help(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    assert f"Usage: qpeft {verb}" in capsys.readouterr().out


def test_a_plan_is_shown_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(monkeypatch, "study", str(write_study(tmp_path)), "--plan") == 0
    text = capsys.readouterr().out
    assert (
        "2 arms x 1 task x 2 seeds = 4 runs, 0 trials of learning rates, 1 evaluation of the"
        in text
    )
    assert "896" in text
    assert "480" in text
    assert "qtha differs from lora in parameters: fewer of them is what is on trial" in text
    assert re.search(
        r"0 of 5 jobs are done; time for the rest: about \d+ \w+, a guess from one pass of the base model\.",
        text,
    )
    assert not (tmp_path / "study").exists()


def test_a_plan_says_what_of_its_time_is_a_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    planned = plan_study(load_study(path))
    folder = open_study(planned, is_quick=False)

    def finish(*kinds: str) -> str:
        for job in planned.jobs:
            if job.kind in kinds and job.seed == 0:
                (folder / job.folder).mkdir(parents=True, exist_ok=True)
                status = {"status": "succeeded", "seconds_before": 60.0}
                write_json(folder / job.folder / "status.json", status)
        assert run(monkeypatch, "study", str(path), "--plan", "--workers", "1") == 0
        return capsys.readouterr().out

    found = finish("base")
    assert ", for runs a guess from one pass of the base model." in found
    assert "3 of 5 jobs are done; time for the rest: about 2 min." in finish("base", "run")


def test_set_and_quick_reach_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, quick={"seeds": [0]})
    words = ["study", str(path), "--plan", "--quick", "--set", "training.steps=3", "--workers", "7"]
    assert run(monkeypatch, *words) == 0
    text = capsys.readouterr().out
    assert "x 1 seed = 2 runs" in text
    assert "; 7 at once." in text
    assert " 3 " in text


def test_an_undeclared_difference_ends_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, arms=[LORA, {**QTHA, "differs": {}}])
    assert run(monkeypatch, "study", str(path)) == 1
    text = capsys.readouterr().err
    assert len(text.strip().splitlines()) == 1
    assert "Arm 'qtha' has 480 trainable parameters" in text
    assert not (tmp_path / "study").exists()


def test_a_plan_in_the_folder_of_another_study_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.txt").touch()
    assert run(monkeypatch, "study", str(write_study(tmp_path)), "--plan") == 1
    found = capsys.readouterr()
    assert "holds something, but no study" in found.err
    assert found.out == ""


@pytest.mark.parametrize(("asked", "n_threads"), [("3", 3), ("", 2), ("0", 1), ("4,2", 2)])
def test_the_environments_number_of_threads_has_the_last_word(
    asked: str, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert study_verbs._n_threads(2) == n_threads


def test_a_report_is_not_written_among_a_studys_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.json").write_text("{}")
    claims = Path(__file__).parents[1] / "studies" / "results" / "claims"
    assert run(monkeypatch, "report", str(claims), "--output", str(tmp_path)) == 1
    assert "is the folder of a study" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["study.json"]


def test_cores_that_the_process_may_not_use_are_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5}, raising=False)
    assert study_verbs._n_cores() == 2


def test_a_missing_file_and_an_empty_folder_are_one_line_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "study", str(tmp_path / "nothing.yaml")) == 1
    assert "nothing.yaml: no such study file" in capsys.readouterr().err
    assert run(monkeypatch, "report", str(tmp_path)) == 1
    text = capsys.readouterr().err
    assert "holds no study. Give the output folder of one" in text
    assert len(text.strip().splitlines()) == 1
