"""GGUF files as ordinary models: weights unpacked to numbers, and no trace left of the packing.

transformers marks a model that it loads from GGUF as quantised even when it has unpacked every
weight. Saving and the Trainer believe the mark and refuse; so it is taken off here.
"""

import importlib.util
import struct
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from qpeft.errors import MissingExtraError, ModelError


def load_gguf(
    source: str, gguf_file: str, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer of a GGUF file, weights as plain numbers.

    Args:
        source: The folder or hub id that holds the file.
        gguf_file: The file's name in there.
        dtype: The type of the weights in memory.
        **options: For the model's `from_pretrained`.

    Raises:
        ModelError: The file is missing, damaged or of an architecture that transformers cannot
            read from GGUF.
        MissingExtraError: The package gguf is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", "Loading a GGUF file")
    place = f"{source}/{gguf_file}"
    _check_magic(Path(source) / gguf_file)
    common = {
        key: value for key, value in options.items() if key in ("revision", "trust_remote_code")
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file, **common)
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=gguf_file, dtype=dtype, **_unpacked(), **options
        )
    except (OSError, ValueError, KeyError, NotImplementedError, struct.error) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{place}: transformers cannot load this GGUF file: {reason}") from error
    _remove_marks(model)
    model.name_or_path = model.config._name_or_path = place
    if "_model_name_or_path" in vars(model.config):  # the title inside the file: not a place
        del model.config._model_name_or_path
    return model, tokenizer


def _check_magic(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path}: not a GGUF file, or damaged; fetch it again")


def _unpacked() -> dict[str, Any]:
    # Newer versions of transformers can keep weights packed, in layers that no adapter knows.
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _remove_marks(model: PreTrainedModel) -> None:
    for holder in (model, model.config):
        for mark in (
            "hf_quantizer",
            "quantization_config",
            "quantization_method",
            "is_quantized",
            "is_loaded_in_8bit",
            "is_loaded_in_4bit",
        ):
            if mark in vars(holder):
                delattr(holder, mark)
