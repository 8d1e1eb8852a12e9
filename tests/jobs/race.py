"""Processes that run the same batches at the same moment on one machine and one journal.

python race.py folder 3        the machine's folder, number of processes
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from small_batches import make_batch

from qpeft.backends.fake_remote import FakeRemote
from qpeft.jobs import Journal, Runner


def run_race(folder: Path, n_processes: int) -> list[np.ndarray]:
    """Start processes together and return what each got."""
    command = [sys.executable, __file__, str(folder), str(n_processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [np.load(folder / f"{number}.npy") for number in range(n_processes)]


def main(folder: Path, n_processes: int) -> int:
    """Fork the runners, let them go at once, and return how many of them failed."""
    ready, go = os.pipe()
    children = []
    for number in range(n_processes):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)  # returns in all of them when the parent closes its end
            code = 1
            try:
                _run(folder, number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(ready)
    os.close(go)
    return sum(os.waitpid(child, 0)[1] != 0 for child in children)


def _run(folder: Path, number: int) -> None:
    remote = FakeRemote(folder, max_programs=2, delay=3)

    def nap(seconds: float) -> None:
        time.sleep(min(seconds, 0.005))

    journal = Journal(folder / "jobs.sqlite")
    runner = Runner(remote, journal, sleep=nap, first_poll_seconds=0)
    results = [runner.run(make_batch(7, shots=50, seed=seed)) for seed in range(3)]
    np.save(folder / f"{number}.npy", np.concatenate(results))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
