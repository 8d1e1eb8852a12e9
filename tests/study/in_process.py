"""A study whose jobs run in the process of the test: quicker than processes with their imports."""

from pathlib import Path
from typing import Any

from qpeft.study import worker
from qpeft.study.plan import plan_study
from qpeft.study.reading import load_study
from qpeft.study.running import StudyOutcome, run_study

TUNING = {"learning_rates": [0.01, 0.03], "steps": 3}


class InThisProcess:
    """A worker that has done its job here before anybody asks: quicker than a process with its imports."""

    started: list[str] = []  # noqa: RUF012 - emptied by the fixture
    n_threads: list[int] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, command: list[str], _log: Path, n_threads: int) -> None:
        self.started.append(command[3])
        self.n_threads.append(n_threads)
        self.code = worker.main(command[3:4])

    def poll(self) -> int:
        return self.code


def do(path: Path, **options: Any) -> StudyOutcome:
    return run_study(plan_study(load_study(path)), n_workers=1, **options)


def names(started: list[str]) -> list[str]:
    return ["/".join(Path(folder).parts[-2:]) for folder in started]
