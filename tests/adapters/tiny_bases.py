"""Tiny base models with random weights, and the adapters that suit them."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from qpeft import QthaConfig

SIZES = {"inner_width": 8, "bond_dim": 2, "n_cores": 2}
TOKENS = torch.tensor([[1, 5, 9, 2], [3, 3, 7, 4]])


def tiny_llama(**options: Any) -> LlamaForCausalLM:
    """A decoder of 2 layers and width 24, whose query and value projections differ in shape."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        **options,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2() -> GPT2LMHeadModel:
    """A decoder whose linear layers are transformers' Conv1D."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=24,
        n_layer=2,
        n_head=4,
        n_positions=64,
        vocab_size=64,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,
    )
    return GPT2LMHeadModel(config).eval()


def fresh_config(**options: Any) -> QthaConfig:
    """A configuration whose fresh adapter changes the output."""
    return QthaConfig(**{**SIZES, "init_weights": False, **options})


def adapted(base: nn.Module, seed: int = 1, **options: Any) -> PeftModel:
    """A base model with one adapter, in evaluation mode."""
    torch.manual_seed(seed)
    return get_peft_model(base, fresh_config(**options)).eval()


def logits(model: nn.Module, **options: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(TOKENS, **options).logits
    return result


def sequence_loss(model: nn.Module) -> Tensor:
    loss: Tensor = model(TOKENS, labels=TOKENS).loss
    return loss
