"""A study in real processes goes on after Ctrl-C and after a crash, and every run has its own memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_study import LORA, QTHA, write_study

from qpeft.study import running
from qpeft.study.job_folder import read_status
from qpeft.study.record import read_results
from qpeft.training.record import read_jsonl


def start(path: Path, *words: str, n_threads: int = 1) -> subprocess.Popen[bytes]:
    code = "import sys; from qpeft.cli import main; sys.argv[0] = 'qpeft'; main()"
    with path.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", code, "study", str(path), "--workers", "1", *words],
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
        )


def await_file(path: Path, process: subprocess.Popen[bytes], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"the study ended before {path} was there"
        assert time.monotonic() < deadline, f"{path} was never there"
        time.sleep(0.05)


def uninterrupted(run: Path, folder: Path) -> Path:
    """Do a run once more, in one go and with as many threads, and return its folder."""
    job = json.loads((run / "job.json").read_text())
    job["recipe"]["output_dir"] = str(folder)
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps({**job, "measures": None}))
    process = running.start_worker(
        [sys.executable, "-m", "qpeft.study.worker", str(folder)],
        folder / "log.txt",
        read_status(run)["n_threads"],
    )
    assert process.wait(timeout=600) == 0
    return folder


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_study_that_was_ended_goes_on_to_the_same_numbers(
    ending: signal.Signals, tmp_path: Path
) -> None:
    longer = {"steps": 60, "save_every": 2, "evaluate_every": 20}
    path = write_study(tmp_path, seeds=[0], training=longer)
    study = tmp_path / "study"
    process = start(path, n_threads=2)
    checkpoint = study / "sums" / "lora" / "seed0" / "lora" / "checkpoints" / "checkpoint-4"
    await_file(checkpoint / "trainer_state.json", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(ending)
    code = process.wait(timeout=120)
    assert code == (-9 if ending == signal.SIGKILL else 130)
    deadline = time.monotonic() + 20
    while any(is_alive(int(child)) for child in children):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)
    if ending == signal.SIGINT:
        assert f"qpeft study {path}" in path.with_suffix(".log").read_text()
        assert read_results(study).rows[0].status == "cancelled"
    assert start(path).wait(timeout=600) == 0
    row = read_results(study).rows[0]
    assert [step for step, _ in row.losses] == list(range(1, 61))
    whole = uninterrupted(study / row.folder, tmp_path / "whole")
    lines = read_jsonl(whole / "lora" / "metrics.jsonl")
    assert [loss for _, loss in row.losses] == [line["loss"] for line in lines if "loss" in line]
    ours, theirs = (
        load_file(folder / "lora" / "adapter_model.safetensors")
        for folder in (study / row.folder, whole)
    )
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_cancelled_and_the_others_go_on(tmp_path: Path) -> None:
    path = write_study(tmp_path, seeds=[0], training={"steps": 60, "save_every": 2})
    process = start(path)
    log = tmp_path / "study" / "sums" / "lora" / "seed0" / "lora" / "metrics.jsonl"
    await_file(log, process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert process.wait(timeout=600) == 1
    lora, qtha = read_results(tmp_path / "study").rows
    assert (lora.status, qtha.status) == ("cancelled", "succeeded")
    assert lora.error is not None
    assert "SIGKILL" in lora.error
    assert start(path).wait(timeout=600) == 0


@pytest.mark.slow
def test_peak_memory_is_the_runs_own_and_a_loss_that_is_no_number_fails_the_run(
    tmp_path: Path,
) -> None:
    wild = {**LORA, "name": "wild", "training": {"learning_rate": 1e38}}
    wild["differs"] = {"training": "shows what becomes of a run that diverges"}
    path = write_study(tmp_path, seeds=[0], arms=[LORA, QTHA, wild])
    assert start(path).wait(timeout=600) == 1
    lora, _, failed = read_results(tmp_path / "study").rows
    assert lora.peak_memory is not None
    assert 10**8 < lora.peak_memory < 3 * 10**9
    assert failed.status == "failed"
    assert failed.error is not None
    assert "loss is" in failed.error
    assert "The loss is" in (tmp_path / "study" / failed.folder / "log.txt").read_text()
