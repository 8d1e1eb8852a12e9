"""QTHA on a model does what LoRA does there: several adapters, disabling, deleting, mixing, refusing to merge."""

import pytest
import torch
from peft import get_peft_model
from tiny_bases import SIZES, TOKENS, adapted, fresh_config, logits, tiny_gpt2, tiny_llama
from torch import nn
from transformers.pytorch_utils import Conv1D

from qpeft import QthaConfig
from qpeft.adapters.qtha import QthaLinear
from qpeft.errors import ConfigError, MergeError


def targets_of(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, QthaLinear)]


def test_query_and_value_projections_are_the_default_targets() -> None:
    names = targets_of(adapted(tiny_llama()))
    assert [name.rpartition(".")[2] for name in names] == ["q_proj", "v_proj"] * 2


@pytest.mark.parametrize(
    ("options", "n_targets"),
    [
        ({"target_modules": ["q_proj"]}, 2),
        ({"target_modules": r".*layers\.1\.(self_attn\.[qk]_proj|mlp\.up_proj)"}, 3),
        ({"target_modules": "all-linear"}, 14),
        ({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, 12),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0}, 1),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}, 1),
    ],
)
def test_targets_are_chosen_by_list_regex_and_layer(
    options: dict[str, object], n_targets: int
) -> None:
    assert len(targets_of(adapted(tiny_llama(), **options))) == n_targets


def test_all_linear_on_an_adapted_model_finds_the_same_layers() -> None:
    model = adapted(tiny_llama(), target_modules="all-linear")
    before = targets_of(model)
    model.add_adapter("other", fresh_config(target_modules="all-linear"))
    assert targets_of(model) == before


def test_conv1d_layers_are_adapted() -> None:
    base = tiny_gpt2()
    expected = logits(base)
    model = adapted(base)
    layer = model.base_model.model.transformer.h[0].attn.c_attn
    assert isinstance(layer, QthaLinear)
    assert isinstance(layer.base_layer, Conv1D)
    assert (layer.in_features, layer.out_features) == (24, 72)
    assert not torch.allclose(logits(model), expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)


def test_a_layer_whose_weight_is_read_past_its_forward_is_refused() -> None:
    """An adapter beside the output projection of torch's attention would silently do nothing."""
    with pytest.raises(ConfigError, match=r"out_proj is the output .* exclude_modules"):
        adapted(nn.MultiheadAttention(8, 2), target_modules=["out_proj"])


def test_a_fresh_adapter_leaves_the_model_as_it_is() -> None:
    base = tiny_llama()
    expected = logits(base)
    assert torch.equal(logits(get_peft_model(base, QthaConfig(**SIZES)).eval()), expected)


def test_disabling_and_deleting_give_back_the_base_model() -> None:
    base = tiny_llama()
    expected = logits(base)
    model = adapted(base)
    changed = logits(model)
    assert not torch.allclose(changed, expected)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), changed)
    torch.manual_seed(7)
    model.add_adapter("other", fresh_config())
    model.delete_adapter("other")
    assert torch.equal(logits(model), changed)
    model.delete_adapter("default")
    assert not any("qtha_adapter." in key for key in model.state_dict())
    assert torch.equal(logits(model.base_model), expected)


def test_two_active_adapters_add_their_updates() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 10))
    x = torch.randn(4, 12)
    plain = base(x)
    model = adapted(base, target_modules=["0"])
    model.add_adapter("other", fresh_config(target_modules=["0"], core="mlp"))
    updates = []
    for name in ("default", "other"):
        model.set_adapter(name)
        updates.append(model(x) - plain)
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(model(x), plain + sum(updates), rtol=1e-5, atol=1e-6)


def test_each_sample_of_a_batch_can_have_its_own_adapter() -> None:
    model = adapted(tiny_llama())
    torch.manual_seed(7)
    model.add_adapter("other", fresh_config(core="mlp", r=6))
    model.eval()
    tokens = TOKENS[:1].repeat(4, 1)
    with torch.no_grad():
        mixed = model(tokens, adapter_names=["other", "__base__", "default", "other"]).logits
        expected = {"default": model(tokens[:1]).logits}
        model.set_adapter("other")
        expected["other"] = model(tokens[:1]).logits
        with model.disable_adapter():
            expected["__base__"] = model(tokens[:1]).logits
    for row, name in enumerate(["other", "__base__", "default", "other"]):
        torch.testing.assert_close(mixed[row], expected[name][0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mixed[0], mixed[2], atol=1e-3)
    assert not torch.allclose(mixed[1], mixed[2], atol=1e-3)


def test_beam_search_keeps_each_samples_adapter() -> None:
    model = adapted(tiny_llama())
    torch.manual_seed(7)
    model.add_adapter("other", fresh_config())
    model.eval()
    options = {"max_new_tokens": 4, "num_beams": 3, "pad_token_id": 0, "eos_token_id": 63}
    tokens = TOKENS[:1].repeat(3, 1)
    names = ["__base__", "default", "other"]
    mixed = model.generate(input_ids=tokens, adapter_names=names, **options)
    one = tokens[:1]
    with model.disable_adapter():
        alone = [model.generate(input_ids=one, **options)]
    for name in names[1:]:
        model.set_adapter(name)
        alone.append(model.generate(input_ids=one, **options))
    for row in range(3):
        n = alone[row].shape[1]
        assert torch.equal(mixed[row, :n], alone[row][0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["default", "othre"], "non-existing adapter(s): othre. There are: default, and __base__"),
        (["default"], "Length of `adapter_names` should be the same as the number of inputs"),
    ],
)
def test_wrong_adapter_names_of_a_batch_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        adapted(tiny_llama())(TOKENS, adapter_names=names)
    assert message in str(caught.value)


def test_modules_to_save_are_trained_and_saved_whole() -> None:
    model = adapted(tiny_llama(), modules_to_save=["lm_head"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "base_model.model.lm_head.modules_to_save.default.weight" in trained
    assert all("qtha_adapter.default" in n or "modules_to_save.default" in n for n in trained)


def merge_and_unload(model: nn.Module) -> None:
    model.merge_and_unload()


def merge_adapter(model: nn.Module) -> None:
    model.merge_adapter()


def merge_one_layer(model: nn.Module) -> None:
    next(m for m in model.modules() if isinstance(m, QthaLinear)).merge()


@pytest.mark.parametrize("merge", [merge_and_unload, merge_adapter, merge_one_layer])
def test_merging_is_refused_and_touches_nothing(merge: object) -> None:
    # The embedding stands before the first adapted layer: a merge that fails half-way would have
    # replaced it already.
    model = adapted(tiny_llama(), modules_to_save=["embed_tokens", "lm_head"])
    before, state = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(MergeError, match=r"Cannot merge a QTHA adapter .* non-linear in x"):
        merge(model)
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[key], state[key]) for key in state)
    assert torch.equal(logits(model), before)


def test_merge_error_names_the_way_out() -> None:
    with pytest.raises(NotImplementedError) as caught:
        adapted(tiny_llama()).merge_and_unload()
    assert "surrogate" in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_printing_a_layer_shows_the_method_and_the_circuit() -> None:
    model = adapted(tiny_llama())
    text = repr(model.base_model.model.model.layers[0].self_attn.q_proj)
    assert text.startswith("qpeft.QthaLinear(")
    assert "1 x 4 qubits, ansatz=reupload, 16 angles, backend=exact" in text
    assert "24 x 8, modes (6, 4) x (4, 2)" in text
