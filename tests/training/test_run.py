"""A recipe is trained, evaluated, recorded; stopped and taken up again."""

import json
import math
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_recipe, make_tiny_model

from qpeft.errors import QpeftError, RecipeError
from qpeft.recipe import load_recipe
from qpeft.training import run, train, trainer
from qpeft.training.adapting import fingerprint
from qpeft.training.record import newest_checkpoint
from qpeft.training.reporter import SilentReporter

QTHA = {
    "method": "qtha",
    "r": 4,
    "inner_width": 16,
    "bond_dim": 2,
    "dropout": 0.1,
    "target_modules": ["q_proj", "v_proj"],
}
DRY = {**QTHA, "dropout": 0.0}
LORA = {"method": "lora", "r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


class Steps(SilentReporter):
    """Remembers what it is told, and does something after a step."""

    def __init__(self, after: int = 0, do: Callable[[], Any] | None = None) -> None:
        self.steps: list[int] = []
        self.stages: list[str] = []
        self._after, self._do = after, do

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def step(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        self.steps.append(step)
        if step == self._after and self._do is not None:
            self._do()


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def metrics(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_every_promised_file(tmp_path: Path, model_folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(make_recipe(tmp_path, model_folder, adapter=QTHA, baselines=[LORA]))
    out = tmp_path / "run"
    for arm in ("qtha", "lora"):
        names = {path.name for path in (out / arm).iterdir()}
        assert names == {
            "adapter_model.safetensors",
            "adapter_config.json",
            "README.md",
            "metrics.jsonl",
            "checkpoints",
        }
        kept = sorted(path.name for path in (out / arm / "checkpoints").iterdir())
        assert kept == ["checkpoint-4", "checkpoint-6"]
        steps = [row["step"] for row in metrics(out / arm) if "loss" in row]
        assert steps == [1, 2, 3, 4, 5, 6]
        checked = [row["step"] for row in metrics(out / arm) if "validation_loss" in row]
        assert checked == [3, 6]
    for arm in ("base", "qtha", "lora"):
        rows = (out / "predictions" / f"{arm}-0shot.jsonl").read_text().splitlines()
        assert len(rows) == 10
        assert json.loads(rows[0]).keys() == {"prompt", "expected", "text", "score"}
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["versions"]["torch"] == torch.__version__
    assert len(provenance["data_hashes"]) == 1
    assert load_recipe(out / "recipe.yaml").training.steps == 6
    assert json.loads((out / "results.json").read_text())["status"] == "finished"
    assert list(result.evaluations) == ["base", "qtha", "lora"]
    assert not result.is_interrupted
    assert not list(out.rglob("*.partial"))


def test_training_lowers_the_loss_on_held_out_sums(tmp_path: Path, model_folder: Path) -> None:
    adapter = {"method": "lora", "r": 4, "target_modules": "all-linear"}
    training = {"steps": 40, "learning_rate": 0.05}
    evaluations = train(
        make_recipe(tmp_path, model_folder, adapter=adapter, training=training)
    ).evaluations
    assert evaluations["lora"][0].loss < evaluations["base"][0].loss - 1


@pytest.mark.parametrize("adapter", [LORA, QTHA], ids=["lora", "qtha"])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, model_folder: Path, adapter: dict[str, Any]
) -> None:
    whole, parted = (
        make_recipe(
            tmp_path,
            model_folder,
            adapter=adapter,
            training={"save_every": None, "gradient_accumulation": 2},
            output_dir=str(tmp_path / name),
        )
        for name in ("whole", "parted")
    )
    expected = train(whole)
    first = train(parted, reporter=Steps(after=3, do=interrupt))
    assert first.is_interrupted
    assert json.loads((tmp_path / "parted" / "results.json").read_text())["status"] == "interrupted"
    steps = Steps()
    second = train(parted, resume=True, reporter=steps)
    assert steps.steps == [5, 6]
    assert not second.is_interrupted
    arm = adapter["method"]
    assert metrics(tmp_path / "whole" / arm) == metrics(tmp_path / "parted" / arm)
    assert same(weights(tmp_path / "whole" / arm), weights(tmp_path / "parted" / arm))
    assert second.evaluations[arm][0].predictions == expected.evaluations[arm][0].predictions


def test_a_killed_run_goes_on_from_its_newest_whole_checkpoint(
    tmp_path: Path, model_folder: Path
) -> None:
    def die() -> None:
        raise RuntimeError("killed")

    recipe = make_recipe(tmp_path, model_folder)
    with pytest.raises(RuntimeError, match="killed"):
        train(recipe, reporter=Steps(after=5, do=die))
    checkpoints = tmp_path / "run" / "lora" / "checkpoints"
    torn = checkpoints / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_st')
    found = newest_checkpoint(checkpoints, n_steps=6)
    assert found is not None
    assert found.name == "checkpoint-4"
    steps = Steps()
    train(recipe, resume=True, reporter=steps)
    assert steps.steps == [5, 6]
    logged = [row["step"] for row in metrics(tmp_path / "run" / "lora") if "loss" in row]
    assert logged == [1, 2, 3, 4, 5, 6]


def test_ctrl_c_during_an_evaluation_keeps_what_is_finished(
    tmp_path: Path, model_folder: Path
) -> None:
    class StopInEvaluation(Steps):
        def progress(self, done: int, total: int) -> None:
            if self.stages[-1].startswith("evaluate lora"):
                raise KeyboardInterrupt

    recipe = make_recipe(tmp_path, model_folder)
    assert train(recipe, reporter=StopInEvaluation()).is_interrupted
    steps = Steps()
    result = train(recipe, resume=True, reporter=steps)
    assert steps.steps == []
    assert steps.stages[1:] == ["load lora", "evaluate lora, 0 shots"]
    assert len(result.evaluations["lora"][0].predictions) == 10


def test_the_signal_handler_is_given_back_after_training(
    tmp_path: Path, model_folder: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(make_recipe(tmp_path, model_folder, training={"steps": 1}))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_repeats_nothing_when_resumed(tmp_path: Path, model_folder: Path) -> None:
    recipe = make_recipe(tmp_path, model_folder)
    first = train(recipe)
    steps = Steps()
    second = train(recipe, resume=True, reporter=steps)
    assert steps.steps == []
    assert len(steps.stages) == 1
    assert second.evaluations == first.evaluations


def test_resuming_with_other_stop_strings_evaluates_again(
    tmp_path: Path, model_folder: Path
) -> None:
    train(make_recipe(tmp_path, model_folder, training={"steps": 2}))
    changed = make_recipe(tmp_path, model_folder, training={"steps": 2}, evaluation={"stop": ["4"]})
    steps = Steps()
    train(changed, resume=True, reporter=steps)
    assert steps.steps == []
    assert [name for name in steps.stages if "evaluate" in name] == [
        "evaluate base, 0 shots",
        "evaluate lora, 0 shots",
    ]


@pytest.mark.slow
def test_more_steps_go_on_from_the_last_checkpoint(tmp_path: Path, model_folder: Path) -> None:
    train(make_recipe(tmp_path, model_folder))
    steps = Steps()
    train(make_recipe(tmp_path, model_folder, training={"steps": 8}), resume=True, reporter=steps)
    assert steps.steps == [7, 8]


@pytest.mark.slow
def test_fewer_steps_than_the_checkpoints_start_over(tmp_path: Path, model_folder: Path) -> None:
    train(make_recipe(tmp_path, model_folder))
    steps = Steps()
    shorter = make_recipe(tmp_path, model_folder, training={"steps": 3})
    train(shorter, resume=True, reporter=steps)
    assert steps.steps == [1, 2, 3]


def test_a_used_output_folder_is_refused_with_the_ways_out(
    tmp_path: Path, model_folder: Path
) -> None:
    recipe = make_recipe(tmp_path, model_folder, training={"steps": 1})
    train(recipe)
    with pytest.raises(QpeftError, match=r"--resume.*--overwrite.*output_dir") as error:
        train(recipe)
    assert "\n" not in str(error.value)


def test_overwriting_leaves_the_users_own_files(tmp_path: Path, model_folder: Path) -> None:
    recipe = make_recipe(tmp_path, model_folder, training={"steps": 1}, baselines=[QTHA])
    train(recipe)
    own = tmp_path / "run" / "notes.txt"
    own.write_text("mine")
    train(make_recipe(tmp_path, model_folder, training={"steps": 1}), overwrite=True)
    assert own.read_text() == "mine"
    assert not (tmp_path / "run" / "qtha").exists()


def test_resuming_with_another_recipe_names_the_changed_keys(
    tmp_path: Path, model_folder: Path
) -> None:
    train(make_recipe(tmp_path, model_folder, training={"steps": 1}))
    changed = make_recipe(
        tmp_path, model_folder, training={"steps": 2, "learning_rate": 0.5}, seed=3
    )
    with pytest.raises(RecipeError) as error:
        train(changed, resume=True)
    assert [line.split(":")[0] for line in error.value.problems] == [
        "seed",
        "training.learning_rate",
    ]


def test_resuming_with_other_data_is_refused(tmp_path: Path, model_folder: Path) -> None:
    recipe = make_recipe(tmp_path, model_folder, training={"steps": 1})
    train(recipe)
    with (tmp_path / "sums.jsonl").open("a") as file:
        file.write('{"a": 1, "b": 1, "sum": 2}\n')
    with pytest.raises(QpeftError, match="are not those that the run"):
        train(recipe, resume=True)


def test_an_adapter_cannot_be_called_like_the_base_model(
    tmp_path: Path, model_folder: Path
) -> None:
    recipe = make_recipe(tmp_path, model_folder, adapter={**LORA, "name": "base"})
    with pytest.raises(RecipeError, match="'base' is used by the output folder"):
        train(recipe)


def test_every_arm_sees_the_same_batches_in_the_same_order(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    real = trainer.completion_loss_sum

    def spy(model: Any, inputs: Any, labels: torch.Tensor) -> Any:
        if model.training:
            seen.append(inputs["input_ids"].clone())
        return real(model, inputs, labels)

    monkeypatch.setattr(trainer, "completion_loss_sum", spy)
    # 15 steps pass the end of the 44 training rows, where a new order begins.
    train(
        make_recipe(tmp_path, model_folder, adapter=QTHA, baselines=[LORA], training={"steps": 15})
    )
    first, second = seen[:15], seen[15:]
    assert len(second) == 15
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[11])


@pytest.mark.slow
def test_an_arm_is_the_same_whatever_was_trained_before_it(
    tmp_path: Path, model_folder: Path
) -> None:
    alone = make_recipe(tmp_path, model_folder, adapter=LORA, output_dir=str(tmp_path / "alone"))
    after = make_recipe(tmp_path, model_folder, adapter=QTHA, baselines=[LORA])
    train(alone)
    train(after)
    assert same(weights(tmp_path / "alone" / "lora"), weights(tmp_path / "run" / "lora"))


@pytest.mark.parametrize(
    "baseline",
    [
        QTHA,
        {"method": "dora", "r": 2},
        {"method": "prompt_tuning", "num_virtual_tokens": 3},
        pytest.param(
            {**LORA, "name": "head", "modules_to_save": ["lm_head"]}, marks=pytest.mark.slow
        ),
        {**LORA, "name": "pissa", "init_lora_weights": "pissa"},
    ],
    ids=lambda spec: spec.get("name", spec["method"]),
)
def test_an_arm_gives_the_base_weights_back_bit_for_bit(
    tmp_path: Path,
    model_folder: Path,
    baseline: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Any] = []
    real = run._Run.go
    monkeypatch.setattr(run._Run, "go", lambda self: (runs.append(self), real(self))[1])
    training = {"steps": 2, "gradient_checkpointing": baseline["method"] == "dora"}
    train(make_recipe(tmp_path, model_folder, adapter=baseline, training=training))
    model = runs[0].model
    assert fingerprint(model) == runs[0].base_bits
    assert "forward" not in model.__dict__
    assert not hasattr(model, "peft_config")


def test_the_fingerprint_sees_one_changed_bit(model_folder: Path) -> None:
    layer = torch.nn.Linear(8, 8)
    before = fingerprint(layer)
    with torch.no_grad():
        layer.weight.view(torch.int32)[3, 3] ^= 1
    assert fingerprint(layer) != before


def test_our_cpu_loss_equals_that_of_the_whole_vocabulary(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TRL's own loss scores every position with its fused head: a second opinion on ours.
    ours = make_recipe(tmp_path, model_folder, adapter=LORA, output_dir=str(tmp_path / "ours"))
    train(ours)
    parent = trainer._Trainer.__mro__[1]
    monkeypatch.setattr(trainer._Trainer, "compute_loss", parent.compute_loss)
    train(make_recipe(tmp_path, model_folder, adapter=LORA, output_dir=str(tmp_path / "trl")))
    for a, b in zip(
        metrics(tmp_path / "ours" / "lora"), metrics(tmp_path / "trl" / "lora"), strict=True
    ):
        assert a.keys() == b.keys()
        assert all(a[key] == pytest.approx(b[key], rel=1e-3) for key in a)


@pytest.mark.slow
def test_gradient_accumulation_weighs_every_completion_token_the_same(
    tmp_path: Path, model_folder: Path
) -> None:
    rows = []
    for name, sizes in (("one", (8, 1)), ("two", (4, 2)), ("four", (2, 4))):
        training = {"steps": 2, "batch_size": sizes[0], "gradient_accumulation": sizes[1]}
        recipe = make_recipe(
            tmp_path, model_folder, training=training, output_dir=str(tmp_path / name)
        )
        train(recipe)
        rows.append(metrics(tmp_path / name / "lora")[0])
    assert rows[0]["tokens"] == rows[1]["tokens"] == rows[2]["tokens"]
    for row in rows[1:]:
        assert row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
        assert row["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_packed_rows_do_not_see_each_other(tmp_path: Path, model_folder: Path) -> None:
    # One optimiser step over all 44 rows, packed or padded: the same loss.
    losses = []
    for name, training in (
        ("padded", {"batch_size": 44}),
        ("packed", {"batch_size": 1, "packing": True, "max_length": 2048}),
    ):
        recipe = make_recipe(
            tmp_path,
            model_folder,
            training={"steps": 1, "evaluate_every": None, **training},
            output_dir=str(tmp_path / name),
        )
        train(recipe)
        losses.append(metrics(tmp_path / name / "lora")[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_loss_on_all_trains_the_prompt_too(tmp_path: Path, model_folder: Path) -> None:
    on_completion = make_recipe(tmp_path, model_folder, training={"steps": 1})
    on_all = make_recipe(
        tmp_path,
        model_folder,
        training={"steps": 1, "loss_on": "all"},
        output_dir=str(tmp_path / "all"),
    )
    a, b = train(on_completion), train(on_all)
    assert not same(weights(a.output_dir / "lora"), weights(b.output_dir / "lora"))


@pytest.mark.slow
def test_early_stopping_keeps_the_best_adapter(tmp_path: Path, model_folder: Path) -> None:
    training = {
        "steps": 40,
        "learning_rate": 0.3,
        "evaluate_every": 2,
        "early_stopping": 2,
        "schedule": "constant",
    }
    recipe = make_recipe(tmp_path, model_folder, training=training)
    train(recipe)
    out = tmp_path / "run" / "lora"
    rows = metrics(out)
    checked = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert max(checked) < 40
    best = min(checked, key=lambda step: checked[step])
    assert max(checked) == best + 4
    assert same(weights(out), weights(out / "checkpoints" / f"checkpoint-{best}"))


def test_a_loss_that_is_no_number_stops_the_run(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.completion_loss_sum
    calls = iter(range(100))

    def broken(*args: Any) -> Any:
        loss, n_tokens = real(*args)
        return (loss * math.nan if next(calls) == 2 else loss), n_tokens

    monkeypatch.setattr(trainer, "completion_loss_sum", broken)
    with pytest.raises(QpeftError, match="The loss is nan at step 3"):
        train(make_recipe(tmp_path, model_folder))


def test_a_run_without_a_test_split_trains_all_the_same(tmp_path: Path, model_folder: Path) -> None:
    recipe = make_recipe(tmp_path, model_folder, data={"n_test": None, "n_validation": None})
    result = train(recipe)
    assert result.evaluations == {"base": [], "lora": []}
    assert "no test split" in (tmp_path / "run" / "lora" / "README.md").read_text()


def test_tensorboard_files_lie_beside_the_adapter(tmp_path: Path, model_folder: Path) -> None:
    pytest.importorskip("tensorboard")
    train(make_recipe(tmp_path, model_folder, training={"steps": 1, "loggers": ["tensorboard"]}))
    assert list((tmp_path / "run" / "lora" / "tensorboard").glob("events*"))


def test_a_logger_that_is_not_installed_is_named(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    recipe = make_recipe(tmp_path, model_folder, training={"loggers": ["comet_ml"]})
    with pytest.raises(QpeftError, match="pip install comet-ml"):
        train(recipe)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_the_trained_adapter_loads_through_peft(tmp_path: Path, model_folder: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    train(make_recipe(tmp_path, model_folder, adapter=QTHA))
    folder = tmp_path / "run" / "qtha"
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
    n_saved = sum(tensor.numel() for tensor in weights(folder).values())
    n_planned = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]["qtha"]
    assert n_saved == n_planned["parameters"]["n_trainable"]
    assert model.active_adapter == "default"


@pytest.mark.slow
def test_two_processes_train_like_one_with_their_batches_together(
    tmp_path: Path, model_folder: Path
) -> None:
    one = make_recipe(tmp_path, model_folder, adapter=DRY, output_dir=str(tmp_path / "one"))
    train(one)
    two = make_recipe(
        tmp_path,
        model_folder,
        adapter=DRY,
        training={"batch_size": 2},
        output_dir=str(tmp_path / "two"),
    )
    (tmp_path / "two.yaml").write_text(two.to_yaml())
    (tmp_path / "job.py").write_text(
        "from qpeft.recipe import load_recipe\n"
        "from qpeft.training import train\n"
        f"train(load_recipe({str(tmp_path / 'two.yaml')!r}))\n"
    )
    # --standalone: a free port, whatever else runs on this machine.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*launch, str(tmp_path / "job.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for a, b in zip(
        metrics(tmp_path / "one" / "qtha"), metrics(tmp_path / "two" / "qtha"), strict=True
    ):
        assert a.keys() == b.keys()
        # Validation is a mean over batches, which two processes cut differently.
        close = {"validation_loss": 1e-2}
        assert all(a[key] == pytest.approx(b[key], rel=close.get(key, 1e-4)) for key in a)


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_numbers_twice(tmp_path: Path, model_folder: Path) -> None:
    first, second = (
        train(make_recipe(tmp_path, model_folder, adapter=QTHA, output_dir=str(tmp_path / name)))
        for name in ("one", "two")
    )
    assert metrics(first.output_dir / "qtha") == metrics(second.output_dir / "qtha")
    assert math.isfinite(first.evaluations["qtha"][0].loss)
    assert first.evaluations["qtha"][0].loss == second.evaluations["qtha"][0].loss
