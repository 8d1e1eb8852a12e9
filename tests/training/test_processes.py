"""A recipe in several processes: the same numbers as in one, one that speaks and writes, one end for all."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from test_hardware_runs import hardware_recipe, sent_by
from tiny import make_recipe, make_tiny_model

from qpeft.errors import ConfigError
from qpeft.jobs import Journal, State
from qpeft.recipe import Recipe
from qpeft.training import train
from qpeft.training.launching import launch, read_processes

ADAPTER = {
    "method": "qtha",
    "r": 4,
    "inner_width": 16,
    "bond_dim": 2,
    "target_modules": ["q_proj", "v_proj"],
}
ON_TWO_CPUS = {"distributed_type": "MULTI_CPU", "num_processes": 2, "use_cpu": True}
WITHOUT_GPUS = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("config") / "accelerate.yaml", ON_TWO_CPUS)


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def metrics(recipe: Recipe) -> list[dict[str, Any]]:
    lines = (recipe.output_dir / "qtha" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def weights(recipe: Recipe) -> dict[str, torch.Tensor]:
    return load_file(recipe.output_dir / "qtha" / "adapter_model.safetensors")


def predictions(recipe: Recipe, arm: str) -> list[dict[str, Any]]:
    lines = (recipe.output_dir / "predictions" / f"{arm}-0shot.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def run(words: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=environment, timeout=400
    )


def complaints(done: "subprocess.CompletedProcess[str]") -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("qpeft: ")]


LAUNCHERS = {
    "qpeft": ["qpeft", "train", "recipe.yaml", "--accelerate-config", "accelerate.yaml"],
    "torchrun": [
        *("torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        *("-m", "qpeft", "train", "recipe.yaml"),
    ],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes=2"),
        *("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
        *("--main_process_port=0", "-m", "qpeft", "train", "recipe.yaml"),
    ],
}


@pytest.fixture(scope="module")
def alone(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = make_recipe(tmp_path_factory.mktemp("alone"), model_folder, adapter=ADAPTER)
    train(recipe)
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_give_the_numbers_of_one_with_their_batches_together(
    launcher: str, tmp_path: Path, model_folder: Path, alone: Recipe
) -> None:
    recipe = make_recipe(tmp_path, model_folder, adapter=ADAPTER, training={"batch_size": 2})
    written(tmp_path / "recipe.yaml", recipe.to_yaml())
    written(tmp_path / "accelerate.yaml", ON_TWO_CPUS)
    done = run(LAUNCHERS[launcher], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    for ours, theirs in zip(metrics(recipe), metrics(alone), strict=True):
        assert ours.keys() == theirs.keys()
        # Validation is a mean over batches, which two processes cut differently.
        close = {"validation_loss": 1e-2, "grad_norm": 1e-4}
        for key in ours:
            assert ours[key] == pytest.approx(theirs[key], rel=close.get(key, 1e-5))
    results = [json.loads((r.output_dir / "results.json").read_text()) for r in (recipe, alone)]
    for arm in ("base", "qtha"):
        assert predictions(recipe, arm) == predictions(alone, arm)
        ours, theirs = (result["arms"][arm]["evaluations"][0] for result in results)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        kept = ("n", "n_correct", "interval_95")
        assert [ours[key] for key in kept] == [theirs[key] for key in kept]
    assert done.stdout.count("Adapters, predictions and results.json") == 1
    assert done.stdout.count("train qtha") == 1

    if launcher == "qpeft":
        again = run(LAUNCHERS[launcher], tmp_path)
        assert again.returncode == 1
        (line,) = complaints(again)
        assert "holds a run already. Continue it with --resume" in line
        assert "Traceback" not in again.stderr


LONG = {
    "steps": 24,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "warmup_steps": 3,
    "evaluate_every": 5,
    "save_every": 4,
}


@pytest.fixture(scope="module")
def undisturbed(
    model_folder: Path, config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = long_recipe(folder, model_folder)
    done = run(launched(folder, config), folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return recipe


def long_recipe(folder: Path, model: Path) -> Recipe:
    adapter = {**ADAPTER, "dropout": 0.2}
    recipe = make_recipe(folder, model, adapter=adapter, training=LONG)
    written(folder / "recipe.yaml", recipe.to_yaml())
    return recipe


def launched(folder: Path, config: Path) -> list[str]:
    return ["qpeft", "train", str(folder / "recipe.yaml"), "--accelerate-config", str(config)]


def wait_for_step(recipe: Recipe, step: int) -> None:
    log = recipe.output_dir / "qtha" / "metrics.jsonl"
    until = time.monotonic() + 200
    while time.monotonic() < until:
        if log.exists() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.005)
    raise AssertionError("The training did not come so far.")


def workers_of(launcher: "subprocess.Popen[str]") -> Iterator[psutil.Process]:
    """Yield the processes of a launcher, the main one first."""
    for child in psutil.Process(launcher.pid).children():
        if "LOCAL_RANK" in child.environ():
            yield child


def end_with(
    how: str, recipe: Recipe, folder: Path, config: Path
) -> "subprocess.CompletedProcess[str]":
    """Start two processes, disturb them in the middle and return what the launcher said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    command = [sys.executable, "-m", *launched(folder, config)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as launcher:
        wait_for_step(recipe, 6)
        workers = list(workers_of(launcher))
        if how == "ctrl-c":
            launcher.send_signal(signal.SIGINT)
        else:
            workers[1].kill()
        stdout, stderr = launcher.communicate(timeout=200)
    assert not any(worker.is_running() for worker in workers)
    return subprocess.CompletedProcess(command, launcher.returncode, stdout, stderr)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_two_processes_that_were_stopped_go_on_bit_for_bit(
    how: str, tmp_path: Path, model_folder: Path, config: Path, undisturbed: Recipe
) -> None:
    recipe = long_recipe(tmp_path, model_folder)
    done = end_with(how, recipe, tmp_path, config)
    n_done = max(row["step"] for row in metrics(recipe))
    assert n_done < LONG["steps"]
    if how == "ctrl-c":
        assert done.returncode == 130, done.stderr[-4000:]
        assert done.stdout.count("Interrupted; all that was done is kept.") == 1
        assert f"--accelerate-config {config} --resume" in done.stdout
        assert not complaints(done)
        assert "Traceback" not in done.stderr
    else:
        assert done.returncode == 1
        (line,) = complaints(done)
        assert "Process 1 of 2 was ended by SIGKILL" in line
    resumed = run([*launched(tmp_path, config), "--resume"], tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-4000:]
    assert metrics(recipe) == metrics(undisturbed)
    ours, theirs = weights(recipe), weights(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert predictions(recipe, "qtha") == predictions(undisturbed, "qtha")


@pytest.mark.slow
def test_two_processes_send_the_circuits_of_one_and_none_twice(
    tmp_path: Path, model_folder: Path
) -> None:
    """The same weights need the same circuits, whatever the rows: one process submits, both read."""
    recipes = {}
    for name, batch_size in (("one", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        recipes[name] = hardware_recipe(
            tmp_path / name, model_folder, training={"batch_size": batch_size}
        )
    train(recipes["one"])
    written(tmp_path / "recipe.yaml", recipes["two"].to_yaml())
    done = run(LAUNCHERS["torchrun"], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert sent_by(tmp_path / "two") == sent_by(tmp_path / "one")
    journal = Journal(tmp_path / "two" / "jobs.sqlite")
    rows = journal.rows()
    journal.close()
    assert {row.state for row in rows} == {State.FINISHED}
    assert len({row.key for row in rows}) == len(rows)
    # Rounding moves the angles in their last digits, and a circuit's 200 shots are drawn by its angles: from the
    # second change of the weights on, the losses differ by shot noise.
    ours, theirs = ([row["loss"] for row in metrics(r) if "loss" in row] for r in recipes.values())
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-5)
    assert ours == pytest.approx(theirs, rel=1e-2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file .* Write one with: accelerate config"),
        ("a: [", "not a config of accelerate"),
        ("- 1", "not a config of accelerate: expected keys with values"),
        ({**ON_TWO_CPUS, "num_proceses": 2}, r"not a config of accelerate: .*num_proceses"),
        ({"num_processes": 2}, "`distributed_type` must be specified"),
        ({**ON_TWO_CPUS, "distributed_type": "MULTI_CPUS"}, "not a config .*'MULTI_CPUS'"),
        (
            {**ON_TWO_CPUS, "num_processes": "two"},
            "num_processes must be a whole number; got 'two'",
        ),
        ({**ON_TWO_CPUS, "num_processes": 0}, "num_processes is 0 on 1 machines"),
        (
            {"distributed_type": "DEEPSPEED", "num_processes": 2},
            "accelerate launch --config_file .* -m qpeft train",
        ),
        pytest.param(
            {"distributed_type": "MULTI_GPU", "num_processes": 4},
            "asks for 4 processes, one a GPU, but this machine has 0. Lower num_processes",
            marks=WITHOUT_GPUS,
        ),
        ({"distributed_type": "FSDP", "num_processes": 2}, "does not shard it .* MULTI_GPU"),
    ],
)
def test_a_config_that_cannot_be_used_is_told_before_anything_starts(
    content: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "accelerate.yaml"
    if content is not None:
        written(path, content)
    with pytest.raises(ConfigError, match=message):
        read_processes(path)


def test_a_sharded_launch_is_refused_whoever_starts_it(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="does not shard it"):
        train(make_recipe(tmp_path, model_folder, adapter=ADAPTER))
    assert not (tmp_path / "run").exists()


def test_the_processes_find_each_other_on_a_free_port(config: Path) -> None:
    found = read_processes(config)
    assert (found.n_here, found.n_all, found.first) == (2, 2, 0)
    assert found.environment["MASTER_ADDR"] == "127.0.0.1"
    assert found.environment["MASTER_PORT"] != read_processes(config).environment["MASTER_PORT"]


def test_the_second_machines_processes_come_after_the_firsts(tmp_path: Path) -> None:
    place = {"num_machines": 2, "machine_rank": 1, "main_process_ip": "10.0.0.1"}
    asked = {**ON_TWO_CPUS, "num_processes": 6, "main_process_port": 4711, **place}
    found = read_processes(written(tmp_path / "accelerate.yaml", asked))
    assert (found.n_here, found.n_all, found.first) == (3, 6, 3)
    assert (found.environment["MASTER_ADDR"], found.environment["MASTER_PORT"]) == (
        "10.0.0.1",
        "4711",
    )


def test_an_error_that_all_meet_is_shown_once_whatever_else_they_log(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "program"
    program.write_text(
        '#!/bin/sh\n[ "$RANK" = 0 ] && sleep 1\n'
        'echo "rank $RANK is connected" >&2\necho "qpeft: a run is there already" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert launch(config, ["train", "recipe.yaml"]) == 1
    assert capfd.readouterr().err.count("qpeft: a run is there already") == 1
