"""Starts `qpeft train` in the processes that an accelerate config describes, one for each GPU or on CPUs.

accelerate reads the file and says what the processes find in their environment; they are started here, so that one
Ctrl-C reaches each of them once, there is no limit on the time in which they write their checkpoint, and an error
that all of them meet is shown once.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml

from qpeft.errors import ConfigError
from qpeft.training.processes import NO_SHARDING

_INTERRUPTED = 130
_ON_CPUS = ("NO", "MULTI_CPU")
_ON_ACCELERATORS = ("MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU")
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Processes:
    """The processes of this machine.

    Args:
        n_here: How many are started here.
        n_all: How many there are on all machines.
        first: The number of the first one here.
        environment: What all find in their environment.
    """

    n_here: int
    n_all: int
    first: int
    environment: dict[str, str]


def is_launched() -> bool:
    """Say whether this process is one of several already: of ours, torchrun's or accelerate's."""
    return "LOCAL_RANK" in os.environ


def launch(config: Path, words: Sequence[str]) -> int:
    """Run `qpeft` with these words in the processes of an accelerate config, and wait for all.

    Args:
        config: A file that `accelerate config` wrote, YAML or JSON.
        words: What follows `qpeft` on the command line.

    Returns:
        The exit code: 0, that of the main process, or 130 after Ctrl-C.

    Raises:
        ConfigError: The file is missing, says what cannot be done here, or a process was killed.
    """
    found = read_processes(config)
    with tempfile.TemporaryDirectory() as folder:
        workers = [_Worker(found, i, words, Path(folder) / str(i)) for i in range(found.n_here)]
        with _passing_signals_on(workers):
            first = _wait(workers)
        if first is None:
            return max(worker.process.returncode for worker in workers)
        code = first.process.returncode
        if code < 0:
            raise ConfigError(
                f"Process {first.rank} of {found.n_all} was ended by {signal.Signals(-code).name}, and so the "
                f"others were stopped. If nobody did that, the memory was too small: use fewer processes or a "
                f"smaller training.batch_size. Go on with --resume."
            )
        print(_unsaid(first.read_errors(), workers[0].read_errors()), end="", file=sys.stderr)
        return code


def _unsaid(complaint: str, said: str) -> str:
    """Return the lines of a complaint that were not shown yet: a process may also log what no other does."""
    shown = set(said.splitlines())
    return "".join(f"{line}\n" for line in complaint.splitlines() if line not in shown)


def read_processes(config: Path) -> Processes:
    """Return the processes that an accelerate config asks for on this machine.

    Args:
        config: A file that `accelerate config` wrote, YAML or JSON.

    Raises:
        ConfigError: The file is missing or invalid, or this machine cannot do what it says.
    """
    kind, asked = _read(config)
    n_here = asked.num_processes // max(asked.num_machines, 1)
    if n_here < 1:
        raise ConfigError(
            f"{config}: num_processes is {asked.num_processes} on {asked.num_machines} machines; each needs one."
        )
    if kind == "FSDP":
        raise ConfigError(f"{config}: {NO_SHARDING}")
    if kind not in (*_ON_CPUS, *_ON_ACCELERATORS):
        raise ConfigError(
            f"{config}: qpeft starts no processes of the distributed_type {kind}. Let accelerate do it: "
            f"accelerate launch --config_file {config} -m qpeft train RECIPE"
        )
    is_on_cpu = kind in _ON_CPUS or asked.use_cpu
    n_devices = torch.accelerator.device_count()
    if not is_on_cpu and n_here > n_devices:
        raise ConfigError(
            f"{config}: asks for {n_here} processes, one a GPU, but this machine has {n_devices}. Lower "
            f"num_processes, or set distributed_type: MULTI_CPU and use_cpu: true."
        )
    first = int(asked.machine_rank) * n_here
    return Processes(n_here, asked.num_processes, first, _environment(config, asked, is_on_cpu))


def _read(config: Path) -> tuple[str, Any]:
    """Return the distributed_type and accelerate's reading of the file."""
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    if not config.is_file():
        raise ConfigError(
            f"--accelerate-config: no such file '{config}'. Write one with: "
            f"accelerate config --config_file {config}"
        )
    try:
        raw = yaml.safe_load(config.read_text(encoding="utf-8"))  # JSON is YAML too
        if not isinstance(raw, dict):
            raise ValueError("expected keys with values, such as num_processes: 2")
        asked = load_config_from_file(str(config))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{config}: not a config of accelerate: {reason}") from error
    if not isinstance(asked, ClusterConfig):
        raise ConfigError(f"{config}: only machines of your own can be used, not {raw}.")
    for name in ("num_processes", "num_machines", "machine_rank"):
        if not isinstance(getattr(asked, name), int):
            raise ConfigError(
                f"{config}: {name} must be a whole number; got {getattr(asked, name)!r}."
            )
    return str(getattr(asked.distributed_type, "value", asked.distributed_type)), asked


