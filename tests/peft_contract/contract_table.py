"""What of PEFT's own tests QTHA is held to, with which configurations; and what does not apply, and why.

Three kinds of tests run:
  1. those that PEFT runs for every method: QTHA's configurations take the place of PEFT's list (`PARAMETERS`);
  2. those that PEFT writes with LoRA but that hold for any adapter: QTHA takes LoRA's place (`WRITTEN_WITH_LORA`);
  3. batches that mix adapters, which PEFT runs for the few methods that can
     (`INLINE_PARAMETERS`, `RUNS_FOR_LORA_ONLY`).
Of the first kind, `NOT_APPLICABLE` are left out. Everything else in PEFT's files is about one other method.
"""

from typing import Any

import pytest

from qpeft import QthaConfig

SMALL = {"inner_width": 8, "bond_dim": 2, "n_cores": 2}
GENTLE = {"alpha": 0.1}  # some tests train at a rate of 0.5 on inputs of up to 90


def custom(name: str, model: str = "MLP", **options: Any) -> tuple[Any, ...]:
    """A case of the custom-model tests; MLP is 10 -> 20 -> 2, with layers lin0 and lin1."""
    return (name, model, QthaConfig, {"target_modules": ["lin0"], **SMALL, **options})


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def fresh(**options: Any) -> QthaConfig:
    """A configuration whose fresh adapter differs from the base model."""
    return QthaConfig(**{"target_modules": ["lin0"], "init_weights": False, **SMALL, **options})


def both(name: str, first: dict[str, Any], second: dict[str, Any]) -> tuple[Any, ...]:
    """A case of the tests with two adapters."""
    return (name, fresh(**first), fresh(**second))


TWO = "test_name, config0, config1"

CUSTOM_CASES = [
    custom("list"),
    slow(*custom("regular expression", target_modules="lin0")),
    slow(*custom("two layers, r=3", target_modules=["lin0", "lin1"], r=3, **GENTLE)),
    slow(*custom("modules_to_save", modules_to_save=["lin1"], **GENTLE)),
    slow(*custom("hadamard", fusion="hadamard")),
    slow(*custom("layers and groups", n_layers=2, groups=2, angle_map="tanh")),
    slow(*custom("encode_once", ansatz="encode_once", r=2)),
    slow(*custom("target_saving", "MLP2", target_saving=0.1, r=6)),
    slow(*custom("core none", core="none")),
    slow(*custom("core constant", core="constant")),
    slow(*custom("core mlp", core="mlp")),
    slow(*custom("core product", core="product")),
    slow(*custom("core frozen", core="frozen")),
    slow(*custom("core fourier", core="fourier", r=2)),
    slow(*custom("layer norms around", "MLP_LayerNorm", target_modules=["lin0", "lin1"])),
    slow(*custom("embedding and Conv1D beside", "EmbConv1D")),
]
TWO_ADAPTERS = [
    (
        "same",
        "qtha",
        QthaConfig,
        *({"target_modules": ["lin0"], "init_weights": False, **SMALL},) * 2,
    ),
    (
        "different",
        "qtha",
        QthaConfig,
        {"target_modules": ["lin0"], "init_weights": False, **SMALL},
        {"target_modules": ["lin1"], "init_weights": False, **SMALL},
    ),
]


DECODERS = [
    "trl-internal-testing/tiny-random-LlamaForCausalLM",
    slow("peft-internal-testing/tiny-random-OPTForCausalLM"),
    slow("peft-internal-testing/tiny-random-GPT2LMHeadModel"),  # its layers are Conv1D
    slow("peft-internal-testing/tiny-random-GPTJForCausalLM"),
    slow("peft-internal-testing/tiny-random-GPTBigCodeForCausalLM"),
    slow("peft-internal-testing/tiny-dummy-qwen2"),
    slow("hf-internal-testing/tiny-random-Gemma3ForCausalLM"),
]
"""PEFT's list, and GPTBigCode."""


