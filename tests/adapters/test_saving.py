"""Saved adapters are small, without pickle, without the adapter's name, and load everywhere that PEFT's do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
)
from safetensors.torch import load_file
from tiny_bases import TOKENS, adapted, fresh_config, logits, tiny_gpt2, tiny_llama
from transformers import AutoModelForCausalLM

from qpeft.layers import QuantumLayer

IN_A_NEW_PROCESS = """
import sys, torch
{imports}
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokens = torch.tensor({tokens})
with torch.no_grad():
    torch.save(model(tokens).logits, sys.argv[2])
"""
IMPORT_ORDERS = ["import qpeft\nimport peft", "import peft\nimport qpeft"]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A saved base model with a saved adapter, and the logits of both together."""
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    model = adapted(base, core="frozen", task_type="CAUSAL_LM")
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", logits(model)


def test_adapter_file_is_small_and_names_no_adapter(tmp_path: Path) -> None:
    model = adapted(tiny_llama())
    model.add_adapter("other", fresh_config(r=2))
    model.save_pretrained(tmp_path)
    for folder, name in ((tmp_path, "default"), (tmp_path / "other", "other")):
        files = {path.name for path in folder.iterdir() if path.is_file()}
        assert files - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors"}
        tensors = load_file(folder / "adapter_model.safetensors")
        n_trained = sum(
            p.numel() for n, p in model.named_parameters() if f".qtha_adapter.{name}." in n
        )
        assert sum(tensor.numel() for tensor in tensors.values()) == n_trained
        assert (folder / "adapter_model.safetensors").stat().st_size < 4 * n_trained + 8_000
        for key in tensors:
            assert ".qtha_adapter." in key
            assert "default" not in key.split(".")
            assert "other" not in key.split(".")


def test_keys_of_a_saved_adapter_are_these() -> None:
    """Files that users have must stay readable: a change here needs a way to read the old names."""
    model = adapted(tiny_llama(), target_modules=["v_proj"], layers_to_transform=1)
    layer = "base_model.model.model.layers.1.self_attn.v_proj.qtha_adapter"
    assert set(get_peft_model_state_dict(model)) == {
        f"{layer}.{name}"
        for name in [
            "A",
            "B",
            "C",
            "Q",
            "core.angles",
            "down.cores.0",
            "down.cores.1",
            "up.cores.0",
            "up.cores.1",
        ]
    }


@pytest.mark.parametrize(
    "core", ["quantum", "none", "constant", "mlp", "product", "frozen", "fourier"]
)
def test_a_loaded_adapter_is_the_saved_one(core: str, tmp_path: Path) -> None:
    model = adapted(tiny_llama(), core=core, modules_to_save=["lm_head"], r=2)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(logits(loaded), logits(model))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    torch.manual_seed(98)
    lean = PeftModel.from_pretrained(tiny_llama(), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(lean), logits(model))


def test_the_backend_can_be_changed_at_load(tmp_path: Path) -> None:
    """Where the circuits run is no part of what was trained."""
    model = adapted(tiny_llama(), layers_to_transform=0)
    model.save_pretrained(tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    config.backend = "reference"
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, config=config)
    layers = [module for module in loaded.modules() if isinstance(module, QuantumLayer)]
    assert {layer.evaluation.name for layer in layers} == {"reference"}
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_training_goes_on_from_a_loaded_adapter(tmp_path: Path) -> None:
    adapted(tiny_llama()).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True).train()
    loaded(TOKENS, labels=TOKENS).loss.backward()
    trained = [p for n, p in loaded.named_parameters() if ".qtha_adapter." in n]
    assert all(p.requires_grad and p.grad.any() for p in trained)


def test_an_adapter_loads_under_another_name_beside_the_first(tmp_path: Path) -> None:
    adapted(tiny_llama(), seed=5).save_pretrained(tmp_path)
    expected = logits(PeftModel.from_pretrained(tiny_llama(), tmp_path))
    model = adapted(tiny_llama())
    for name in ("other", "q_proj"):  # the second is also the name of a module
        result = model.load_adapter(tmp_path, adapter_name=name)
        assert not result.unexpected_keys
        assert not [key for key in result.missing_keys if f".qtha_adapter.{name}." in key]
        model.set_adapter(name)
        assert torch.equal(logits(model), expected)


def test_conv1d_adapters_come_back(tmp_path: Path) -> None:
    model = adapted(tiny_gpt2())
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_gpt2(), tmp_path)), logits(model))


def test_auto_model_finds_base_and_adapter(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    model = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    assert torch.equal(logits(model), expected)


def test_transformers_loads_the_adapter_without_a_peft_model(
    saved: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    folder, expected = saved
    base = AutoModelForCausalLM.from_pretrained(folder.parent / "base").eval()
    plain = logits(base)
    base.load_adapter(str(folder))
    assert torch.equal(logits(base), expected)
    base.disable_adapters()
    assert torch.equal(logits(base), plain)
    base.enable_adapters()
    base.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/adapter_config.json").read_text())["peft_type"] == "QTHA"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(logits(again), expected)


def test_transformers_adds_a_fresh_adapter() -> None:
    base = tiny_llama()
    plain = logits(base)
    torch.manual_seed(1)
    base.add_adapter(fresh_config(target_modules=["q_proj"]), adapter_name="fresh")
    assert base.active_adapters() == ["fresh"]
    assert not torch.allclose(logits(base), plain)


@pytest.mark.slow
def test_new_processes_load_it_whatever_is_imported_first(
    saved: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    folder, expected = saved
    processes = []
    for i, imports in enumerate(IMPORT_ORDERS):
        code = IN_A_NEW_PROCESS.format(imports=imports, tokens=TOKENS.tolist())
        command = [sys.executable, "-c", code, str(folder), str(tmp_path / f"{i}.pt")]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for i, process in enumerate(processes):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert torch.equal(torch.load(tmp_path / f"{i}.pt"), expected)
