"""Tiny models with random weights in the place of those that PEFT's tests take from the hub.

A hub id is also a relative path. The models are saved under their ids in one folder, and a test that runs in
that folder finds `org/name` there before it would ask any hub.
"""

from pathlib import Path
from typing import Any

import peft
import torch
import transformers

VOCABULARY = 128

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_DECODER = {
    **_SIZES,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_ENCODER = {**_SIZES, "intermediate_size": 48, "max_position_embeddings": 64}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_OPT = {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
}

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTConfig", "OPTForCausalLM", _OPT),
    "peft-internal-testing/opt-125m": (
        "OPTConfig",
        "OPTForCausalLM",
        {**_OPT, "num_hidden_layers": 12, "hidden_size": 64, "word_embed_proj_dim": 64},
    ),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2Config", "GPT2LMHeadModel", _GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": (
        "GPTJConfig",
        "GPTJForCausalLM",
        {**_GPT, "rotary_dim": 4},
    ),
    "peft-internal-testing/tiny-random-GPTBigCodeForCausalLM": (
        "GPTBigCodeConfig",
        "GPTBigCodeForCausalLM",
        _GPT,
    ),
    "peft-internal-testing/tiny-random-BloomForCausalLM": (
        "BloomConfig",
        "BloomForCausalLM",
        {"hidden_size": 32, "n_layer": 5, "n_head": 4},
    ),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": (
        "LlamaConfig",
        "LlamaForCausalLM",
        _DECODER,
    ),
    "peft-internal-testing/tiny-random-LlamaForCausalLM": (
        "LlamaConfig",
        "LlamaForCausalLM",
        _DECODER,
    ),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _DECODER),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**_DECODER, "head_dim": 8, "sliding_window": 8},
    ),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (
        "T5Config",
        "T5ForConditionalGeneration",
        _T5,
    ),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (
        "BartConfig",
        "BartForConditionalGeneration",
        _BART,
    ),
    "peft-internal-testing/tiny-random-BertModel": ("BertConfig", "BertModel", _ENCODER),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaConfig", "RobertaModel", _ENCODER),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaConfig", "DebertaModel", _ENCODER),
    "peft-internal-testing/tiny-random-DebertaV2Model": (
        "DebertaV2Config",
        "DebertaV2Model",
        _ENCODER,
    ),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (
        "BertConfig",
        "BertForSequenceClassification",
        _ENCODER,
    ),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaConfig",
        "RobertaForSequenceClassification",
        _ENCODER,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (
        "LlamaConfig",
        "LlamaForSequenceClassification",
        {**_DECODER, "num_labels": 1, "pad_token_id": 0},
    ),
}
"""Hub id: the config class, the model class and the sizes."""


def save_models(folder: Path) -> None:
    """Save every model below a folder under its hub id, and one adapter's configuration."""
    peft.LoraConfig().save_pretrained(folder / "peft-internal-testing/tiny-opt-lora-revision")
    for model_id, (config_name, model_name, sizes) in MODELS.items():
        torch.manual_seed(0)
        config = getattr(transformers, config_name)(vocab_size=VOCABULARY, **sizes)
        model = getattr(transformers, model_name)(config)
        if model.can_generate():
            model.generation_config.max_length = 6  # the tests' prompts have 3 tokens
        model.save_pretrained(folder / model_id)
