"""A tiny Llama with random weights and a tokenizer trained on a few lines, and sums to learn."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qpeft.recipe import Recipe

PROMPT = "Question: {a} + {b}\nAnswer:"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, *, chat_template: str | None = None) -> Path:
    """Save a two-layer Llama and its tokenizer in a folder."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([PROMPT, " 42 42 17 17", "user assistant system"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,  # wide enough for an adapter to move the logits
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_sums(folder: Path, n: int = 60, seed: int = 0) -> Path:
    """Write sums of one- and two-digit numbers, one JSON line each."""
    rng = random.Random(seed)
    pairs = sorted({(rng.randint(1, 40), rng.randint(1, 40)) for _ in range(4 * n)})
    rows = [{"a": a, "b": b, "sum": a + b} for a, b in rng.sample(pairs, n)]
    file = folder / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def make_recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    """Return a recipe of a second; `changes` replace keys, those of data and so on one by one."""
    if not (folder / "sums.jsonl").exists():
        make_sums(folder)
    raw: dict[str, Any] = {
        # Not what the machine would choose: in bf16 the tests' tolerances would be another matter.
        "model": {"name": str(model), "dtype": "fp32"},
        "adapter": {"method": "lora", "r": 2, "target_modules": ["q_proj", "v_proj"]},
        "data": {
            "files": str(folder / "sums.jsonl"),
            "prompt": PROMPT,
            "completion": " {sum}",
            "n_validation": 6,
            "n_test": 10,
        },
        "training": {
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 0.01,
            "max_length": 64,
            "evaluate_every": 3,
            "save_every": 2,
        },
        "evaluation": {"max_new_tokens": 4, "batch_size": 4},
        "output_dir": str(folder / "run"),
    }
    for key, value in changes.items():
        is_part = key in ("data", "training", "evaluation")
        raw[key] = {**raw[key], **value} if is_part else value
    return Recipe.model_validate(raw)
