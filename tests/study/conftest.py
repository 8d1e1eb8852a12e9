"""A finished tiny study, copies of it, and jobs that run in the test's own process."""

import shutil
from pathlib import Path

import pytest
from in_process import TUNING, InThisProcess, do
from tiny_study import write_study

from qpeft.study import record, running


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let jobs run here, and return the folders of those that were started."""
    InThisProcess.started, InThisProcess.n_threads = [], []
    monkeypatch.setattr(running, "start_worker", InThisProcess)
    monkeypatch.setattr(running, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(record, "CURVE_QUBITS", (2,))  # the largest circuits take seconds
    return InThisProcess.started


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny study with tuning; the file lies beside it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "start_worker", InThisProcess)
        assert do(write_study(folder, tuning=TUNING)).n_succeeded == 9
    return folder / "study"


@pytest.fixture
def a_copy(finished: Path, tmp_path: Path) -> Path:
    """A study of one's own in `study/`, to be changed; `again` writes its file."""
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path