def task(task_type: str) -> list[tuple[type, dict[str, Any]]]:
    """The cases of the transformers tests; the target modules are those that PEFT knows."""
    return [(QthaConfig, {"task_type": task_type, "inner_width": 16, "bond_dim": 2})]


PARAMETERS: dict[str, dict[str, list[Any]]] = {
    "test_custom_models": {
        "TEST_CASES": CUSTOM_CASES,
        "ALL_PEFT_CONFIG_CLASSES": [QthaConfig],
        "MULTIPLE_ACTIVE_ADAPTERS_TEST_CASES": TWO_ADAPTERS,
    },
    "test_decoder_models": {
        "ALL_CONFIGS": task("CAUSAL_LM"),
        "PEFT_DECODER_MODELS_TO_TEST": DECODERS,
    },
    "test_encoder_decoder_models": {"ALL_CONFIGS": task("SEQ_2_SEQ_LM")},
    "test_feature_extraction_models": {"ALL_CONFIGS": task("FEATURE_EXTRACTION")},
    "test_seq_classifier": {"ALL_CONFIGS": task("SEQ_CLS")},
    "test_token_classification_qa": {
        "TOKEN_CLS_CONFIGS": task("TOKEN_CLS"),
        "QA_CONFIGS": task("QUESTION_ANS"),
    },
    "test_quantization": {"TEST_CASES": [(QthaConfig, {"inner_width": 16, "bond_dim": 2})]},
    "test_config": {
        "ALL_CONFIG_CLASSES": [(QthaConfig, {})],
        "LAYER_INDEXING_CONFIG_CLASSES": [(QthaConfig, {})],
    },
    "test_low_level_api": {},
    "test_mapping": {},
    "test_other": {},
    "test_tuners_utils": {},
}
"""For each of PEFT's test files its lists of parameters, and what takes their place."""

INLINE_PARAMETERS: dict[str, tuple[str, list[Any]]] = {
    "test_multiple_adapters_mixed_modules_to_save": ("config_cls", [QthaConfig]),
    "test_multiple_adapters_mixed_modules_to_save_order_switched": ("config_cls", [QthaConfig]),
    "test_adapter_name_makes_no_difference": ("config0", [fresh()]),
    "test_default_target_modules_not_set_raises": ("config_cls", [QthaConfig]),
    "test_default_target_modules_not_set_model_type_set_raises": ("config_cls", [QthaConfig]),
    "test_default_target_modules_list_of_str": ("config_cls", [QthaConfig]),
    "test_default_target_modules_str": ("config_cls", [QthaConfig]),
    "test_save_pretrained_with_target_modules": ("config_class", [QthaConfig]),
    "test_inject_from_state_dict_and_from_config_target_same_layers": ("config", [QthaConfig()]),
    "test_add_adapter_rejects_duplicate_name_without_mutation": ("mixed", [False]),
    "test_mixed_adapter_batches_mlp": (TWO, [both("ranks", {}, {"r": 6})]),
    "test_mixed_adapter_batches_different_target_layers": (
        TWO,
        [both("layers", {}, {"target_modules": ["lin1"]})],
    ),
    "test_mixed_adapter_batches_multiple_modules_to_save": (
        TWO,
        [both("modules_to_save", {"modules_to_save": ["lin1"]}, {"modules_to_save": ["lin1"]})],
    ),
    "test_mixed_adapter_batches_unsupported_layer_raises": (
        TWO,
        [both("GRU", {"modules_to_save": ["gru"]}, {"modules_to_save": ["gru"]})],
    ),
    "test_mixed_adapter_batches_partly_overlapping_target_layers": (
        TWO,
        [both("overlapping", {}, {"target_modules": ["lin0", "lin1"]})],
    ),
    "test_mixed_adapter_batches_length_mismatch_raises": (TWO, [both("length", {}, {"r": 6})]),
    "test_mixed_adapter_batches_training_mode_raises": (TWO, [both("training", {}, {"r": 6})]),
    "test_mixed_adapter_batches_disabled": (TWO, [both("disabled", {}, {"r": 6})]),
    "test_mixed_adapter_batches_lora_wrong_adapter_name_raises": (
        "test_name, config",
        [("wrong name", fresh())],
    ),
}
"""By test: the parameters that PEFT writes into its decorator, and what takes their place."""

