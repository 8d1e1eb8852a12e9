"""One job of a study in a process of its own: python -m qpeft.study.worker FOLDER.

The folder's job.json says what to do; how it ended is in status.json. A process of its own gives its memory back,
and its peak memory is the run's. It ends with the process that started it, so no two ever work on the same run.
"""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def main(arguments: list[str]) -> int:
    """Do the job in the folder that the first argument names; the second is the parent's process id."""
    folder = Path(arguments[0])
    if len(arguments) > 1:
        _end_with(int(arguments[1]))
    from qpeft.errors import QpeftError
    from qpeft.study.job_folder import write_status

    is_done = False
    # A worker that outlived its parent by a moment still has the folder.
    with FileLock(folder / ".lock"):
        try:
            is_done = do_job(folder)
        except (QpeftError, OSError) as error:
            text = " ".join(str(error).split())
            print(f"qpeft: {text}", file=sys.stderr)
            write_status(folder, "failed", error=text)
            return EXIT_FAILED
        except KeyboardInterrupt:
            pass
        if not is_done:
            write_status(folder, "cancelled", error="interrupted; the same command goes on")
            return EXIT_INTERRUPTED
        write_status(folder, "succeeded")
    return 0


def do_job(folder: Path) -> bool:
    """Train and measure, or evaluate the base model, as job.json says.

    Args:
        folder: The job's own; the peak memory of training and evaluation goes into its status.

    Returns:
        Whether it is done; False if Ctrl-C ended it.

    Raises:
        QpeftError: Anything that the user can put right.
    """
    from qpeft.recipe import Recipe
    from qpeft.study.job_folder import note_peak_memory
    from qpeft.training import evaluate_base, train

    job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    recipe = Recipe.model_validate(job["recipe"])
    try:
        if job["kind"] == "base":
            evaluate_base(recipe, folder)
        elif train(recipe, resume=True).is_interrupted:
            return False
    finally:
        # Before the measures: they are the study's, not the method's.
        note_peak_memory(folder, peak_memory())
    if job["measures"] is not None:
        _measure(folder, recipe, job)
    return True


def _measure(folder: Path, recipe: Any, job: dict[str, Any]) -> None:
    from qpeft.study.measures import measure_run
    from qpeft.study.measures.spec import MeasureSpec
    from qpeft.training.record import write_json

    spec = MeasureSpec.model_validate(job["measures"])
    write_json(folder / "measures.json", measure_run(folder, recipe, job["arm"], spec))


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage counts on Linux what the parent held when it started this process.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
