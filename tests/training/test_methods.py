"""Adapters by name: every PEFT method, and mistakes in its options."""

import dataclasses

import pytest
from peft import LoraConfig, PromptLearningConfig, PromptTuningConfig, TaskType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from qpeft.errors import RecipeError
from qpeft.recipe import AdapterSpec
from qpeft.training.methods import build_adapter_config, list_methods
from qpeft.training.options import option_problems


def build(method, **options):
    return build_adapter_config(AdapterSpec(method=method, options=options))


def refusal(method, **options):
    with pytest.raises(RecipeError) as caught:
        build(method, **options)
    return caught.value.problems


def test_every_method_of_peft_is_listed_and_dora_too():
    names = [method.name for method in list_methods()]
    assert len(names) == len(set(names)) == len(PEFT_TYPE_TO_CONFIG_MAPPING) + 1
    assert {"lora", "dora", "vera", "ia3", "prompt_tuning"} <= set(names)
    assert all(name == name.lower() for name in names)


def test_every_method_has_a_summary_on_one_line():
    for method in list_methods():
        assert method.summary, method
        assert "\n" not in method.summary
        if not method.is_quantum:
            assert "onfiguration" not in method.summary, f"{method.name} needs a summary of its own"


def test_only_our_own_methods_are_quantum_and_come_first():
    flags = [method.is_quantum for method in list_methods()]
    assert flags == sorted(flags, reverse=True)
    assert not next(method for method in list_methods() if method.name == "lora").is_quantum


@pytest.mark.parametrize("method", [m.name for m in list_methods()])
def test_every_methods_own_defaults_are_accepted(method):
    config_class = next(m.config_class for m in list_methods() if m.name == method)
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(config_class)
        if f.init and f.default is not dataclasses.MISSING
    }
    assert option_problems(defaults, config_class, "adapter") == []


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("lora", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "lora_only"}),
        ("lora", {"target_modules": "all-linear", "init_lora_weights": "pissa_niter_4"}),
        ("lora", {"rank_pattern": {"q_proj": 2}, "layers_to_transform": [0, 1]}),
        ("vera", {"r": 16}),
        ("ia3", {}),
        ("oft", {"oft_block_size": 8, "r": 0}),
        ("prompt_tuning", {"num_virtual_tokens": 4}),
        ("prefix_tuning", {"num_virtual_tokens": 4}),
        ("p_tuning", {"num_virtual_tokens": 4, "encoder_hidden_size": 16}),
    ],
)
def test_options_arrive_in_the_configuration(method, options):
    config = build(method, **options)
    assert config.task_type == TaskType.CAUSAL_LM
    for name, value in options.items():
        stored = getattr(config, name)
        assert (sorted(stored) if isinstance(stored, set) else stored) == value


def test_dora_is_lora_with_use_dora():
    config = build("dora", r=4)
    assert isinstance(config, LoraConfig)
    assert config.use_dora
    assert refusal("dora", use_dora=False) == [
        "adapter.use_dora: cannot be set here; 'dora' sets it"
    ]


def test_an_unknown_method_is_refused_with_the_nearest():
    assert refusal("adalra") == [
        "adapter.method: no PEFT method is called 'adalra'. Did you mean 'adalora'?"
    ]


def test_every_wrong_option_is_reported_at_once():
    problems = refusal(
        "lora",
        r="x",
        lora_dropuot=0.1,
        lora_dropout=True,
        use_rslora="y",
        bias="some",
        target_modules=[1],
        task_type="SEQ_CLS",
    )
    assert problems == [
        'adapter.r: expected a whole number, got "x"',
        "adapter.lora_dropuot: unknown option of LoraConfig. Did you mean 'lora_dropout'?",
        "adapter.lora_dropout: expected a number, got true",
        'adapter.use_rslora: expected true or false, got "y"',
        'adapter.bias: expected "all" or "lora_only" or "none", got "some"',
        "adapter.target_modules: expected a list of texts or a text or null, got [1]",
        "adapter.task_type: cannot be set here; a recipe always trains a causal language model",
    ]


def test_what_the_configuration_itself_refuses_is_one_line():
    (line,) = refusal("adalora", init_r=4)
    assert line.startswith("adapter: 'adalora' does not take this: ")
    assert "total_step" in line
    assert "\n" not in line


def test_virtual_tokens_must_be_counted():
    (line,) = refusal("prompt_tuning")
    assert line.startswith("adapter.num_virtual_tokens: missing")
    assert issubclass(PromptTuningConfig, PromptLearningConfig)


def test_a_baselines_key_stands_in_its_message():
    with pytest.raises(RecipeError, match=r"^baselines\.0\.rr: unknown option"):
        build_adapter_config(AdapterSpec(method="lora", options={"rr": 1}), "baselines.0")
