"""QTHA on a base in 8 or 4 bit, where the quantisation library runs on this machine."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, prepare_model_for_kbit_training
from tiny_bases import TOKENS, adapted, logits
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from qpeft.adapters.qtha import QthaLinear
from qpeft.errors import MergeError

pytestmark = pytest.mark.filterwarnings("ignore")  # of the quantisation libraries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=64,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def bitsandbytes_8_bit() -> Any:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def bitsandbytes_4_bit() -> Any:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)


def torchao_int8() -> Any:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(quant_type=Int8WeightOnlyConfig())


QUANTISATIONS = {
    "bitsandbytes-8bit": bitsandbytes_8_bit,
    "bitsandbytes-4bit": bitsandbytes_4_bit,
    "torchao-int8": torchao_int8,
}


def load(folder: Path, quantisation: str | None) -> PreTrainedModel:
    config = QUANTISATIONS[quantisation]() if quantisation else None
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}
    ).eval()


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_an_adapter_on_a_quantised_base_trains_saves_and_loads(
    folder: Path, quantisation: str, tmp_path: Path
) -> None:
    base = load(folder, quantisation)
    plain = logits(base)
    model = adapted(prepare_model_for_kbit_training(base, use_gradient_checkpointing=False))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, QthaLinear)
    assert layer.quantization_backend is not None
    assert "quantization_backend=" in repr(layer)
    assert all(p.is_floating_point() for p in layer.qtha_adapter.parameters())
    changed = logits(model)
    assert not torch.allclose(changed, plain, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), plain, rtol=1e-4, atol=1e-4)

    model.train()
    model(TOKENS, labels=TOKENS).loss.backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(".qtha_adapter." in name for name in trained)
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    with pytest.raises(MergeError):
        model.merge_and_unload()

    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(load(folder, quantisation), tmp_path).eval()
    torch.testing.assert_close(logits(loaded), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantisation", QUANTISATIONS)
def test_the_update_is_that_of_an_unquantised_base(folder: Path, quantisation: str) -> None:
    updates = []
    x = torch.randn(3, 64)
    for kind in (None, quantisation):
        layer = adapted(load(folder, kind)).base_model.model.model.layers[1].self_attn.v_proj
        with torch.no_grad():
            updates.append(layer(x) - layer.base_layer(x))
    assert updates[0].abs().max() > 0.1
    torch.testing.assert_close(updates[1], updates[0], rtol=1e-4, atol=1e-4)
