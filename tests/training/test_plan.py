"""The plan counts what will really be trained."""

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PromptTuningConfig
from rich.console import Console
from tiny import make_recipe, make_tiny_model

from qpeft.adapters import QthaConfig
from qpeft.errors import ConfigError
from qpeft.recipe import ModelSpec, TrainingSpec
from qpeft.training import RichReporter, train
from qpeft.training.adapting import add_adapter, fingerprint
from qpeft.training.encoding import EncodedSplit
from qpeft.training.models import load_base
from qpeft.training.plan import (
    AdapterCount,
    count_adapted,
    count_adapter,
    count_steps,
    expected_memory,
    make_plan,
)

TARGETS = ["q_proj", "v_proj"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return load_base(ModelSpec(name=str(model_folder)))[0]


def qtha(**options: Any) -> QthaConfig:
    small = {"inner_width": 16, "bond_dim": 2, "target_modules": TARGETS}
    return QthaConfig(task_type="CAUSAL_LM", **{**small, **options})


CONFIGS = {
    "lora": LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=TARGETS),
    "ranks": LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=TARGETS, rank_pattern={"v_proj": 5}
    ),
    "head": LoraConfig(
        task_type="CAUSAL_LM", r=2, target_modules=TARGETS, modules_to_save=["lm_head"]
    ),
    "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "qtha": qtha(r=4, n_layers=2),
    "frozen": qtha(r=4, core="frozen"),
    "none": qtha(r=4, core="none"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_planned_counts_are_those_of_the_trained_model(model: Any, name: str) -> None:
    planned = count_adapter(model, CONFIGS[name])
    adapted = add_adapter(copy.deepcopy(model), copy.deepcopy(CONFIGS[name]))
    assert planned == count_adapted(adapted)
    n_trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert planned.n_trainable == n_trainable


def test_lora_at_the_same_rank_is_lora_built(model: Any) -> None:
    for name, ranks in (("qtha", {}), ("ranked", {"rank_pattern": {"v_proj": 2}})):
        counted = count_adapter(model, qtha(r=4, **ranks))
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=TARGETS, **ranks)
        assert counted.n_lora == count_adapter(model, lora).n_trainable, name


def test_circuits_and_angles_are_counted_by_hand(model: Any) -> None:
    # 2 layers x (q, v) = 4 modules; 4 n L angles a circuit; one circuit for each group.
    whole = count_adapter(model, qtha(r=4, n_layers=3))
    assert (whole.n_modules, whole.n_circuits, whole.n_qubits) == (4, 4, 4)
    assert whole.n_circuit_angles == 4 * (4 * 4 * 3)
    grouped = count_adapter(model, qtha(r=4, groups=2))
    assert (grouped.n_circuits, grouped.n_qubits) == (8, 2)
    frozen = count_adapter(model, qtha(r=4, core="frozen"))
    assert (frozen.n_circuits, frozen.n_circuit_angles) == (4, 0)
    none = count_adapter(model, qtha(r=4, core="none"))
    assert (none.n_circuits, none.n_qubits, none.n_circuit_angles) == (0, 0, 0)


def test_saving_is_the_share_of_loras_parameters() -> None:
    assert AdapterCount(24, 0, 1, 100, 0, 0).saving == pytest.approx(0.76)
    assert AdapterCount(24, 0, 1, None, 0, 0).saving is None


def test_planning_leaves_model_and_configuration_alone(model: Any) -> None:
    before, names = fingerprint(model), set(model.__dict__)
    config = LoraConfig(task_type="CAUSAL_LM", r=2)
    count_adapter(model, config)
    assert fingerprint(model) == before
    assert set(model.__dict__) == names
    assert config.target_modules is None


@pytest.mark.parametrize("option", ["target_modules", "modules_to_save"])
def test_a_module_that_is_not_there_is_named_with_the_nearest(model: Any, option: str) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, **{option: ["q_porj"]})
    with pytest.raises(ConfigError, match=r"'q_porj'\. Did you mean 'q_proj'\?"):
        count_adapter(model, config)


