"""QTHA fits each family of base models as LoRA does: default targets, training, saving, generating."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_bases import SIZES
from tiny_families import FAMILIES, Family
from torch import Tensor, nn
from transformers import PreTrainedModel

from qpeft import QthaConfig
from qpeft.adapters.qtha import QthaLinear
from qpeft.adapters.registration import default_targets
from qpeft.errors import ConfigError

# What PEFT and transformers say to each other of Conv1D and of checkpointing's new name.
pytestmark = [
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False"),
    pytest.mark.filterwarnings("ignore:.*activation_checkpointing_enable"),
]
GENERATES = [name for name, family in FAMILIES.items() if family.task_type != "SEQ_CLS"]
DECODES = [name for name, family in FAMILIES.items() if family.task_type == "CAUSAL_LM"]


@pytest.fixture
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


def config(family: Family, **options: Any) -> QthaConfig:
    """The configuration a user writes: no targets where PEFT knows them."""
    targets = {} if family.has_default else {"target_modules": list(family.targets)}
    return QthaConfig(task_type=family.task_type, **{**SIZES, **targets, **options})


def adapted(family: Family, dtype: torch.dtype = torch.float32, **options: Any) -> PeftModel:
    base = family.build(dtype)
    torch.manual_seed(1)
    return get_peft_model(base, config(family, **options)).eval()


def outputs(model: nn.Module, family: Family) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(**family.batch()).logits
    return logits


def loss_of(model: nn.Module, family: Family) -> Tensor:
    loss: Tensor = model(**family.batch()).loss
    return loss


def targets_of(model: nn.Module, kind: type) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def step(model: nn.Module, family: Family, learning_rate: float = 1e-2) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    loss_of(model, family).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_the_targets_are_those_of_lora(family: Family) -> None:
    from peft.tuners.lora import LoraLayer

    found = targets_of(adapted(family), QthaLinear)
    assert len(found) == family.n_targets
    assert {name.rpartition(".")[2] for name in found} == set(family.targets)
    targets = None if family.has_default else list(family.targets)
    lora = get_peft_model(
        family.build(), LoraConfig(task_type=family.task_type, target_modules=targets)
    )
    assert targets_of(lora, LoraLayer) == found


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_where_peft_knows_no_targets_the_error_names_those_to_pass(family: Family) -> None:
    base = family.build()
    if family.has_default:
        assert default_targets(base.config.model_type, base) == list(family.targets)
        return
    with pytest.raises(ConfigError) as caught:
        default_targets(base.config.model_type, base)
    assert f"target_modules={list(family.targets)} adapts" in str(caught.value)
    assert base.config.model_type in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_a_fresh_adapter_is_neutral_and_one_step_lowers_the_loss(family: Family) -> None:
    expected = outputs(family.build(), family)
    model = adapted(family)
    assert torch.equal(outputs(model, family), expected)
    before = loss_of(model, family).item()
    step(model, family)
    assert not torch.equal(outputs(model, family), expected)
    assert loss_of(model, family).item() < before
    with model.disable_adapter():
        assert torch.equal(outputs(model, family), expected)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_only_the_adapter_and_the_modules_to_save_get_gradients(family: Family) -> None:
    model = adapted(family, init_weights=False).train()
    loss_of(model, family).backward()
    got = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    wanted = {
        name
        for name, _ in model.named_parameters()
        if ".qtha_adapter." in name or ".modules_to_save." in name
    }
    assert got == wanted
    assert got == {name for name, p in model.named_parameters() if p.requires_grad}
    saved = {name.split(".modules_to_save.")[0] for name in got if ".modules_to_save." in name}
    assert {name.rpartition(".")[2] for name in saved} == set(family.modules_to_save)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_a_trained_adapter_is_the_same_after_saving_and_loading(
    family: Family, tmp_path: Path
) -> None:
    model = adapted(family).train()
    step(model, family)
    expected = outputs(model.eval(), family)
    assert not torch.equal(outputs(family.build(), family), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(family.build(), tmp_path).eval()
    assert type(loaded) is type(model)
    torch.testing.assert_close(outputs(loaded, family), expected, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_gradient_checkpointing_gives_the_same_gradients(family: Family) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = adapted(family, init_weights=False)
        _without_dropout(model)
        model.train()
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert any(vars(module).get("gradient_checkpointing") for module in model.modules())
        loss_of(model, family).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, again = gradients
    for name, expected in plain.items():
        torch.testing.assert_close(again[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_a_base_in_bf16_trains_in_its_precision(family: Family) -> None:
    expected = outputs(family.build(torch.bfloat16), family)
    model = adapted(family, torch.bfloat16)
    assert torch.equal(outputs(model, family), expected)
    assert expected.dtype == torch.bfloat16
    before = loss_of(model, family).item()
    for _ in range(3):
        step(model, family, learning_rate=3e-2)
    assert outputs(model, family).dtype == torch.bfloat16
    assert loss_of(model, family).item() < before


@pytest.mark.parametrize("family", GENERATES, indirect=True)
def test_generation_is_the_same_with_and_without_the_cache(family: Family) -> None:
    model = adapted(family, init_weights=False)
    generated = [_generate(model, family, use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*generated)
    assert not torch.equal(generated[0], _generate(family.build(), family))


@pytest.mark.parametrize("family", DECODES, indirect=True)
def test_padding_on_the_left_does_not_change_what_is_generated(family: Family) -> None:
    model = adapted(family, init_weights=False)
    padded = torch.tensor([[1, 5, 9, 2, 8], [0, 0, 1, 3, 7]])
    both = _generate(model, family, padded, (padded != 0).long())
    alone = _generate(model, family, padded[1:, 2:], torch.ones(1, 3, dtype=torch.long))
    assert torch.equal(both[1, 2:], alone[0])


def _generate(
    model: PreTrainedModel | PeftModel,
    family: Family,
    ids: Tensor | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> Tensor:
    if ids is None:
        ids, mask = torch.tensor([[1, 5, 9, 2], [1, 3, 7, 4]]), torch.ones(2, 4, dtype=torch.long)
    found: Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=5,
        min_new_tokens=5,
        do_sample=False,
        **options,
    )
    return found


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
