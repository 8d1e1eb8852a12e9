"""What is kept between evaluation passes is never older than the weights."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from tiny_bases import adapted, fresh_config, logits, sequence_loss, tiny_llama
from torch import nn

from qpeft.adapters.qtha import QthaAdapter


def adapters_of(model: nn.Module) -> list[QthaAdapter]:
    return [module for module in model.modules() if isinstance(module, QthaAdapter)]


def optimiser_step(model: PeftModel) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sequence_loss(model).backward()
    optimizer.step()
    model.eval()


def optimiser_step_behind_the_version_counters(model: PeftModel) -> None:
    """As FSDP does: the weights' storage is overwritten and no version counter moves."""
    model.train()
    sequence_loss(model).backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad(), torch.autograd._unsafe_preserve_version_counter(tuple(parameters)):
        for parameter in parameters:
            parameter -= 0.1 * parameter.grad
    model.eval()


def in_place_change(model: PeftModel) -> None:
    with torch.no_grad():
        adapters_of(model)[0].core.angles += 1


def load_adapter_weights(model: PeftModel) -> None:
    state = {k: v + 0.1 for k, v in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(model, state)


def load_state_dict(model: PeftModel) -> None:
    state = {k: v + 0.1 if "qtha" in k else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)


def load_state_dict_by_assignment(model: PeftModel) -> None:
    state = {k: v + 0.1 if "qtha" in k else v for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


CHANGES = [
    optimiser_step,
    optimiser_step_behind_the_version_counters,
    in_place_change,
    load_adapter_weights,
    load_state_dict,
    load_state_dict_by_assignment,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_pass_sees_every_change_of_the_weights(
    change: Callable[[PeftModel], None], mode: Callable[[], object]
) -> None:
    model = adapted(tiny_llama())
    with mode():
        before = model(torch.tensor([[1, 2, 3]])).logits.clone()
        assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, before)
    change(model)
    with mode():
        after = model(torch.tensor([[1, 2, 3]])).logits.clone()
    for adapter in adapters_of(model):
        adapter._cache.clear()
    with mode():
        fresh = model(torch.tensor([[1, 2, 3]])).logits
    assert torch.equal(after, fresh)
    assert not torch.allclose(after, before)


def test_evaluation_contracts_once_and_training_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tiny_llama())
    at_once: list[int] = []
    contract = QthaAdapter.contract

    def counted(adapters: list[QthaAdapter], circuits: dict[int, object]) -> object:
        at_once.append(len(adapters))
        return contract(adapters, circuits)

    monkeypatch.setattr(QthaAdapter, "contract", staticmethod(counted))
    for _ in range(3):
        logits(model)
    assert at_once == [2, 2]  # the query projections of both layers, then the value projections
    model.train()
    for _ in range(3):
        sequence_loss(model).backward()
    assert at_once == [2, 2] * 4


def test_nothing_of_a_pass_outlives_it() -> None:
    model = adapted(tiny_llama()).train()
    sequence_loss(model)
    assert all(adapter.prepared is None for adapter in adapters_of(model))
    with pytest.raises(IndexError):
        model(torch.tensor([[10_000]]))
    assert all(adapter.prepared is None for adapter in adapters_of(model))


def test_one_adapter_alone_gives_the_same_as_all_prepared_together() -> None:
    model = adapted(tiny_llama())
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    seen = []
    layer.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    model(torch.tensor([[1, 2, 3]]))
    x, together = seen[0]
    alone = layer(x)
    torch.testing.assert_close(alone, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_equal_and_independent(copy_of: Callable[[nn.Module], nn.Module]) -> None:
    model = adapted(tiny_llama())
    before = logits(model)
    other = copy_of(model)
    assert torch.equal(logits(other), before)
    in_place_change(other)
    assert not torch.allclose(logits(other), before)
    assert torch.equal(logits(model), before)


def test_switching_adapters_switches_what_is_kept() -> None:
    model = adapted(tiny_llama())
    torch.manual_seed(7)
    model.add_adapter("other", fresh_config(r=3))
    first = logits(model)
    model.set_adapter("other")
    second = logits(model)
    assert not torch.allclose(first, second)
    model.set_adapter("default")
    assert torch.equal(logits(model), first)


def test_unload_takes_every_trace_off_the_base_model(tmp_path: Path) -> None:
    base = tiny_llama()
    expected, keys = logits(base), list(base.state_dict())
    model = adapted(base)
    assert not torch.allclose(logits(model), expected)
    unloaded = model.unload()
    assert unloaded is base
    assert torch.equal(logits(unloaded), expected)
    assert list(unloaded.state_dict()) == keys
    assert not any("qpeft" in type(module).__module__ for module in unloaded.modules())
    assert not unloaded._forward_pre_hooks
    assert not unloaded._forward_hooks
    assert not unloaded._forward_hooks_always_called