RUNS_FOR_LORA_ONLY = ("test_mixed_adapter_batches", "test_generate_with_mixed_adapter_batches")
"""Tests in which PEFT compares a method's class with `LoraConfig` and skips all others."""

WRITTEN_WITH_LORA: dict[str, tuple[str, ...]] = {
    "test_custom_models": (
        "test_add_adapter_rejects_duplicate_name_without_mutation",
        "test_delete_adapter_multiple_adapters_with_modules_to_save",
        "test_delete_adapter_with_multiple_adapters_works",
        "test_existing_model_card",
        "test_ignore_mismatched_sizes_with_scalar_modules_to_save",
        "test_load_does_not_overwrite_similarly_named_sibling",
        "test_multiple_adapters_no_needless_copy_modules_to_save",
        "test_non_existing_model_card",
        "test_weight_bias_attributes",
    ),
    "test_encoder_decoder_models": ("test_load_model_low_cpu_mem_usage",),
    "test_feature_extraction_models": ("test_load_model_low_cpu_mem_usage",),
    "test_low_level_api": (
        "test_get_and_set_peft_model_state_dict_adapter_name_same_as_module_name",
        "test_get_and_set_peft_model_state_dict_normal_names",
        "test_get_and_set_peft_model_state_dict_peft_prefix_in_module_name",
        "test_get_and_set_peft_model_state_dict_weight_in_module_name",
        "test_get_peft_model_state_dict_removes_*",
        "test_inject_from_state_dict_and_from_config_target_same_layers",
        "test_inject_from_state_dict_extra_keys_warning",
        "test_inject_from_state_dict_low_cpu_mem_usage",
        "test_inject_from_state_dict_transformers",
        "test_inject_from_state_dict_transformers_irregular_targets",
        "test_multiple_adapters",
        "test_save_pretrained_succeeds_for_normal_lora",
        "test_set_peft_model_state_dict_preserves_input",
        "test_strict_missing_keys",
        "test_strict_unexpected_keys",
        "test_trained_modules_to_save_module_named_like_peft_prefix_round_trip",
    ),
    "test_mapping": ("test_*",),
    "test_other": (
        "test_kwargs_only_forward_*",
        "test_modules_to_save_targets_tuner_layer_raises",
        "test_nested_ignores_modules_to_save",
        "test_targeting_module_to_save_raises",
        "test_transient_attribute_access_*",
    ),
    "test_tuners_utils": (
        "test_all_modules_excluded",
        "test_exclude_modules_not_used",
        "test_get_peft_modules_module_name_is_suffix_of_another_module",
        "test_layers_to_transform_filters_by_layer_not_expert_index",
        "test_multiple_excluded_modules_list",
        "test_no_modules_matched",
        "test_no_modules_matched_second_adapter",
        "test_one_targeted_module_*",
        "test_prefixes_auxiliary_modules_not_included",
        "test_regex_matching_valid_*",
        "test_second_adapter_only_modules_to_save_raises",
        "test_some_modules_excluded_some_unmatched",
        "test_targeted_module_names_unique_across_adapters",
        "test_two_excluded_module_*",
        "test_two_targeted_module_*",
        # `get_layer_status` and `get_model_status` of a small model
        "test_active_adapters_small",
        "test_available_adapters_small",
        "test_base_model_type_small",
        "test_devices_all_cpu_small",
        "test_enabled_small",
        "test_layer_names_small",
        "test_model_active_adapters_small",
        "test_model_active_adapters_with_modules_to_save_irregular",
        "test_model_available_adapters_small",
        "test_model_devices_all_cpu_small",
        "test_model_disabled_small",
        "test_model_enabled_irregular_with_modules_to_save",
        "test_model_enabled_small",
        "test_model_quantization_backend_small",
        "test_model_requires_grad_model_small",
        "test_model_requires_irregular_with_modules_to_save",
        "test_num_adapter_layers_small",
        "test_quantization_backend_small",
        "test_requires_grad_small",
        "test_with_modules_to_save",
    ),
}
"""By test file: tests (or patterns) in which `LoraConfig` is only an example of an adapter."""