def test_a_pattern_that_matches_nothing_is_one_line(model: Any) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=r".*\.nothing")
    with pytest.raises(ConfigError, match="does not fit the model") as error:
        count_adapter(model, config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("training", "n_steps"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 1.0, "batch_size": 4}, 11),
        ({"epochs": 2.0, "batch_size": 4, "gradient_accumulation": 3}, 8),
        ({"epochs": 0.5, "batch_size": 44}, 1),
    ],
)
def test_steps_of_epochs_cover_the_data(training: dict[str, Any], n_steps: int) -> None:
    assert count_steps(TrainingSpec(**training), n_rows=44) == n_steps


def test_the_plan_adds_up(model: Any, model_folder: Path, tmp_path: Path) -> None:
    recipe = make_recipe(
        tmp_path,
        model_folder,
        baselines=[{"method": "qtha", "r": 4}],
        training={"gradient_accumulation": 2},
    )
    train_split = EncodedSplit([([1] * 6, [2] * 2), ([1] * 3, [2])], n_dropped=5)
    splits = {"train": train_split, "validation": EncodedSplit([])}
    plan = make_plan(recipe, model, splits, {"lora": CONFIGS["lora"], "qtha": CONFIGS["qtha"]})
    assert [(arm.name, arm.method) for arm in plan.arms] == [("lora", "lora"), ("qtha", "qtha")]
    assert plan.n_tokens == 8 * (8 + 4) // 2
    assert plan.n_examples == {"train": 2, "validation": 0}
    assert (plan.n_steps, plan.n_dropped) == (6, 5)
    assert plan.n_base == sum(p.numel() for p in model.parameters())


def test_expected_memory_counts_weights_and_adam_exactly(model: Any) -> None:
    spec = TrainingSpec(steps=1, batch_size=1)
    more = expected_memory(model, 1000, spec, 8) - expected_memory(model, 0, spec, 8)
    assert more == 16 * 1000
    n_weights = sum(p.numel() for p in [*model.parameters(), *model.buffers()])
    assert expected_memory(model, 0, spec, 0) == 4 * n_weights


def test_checkpointing_is_expected_to_need_less(model: Any) -> None:
    plain = TrainingSpec(steps=1)
    saving = TrainingSpec(steps=1, gradient_checkpointing=True)
    assert expected_memory(model, 0, saving, 64) < expected_memory(model, 0, plain, 64)


def test_the_terminal_shows_plan_progress_and_results(tmp_path: Path, model_folder: Path) -> None:
    console = Console(record=True, width=80, file=io.StringIO())
    adapter = {"method": "qtha", "r": 4, "target_modules": TARGETS}
    lora = {"method": "lora", "r": 4, "target_modules": TARGETS}
    recipe = make_recipe(
        tmp_path, model_folder, adapter=adapter, baselines=[lora], training={"steps": 3}
    )
    train(recipe, reporter=RichReporter(console))
    text = console.export_text()
    count = count_adapter(load_base(recipe.model)[0], qtha(r=4, inner_width=256, bond_dim=8))
    assert f"{count.n_trainable:,}" in text
    assert "of them circuit angles" in text
    assert "validation loss" in text
    assert "10 test examples" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_expected_memory_is_within_a_factor_of_two() -> None:
    # The high-water mark of a process never falls, so the step is measured in one of its own.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE_MEMORY],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, expected = map(int, done.stdout.split()[-2:])
    assert grown / 2 < expected < grown * 2


MEASURE_MEMORY = """
import torch
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM
from qpeft.recipe import TrainingSpec
from qpeft.training.adapting import add_adapter
from qpeft.training.plan import expected_memory

def peak():
    # Not getrusage: its high-water mark is taken over from the parent.
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

config = LlamaConfig(vocab_size=8000, hidden_size=256, intermediate_size=768,
                     num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4)
model = LlamaForCausalLM(config)
lora = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
adapted = add_adapter(model, lora)
ids = torch.randint(0, 8000, (8, 256))
before = peak()
adapted(input_ids=ids, labels=ids, use_cache=False).loss.backward()
grown = peak() - before
spec = TrainingSpec(steps=1, batch_size=8)
print(grown, int(expected_memory(model, 0, spec, 256) - model.get_memory_footprint()))
"""
