"""The verbs for quantum machines answer, and every mistake of a user's is one line."""

import csv
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qpeft import cli
from qpeft.adapters import QthaConfig
from qpeft.jobs import Journal, Session, use_session
from qpeft.layers import Evaluation, QuantumLayer


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["qpeft", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else int(bool(ended.value.code))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the journal of one measured layer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QPEFT_JOURNAL", raising=False)
    where = Evaluation("fake_remote", {"folder": str(tmp_path / "machine")}, 50)
    path = tmp_path / "qpeft-jobs.sqlite"
    with use_session(Session(path, label="my-run")), torch.no_grad():
        QuantumLayer(2, evaluation=where)(torch.zeros(1, 2))
    return path


@pytest.mark.parametrize("verb", ["plan", "jobs", "calibrate", "export"])
def test_every_verb_has_help(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, verb, "--help") == 0
    assert "Usage: qpeft" in capsys.readouterr().out


def test_jobs_are_listed_shown_and_exported(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(monkeypatch, "jobs", "list") == 0
    text = capsys.readouterr().out
    assert "my-run" in text
    assert "450" in text  # shots of all nine circuits
    assert run(monkeypatch, "jobs", "show", "1") == 0
    text = capsys.readouterr().out
    assert "state: finished" in text
    assert "raw result: " in text
    assert run(monkeypatch, "jobs", "export", "jobs.csv") == 0
    with Path("jobs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["n_circuits"] for row in rows] == ["8", "1"]
    assert run(monkeypatch, "jobs", "resume") == 0
    assert "Nothing is outstanding." in capsys.readouterr().out


def test_a_missing_journal_or_row_is_named(
    journal: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "jobs", "list", "--journal", "nowhere.sqlite") == 1
    assert "There is no journal nowhere.sqlite" in capsys.readouterr().err
    assert run(monkeypatch, "jobs", "show", "99") == 1
    assert "99" in capsys.readouterr().err
    Journal(journal).close()


def test_calibrate_keeps_a_snapshot_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "calibrate", "emulator", "--output-dir", "chips") == 0
    (snapshot,) = Path("chips").glob("*.json")
    assert snapshot.with_suffix(".svg").read_text(encoding="utf-8").startswith("<svg")
    assert "not a measurement of any chip" in capsys.readouterr().out
    from qpeft.chips.calibration import load_calibration

    assert load_calibration(snapshot).n_qubits == 72


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["calibrate", "exact"], "runs in this process, not behind a job interface"),
        (["calibrate", "emulator", "--option", "sead=1"], "no option 'sead'. Did you mean 'seed'?"),
        (["calibrate", "emulator", "--option", "seed"], "--option takes KEY=VALUE; got 'seed'"),
        (["calibrate", "pennylane"], "has no calibration to show"),
        (["export", "here", "there"], "--surrogate"),
        (["export", ".", "there", "--surrogate"], "has no adapter_config.json"),
        (["export", ".", "there", "--surrogate", "--shots", "5"], "need --backend"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 1
    text = capsys.readouterr().err
    assert message in text
    assert len(text.strip().splitlines()) == 1


def test_export_writes_a_classical_adapter_and_says_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import get_peft_model
    from torch import nn

    monkeypatch.chdir(tmp_path)
    config = QthaConfig(target_modules=["0"], inner_width=8, bond_dim=2, n_cores=2)
    get_peft_model(nn.Sequential(nn.Linear(24, 8)), config).save_pretrained("trained")
    words: list[Any] = ["export", "trained", "classical", "--surrogate"]
    assert run(monkeypatch, *words, "--backend", "emulator", "--shots", "100") == 0
    assert "1 layers, 81 circuits evaluated. The polynomials are exact" in capsys.readouterr().out
    assert run(monkeypatch, *words) == 1
    shutil.rmtree("classical")
    assert run(monkeypatch, *words) == 0


@pytest.mark.parametrize(
    "name",
    [
        "emulator",
        "pennylane:lightning.qubit",
        "qiskit:aer",
        "origin:origin_wukong@http://127.0.0.1:9",
        "origin:WK_C180",
    ],
)
def test_a_rows_backend_name_leads_back_to_its_remote(name: str) -> None:
    from qpeft.verb_parts import remote_named

    assert remote_named(name, {}).name == name


def test_an_open_job_is_cancelled_at_the_machine_or_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qpeft.backends.fake_remote import FakeRemote
    from qpeft.backends.remote import CircuitBatch
    from qpeft.circuits import build_ansatz
    from qpeft.jobs import Runner

    monkeypatch.chdir(tmp_path)
    machine = FakeRemote(tmp_path / "machine", delay=1000)
    opened = Journal(tmp_path / "qpeft-jobs.sqlite")

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    batch = CircuitBatch(build_ansatz("reupload", 2, 1), np.zeros((9, 10)), 50)
    with pytest.raises(KeyboardInterrupt):
        Runner(machine, opened, sleep=interrupt).run(batch)
    opened.close()
    option = f"folder={tmp_path / 'machine'}"
    assert run(monkeypatch, "jobs", "cancel", "1", "--option", option) == 0
    assert run(monkeypatch, "jobs", "forget", "2") == 0
    assert "Row 2 is cancelled." in capsys.readouterr().out
    assert run(monkeypatch, "jobs", "resume", "--option", option, "--no-wait") == 0
    assert "failed at the machine: row 1" in capsys.readouterr().out
    assert run(monkeypatch, "jobs", "cancel", "2") == 1
    assert "there is nothing at the machine to cancel" in capsys.readouterr().err


def test_a_plan_for_another_machine_leaves_the_options_of_the_recipes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(Path(__file__).parent.parent / "recipes" / "math-wukong.yaml")
    seen: list[Any] = []
    monkeypatch.setattr(
        "qpeft.training.hardware_plan.plan_hardware", lambda r: seen.append(r) or []
    )
    assert run(monkeypatch, "plan", recipe, "--backend", "emulator", "--shots", "50") == 0
    (loaded,) = seen
    assert loaded.adapter.options["backend"] == "emulator"
    assert loaded.adapter.options["backend_options"] is None
    assert loaded.adapter.options["shots"] == 50


def test_conformance_by_default_leaves_out_what_is_not_installed_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qpeft import hardware_verbs
    from qpeft.errors import MissingExtraError

    def target(name: str, options: Any) -> Any:
        if name == "absent":
            raise MissingExtraError("absent", "absent", "This backend")
        return real(name, options)

    real = hardware_verbs._target
    monkeypatch.setattr(hardware_verbs, "_target", target)
    monkeypatch.setattr(hardware_verbs, "LOCAL_BACKENDS", ("absent", "reference"))
    assert run(monkeypatch, "conformance") == 0
    printed = capsys.readouterr().out
    assert "qpeft[absent]" in printed
    assert "reference" in printed
    assert run(monkeypatch, "conformance", "absent") == 1