def _environment(config: Path, asked: Any, is_on_cpu: bool) -> dict[str, str]:
    """Return what accelerate puts into the environment of its processes, and where they meet."""
    from accelerate.commands import launch as accelerates
    from accelerate.utils.launch import (
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )

    port = asked.main_process_port or _free_port()
    address = asked.main_process_ip or "127.0.0.1"
    parser = accelerates.launch_command_parser()
    options = ["--config_file", str(config), "--main_process_port", str(port)]
    args, _, _ = accelerates._validate_launch_command(parser.parse_args([*options, "-m", "qpeft"]))
    if is_on_cpu:
        _, environment = prepare_simple_launcher_cmd_env(args)
    else:
        environment = prepare_multi_gpu_env(args)
    # torch's C++ part says in every process what the Trainer's own settings make it say.
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return {**environment, "MASTER_ADDR": address, "MASTER_PORT": str(port)}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class _Worker:
    """One process. The main one alone speaks: what the others complain of is kept for when they fail.

    Args:
        found: All processes of this machine.
        number: Which of them, from 0.
        words: What follows `qpeft` on the command line.
        errors: Where its error stream goes.
    """

    def __init__(self, found: Processes, number: int, words: Sequence[str], errors: Path):
        self.rank = found.first + number
        self._errors, self._n_shown = errors, 0
        environment = {
            **found.environment,
            "RANK": str(self.rank),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(found.n_all),
            "LOCAL_WORLD_SIZE": str(found.n_here),
        }
        # In a process group of its own: the terminal's Ctrl-C comes to the launching process only, which passes
        # it on.
        with errors.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "qpeft", *words],
                env=environment,
                stdout=None if number == 0 else subprocess.DEVNULL,
                stderr=stderr,
                process_group=0,
            )

    def read_errors(self) -> str:
        """Return all that it has written to its error stream."""
        return self._errors.read_text(encoding="utf-8", errors="replace")

    def show_errors(self) -> None:
        """Print what has come since the last call."""
        text = self.read_errors()
        print(text[self._n_shown :], end="", file=sys.stderr, flush=True)
        self._n_shown = len(text)


@contextmanager
def _passing_signals_on(workers: Sequence[_Worker]) -> Iterator[None]:
    """Send what would end this process to the workers, so that it ends when they have."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for worker in workers:
            worker.process.send_signal(number)

    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {name: signal.signal(name, pass_on) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _wait(workers: Sequence[_Worker]) -> _Worker | None:
    """Wait for all; return the one that failed first, having stopped the others."""
    failed: _Worker | None = None
    while failed is None and _are_running(workers):
        failed = _failed(workers)
    failed = failed or _failed(workers)
    if failed is not None:
        _stop(workers)
    workers[0].show_errors()
    return failed


def _failed(workers: Sequence[_Worker]) -> _Worker | None:
    fine = (None, 0, _INTERRUPTED)
    return next((worker for worker in workers if worker.process.poll() not in fine), None)


def _stop(workers: Sequence[_Worker]) -> None:
    """Let the others end by themselves, then end them: they may wait for the one that failed."""
    for how in (None, signal.SIGTERM, signal.SIGKILL):
        if how is not None:
            for worker in workers:
                worker.process.send_signal(how)
        until = time.monotonic() + _PATIENCE_SECONDS
        while _are_running(workers) and time.monotonic() < until:
            pass


def _are_running(workers: Sequence[_Worker]) -> bool:
    """Wait a moment, show what the main process complains of, and say whether any process runs."""
    time.sleep(_POLL_SECONDS)
    workers[0].show_errors()
    return any(worker.process.poll() is None for worker in workers)
