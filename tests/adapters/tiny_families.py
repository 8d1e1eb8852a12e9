"""One tiny model with random weights of each family of base models, and where an adapter goes in it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

N_LAYERS = 2
LLAMA_LIKE = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
# A head may be wider than the hidden size divided by the heads, so that q_proj is not square.
WIDE_HEADS = {**LLAMA_LIKE, "head_dim": 8}
BERT_LIKE = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Family:
    """A family of base models.

    Args:
        model: Name of the class in transformers; its configuration is called alike.
        sizes: Of the tiny model.
        targets: Names of the modules that the adapter goes to by default.
        n_targets: How many modules that are.
        task_type: PEFT's name of what the model does.
        has_default: Whether PEFT knows the targets; otherwise they must be given.
        modules_to_save: Modules that PEFT trains and saves whole for this task, unasked.
    """

    model: str
    sizes: dict[str, Any]
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    n_targets: int = 2 * N_LAYERS
    task_type: str = "CAUSAL_LM"
    has_default: bool = True
    modules_to_save: tuple[str, ...] = ()

    def build(self, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Return the model, the same one each time, in evaluation mode."""
        torch.manual_seed(0)
        model_class: Callable[[PretrainedConfig], PreTrainedModel] = getattr(
            transformers, self.model
        )
        made = model_class(self.config())
        # Wide enough for an adapter to move the outputs; norms and biases stay as they are.
        for parameter in made.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
        return made.to(dtype).eval()

    def config(self) -> PretrainedConfig:
        """Return the configuration of the tiny model."""
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 63}
        config_class = getattr(transformers, self.model).config_class
        config: PretrainedConfig = config_class(**{"vocab_size": 64, **special, **self.sizes})
        return config

    def batch(self) -> dict[str, Tensor]:
        """Return a batch of two sequences of unequal length, padded, and what is to be learned."""
        ids = torch.tensor([[1, 5, 9, 2, 8, 4], [1, 3, 7, 4, 0, 0]])
        mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
        batch = {"input_ids": ids, "attention_mask": mask}
        if self.task_type == "SEQ_CLS":
            return {**batch, "labels": torch.tensor([0, 2])}
        if self.task_type == "SEQ_2_SEQ_LM":
            return {**batch, "labels": torch.tensor([[5, 6, 63], [7, 63, -100]])}
        return {**batch, "labels": ids.masked_fill(mask == 0, -100)}


FAMILIES = {
    "llama": Family("LlamaForCausalLM", LLAMA_LIKE),
    "mistral": Family("MistralForCausalLM", LLAMA_LIKE),
    "qwen2": Family("Qwen2ForCausalLM", LLAMA_LIKE),
    "qwen3": Family("Qwen3ForCausalLM", WIDE_HEADS),
    "gemma2": Family("Gemma2ForCausalLM", {**WIDE_HEADS, "sliding_window": 8}),
    "gemma3": Family("Gemma3ForCausalLM", {**WIDE_HEADS, "sliding_window": 8}),
    "gpt2": Family(
        "GPT2LMHeadModel",
        {"n_embd": 24, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64},
        ("c_attn",),
        N_LAYERS,
    ),
    "opt": Family(
        "OPTForCausalLM",
        {
            "hidden_size": 24,
            "ffn_dim": 32,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 24,
        },
    ),
    "bloom": Family(
        "BloomForCausalLM",
        {"hidden_size": 24, "n_layer": N_LAYERS, "n_head": 4},
        ("query_key_value",),
        N_LAYERS,
    ),
    "falcon": Family(
        "FalconForCausalLM",
        {"hidden_size": 24, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4},
        ("query_key_value",),
        N_LAYERS,
    ),
    "gpt_neox": Family("GPTNeoXForCausalLM", BERT_LIKE, ("query_key_value",), N_LAYERS),
    "glm": Family("GlmForCausalLM", WIDE_HEADS, has_default=False),
    "phi3": Family("Phi3ForCausalLM", LLAMA_LIKE, ("qkv_proj",), N_LAYERS, has_default=False),
    "t5": Family(
        "T5ForConditionalGeneration",
        {
            "d_model": 24,
            "d_kv": 6,
            "d_ff": 32,
            "num_layers": N_LAYERS,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        ("q", "v"),
        2
        * 3
        * N_LAYERS,  # the encoder's own attention, the decoder's own and its look at the encoder
        "SEQ_2_SEQ_LM",
    ),
    "bert": Family(
        "BertForSequenceClassification",
        {**BERT_LIKE, "num_labels": 3},
        ("query", "value"),
        task_type="SEQ_CLS",
        modules_to_save=("classifier",),
    ),
}
