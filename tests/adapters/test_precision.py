"""Adapters work in every precision that models come in, and lose no more of it than they must."""

import pytest
import torch
from peft import get_peft_model
from tiny_bases import TOKENS, adapted, fresh_config, logits, sequence_loss, tiny_llama
from torch import nn

from qpeft.adapters.qtha import QthaAdapter


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("fusion", ["linear", "hadamard"])
def test_update_in_other_precisions_is_near_the_float32_one(
    dtype: torch.dtype, fusion: str
) -> None:
    torch.manual_seed(2)
    adapter = QthaAdapter(fresh_config(fusion=fusion), 12, 10, 4)
    x = torch.randn(6, 12)
    expected = adapter(x)
    update = adapter.to(dtype)(x.to(dtype))
    assert update.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float16: 5e-3, torch.float64: 1e-5}[dtype]
    error = (update.float() - expected).abs().max() / expected.abs().max()
    assert error < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_upcast", [True, False])
def test_adapters_of_a_half_precision_model_are_trained_in_float32(
    dtype: torch.dtype, is_upcast: bool
) -> None:
    torch.manual_seed(1)
    base = tiny_llama().to(dtype)
    model = get_peft_model(base, fresh_config(), autocast_adapter_dtype=is_upcast).train()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in trained.values()} == {torch.float32 if is_upcast else dtype}
    output = model(TOKENS, labels=TOKENS)
    assert output.logits.dtype == dtype
    output.loss.backward()
    for name, parameter in trained.items():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_float64_model_gets_a_float64_adapter() -> None:
    """PEFT raises only halves; the tensors of a float64 base stay float64 throughout."""
    model = adapted(tiny_llama().double())
    assert logits(model).dtype == torch.float64
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    assert {p.dtype for p in layer.qtha_adapter.parameters()} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_weights_are_contracted_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    adapter = QthaAdapter(fresh_config(), 12, 10, 4)
    x = torch.randn(6, 12)
    expected = adapter(x)
    with torch.autocast("cpu", dtype=dtype):
        (contracted,) = QthaAdapter.contract([adapter], QthaAdapter.bind_circuits([adapter]))
        update = adapter(x)
    assert contracted.down.dtype == contracted.up.dtype == torch.float32
    assert update.dtype == dtype
    assert (update.float() - expected).abs().max() / expected.abs().max() < 0.05
    update.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in adapter.parameters())


def test_training_under_autocast_follows_training_in_float32() -> None:
    losses = []
    for is_autocast in (False, True):
        model = adapted(tiny_llama(), init_weights=True).train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        for _ in range(4):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_autocast):
                loss = sequence_loss(model)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_input_of_another_precision_is_cast_and_the_result_is_the_base_layers() -> None:
    base = nn.Sequential(nn.Linear(12, 10)).to(torch.bfloat16)
    model = adapted(base, target_modules=["0"])
    result = model(torch.randn(3, 12).to(torch.bfloat16))
    assert result.dtype == torch.bfloat16
