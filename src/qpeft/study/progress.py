"""How far a study is, for whoever wants to know: nobody, a terminal, or a log."""

from collections.abc import Mapping
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from qpeft.study.job_folder import FINAL, State
from qpeft.study.plan import Job
from qpeft.study.results import BASE_ARM


class Progress(Protocol):
    """What a study tells while it goes."""

    def update(self, states: Mapping[Job, State], seconds_left: float | None) -> None:
        """Tell how far each job is, and how long the rest may take; None if nobody knows."""

    def stopping(self, n_workers: int) -> None:
        """Tell that so many workers were asked to stop."""

    def close(self) -> None:
        """Tell that nothing more comes."""


class SilentProgress:
    """A progress that says nothing."""

    def update(self, states: Mapping[Job, State], seconds_left: float | None) -> None:
        """Say nothing."""

    def stopping(self, n_workers: int) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class RichProgress:
    """Shows a study as a table of arms and tasks; where there is no terminal, a line for each job that ends.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._told: dict[Job, State] = {}

    def update(self, states: Mapping[Job, State], seconds_left: float | None) -> None:
        """Show the table anew, or the jobs that ended since the last time."""
        line = progress_line(states, seconds_left)
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False)
                self._live.start()
            self._live.update(Group(progress_table(states), line), refresh=True)
        else:
            for job, state in states.items():
                if state in FINAL and self._told.get(job) == "running":
                    text = f"{job.folder}: {state}. {line}"
                    self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self._told = dict(states)

    def stopping(self, n_workers: int) -> None:
        """Say what is awaited."""
        text = f"Stopping: {n_workers} workers write a checkpoint. Ctrl-C again ends them at once."
        self.console.print(text, soft_wrap=True)

    def close(self) -> None:
        """Leave the last table where it is."""
        if self._live is not None:
            self._live.stop()
        self._live = None


def progress_line(states: Mapping[Job, State], seconds_left: float | None) -> str:
    """Return in a sentence how far a study is."""
    counts = {state: list(states.values()).count(state) for state in ("succeeded", "failed")}
    running = [str(job.folder) for job, state in states.items() if state == "running"]
    words = [f"{counts['succeeded']} of {len(states)} jobs done"]
    words += [f"{counts['failed']} failed"] if counts["failed"] else []
    words += [f"running: {', '.join(running)}"] if running else []
    words += [f"about {duration(seconds_left)} left"] if seconds_left else []
    return ", ".join(words) + "."


def progress_table(states: Mapping[Job, State]) -> Table:
    """Return a line for each arm and a column for each task: runs done, and trials where there are any."""
    tasks = list(dict.fromkeys(job.task for job in states))
    table = Table("arm", *tasks)
    for arm in dict.fromkeys(job.arm for job in states):
        cells = [
            _cell({j: s for j, s in states.items() if (j.task, j.arm) == (task, arm)})
            for task in tasks
        ]
        table.add_row(arm if arm != BASE_ARM else "(base model)", *cells)
    return table


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3.5 h."""
    for size, unit in ((86400, "d"), (3600, "h")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _cell(states: Mapping[Job, State]) -> str:
    words = []
    for kind, name in (("trial", "trials"), ("run", "runs"), ("base", "")):
        found = [state for job, state in states.items() if job.kind == kind]
        if found:
            failed = f", {found.count('failed')} failed" if "failed" in found else ""
            words.append(f"{found.count('succeeded')}/{len(found)} {name}{failed}".strip())
    running = " *" if "running" in states.values() else ""
    return ", ".join(words) + running