NO_MERGED_FORM = "QTHA is not linear in x: no base weight equals it, and merging raises MergeError"
ONLY_LINEAR = "weighted sums and conversions exist for updates that are linear in x"
ONLY_PROMPTS = "for prompt learning"
NO_BIAS = "QTHA has no option that trains biases"

NOT_APPLICABLE: dict[str, str] = {
    "test_merge_layers": NO_MERGED_FORM,
    "test_merge_layers_fp16": NO_MERGED_FORM,
    "test_merge_layers_is_deterministic_in_train_mode": NO_MERGED_FORM,
    "test_merge_layers_is_idempotent": NO_MERGED_FORM,
    "test_merge_layers_multi": NO_MERGED_FORM,
    "test_merge_layers_nan": NO_MERGED_FORM,
    "test_merge_unmerge_unload": NO_MERGED_FORM,
    "test_safe_merge": NO_MERGED_FORM,
    "test_sequential_merge_matches_batch_merge": NO_MERGED_FORM,
    "test_unmerge_after_sequential_merge_restores_base": NO_MERGED_FORM,
    "test_multiple_active_adapters_merge_and_unmerge": NO_MERGED_FORM,
    "test_disable_adapters_with_merging": NO_MERGED_FORM,
    "test_delete_merged_adapter_raises_without_mutation": NO_MERGED_FORM,
    "test_delete_merged_adapter_only_rejects_the_merged_one": NO_MERGED_FORM,
    "test_weighted_combination_of_adapters": ONLY_LINEAR,
    "test_lora_conversion": ONLY_LINEAR,
    "test_prompt_tuning_text_prepare_for_training": ONLY_PROMPTS,
    "test_prompt_tuning_sample_vocab_prepare_for_training": ONLY_PROMPTS,
    "test_training_prompt_learning_tasks": ONLY_PROMPTS,
    "test_set_requires_grad_prompt_learning_raises": ONLY_PROMPTS,
    "test_adding_multiple_adapters_with_bias_raises": NO_BIAS,
    "test_disable_adapter_with_bias_warns": NO_BIAS,
    "test_save_load_roundtrip_fsdp_wrapped_learnable_bias": NO_BIAS,
}
"""Tests that PEFT runs for every method, or tries to, and that say nothing of QTHA."""

FORWARD_ONLY = "its forward passes run; PEFT skips the merging that follows them"

MAY_SKIP: dict[str, str] = {
    "test_forward_float16": FORWARD_ONLY,
    "test_forward_float16_no_autocast": FORWARD_ONLY,
    "test_forward_bfloat16": FORWARD_ONLY,
    "test_forward_bfloat16_no_autocast": FORWARD_ONLY,
    "test_active_adapter": "two active adapters cannot share modules_to_save (one case)",
    "test_passing_input_embeds_works": "PEFT runs it for prompt learning only on encoders",
}
"""Tests that PEFT itself skips for some of the parameters; any other skip counts as a failure."""

RUNS_BY_DEFAULT = {
    "TestDecoderModels",
    "TestMixedAdapterBatches",
    "TestPeftConfig",
    "TestPeftCustomModel",
}
"""Test classes that are fast enough for every run of pytest; the others are marked slow."""
