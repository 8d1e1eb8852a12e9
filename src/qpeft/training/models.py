"""The base model of a recipe and its tokenizer, ready for an adapter on top.

A name is a local folder, a GGUF file, a hub id, or `smollm2-135m`.
"""

import hashlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from rich.progress import Progress
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from qpeft.errors import MissingExtraError, ModelError
from qpeft.recipe import ModelSpec
from qpeft.training.demo_model import HTTP_ERROR, smollm2_135m
from qpeft.training.demo_model import NAME as DEMO_NAME
from qpeft.training.gguf_files import load_gguf
from qpeft.training.rows import nearest_file

logger = logging.getLogger(__name__)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_base(
    spec: ModelSpec, progress: Progress | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and the tokenizer that a recipe names, the model on the best device.

    Under a distributed launch the model stays where it is loaded: the Trainer places it.

    Args:
        spec: The `model` of a recipe.
        progress: Where to show how the example model is fetched.

    Raises:
        ModelError: The model is missing, cannot be read, or is not a causal language model.
        MissingExtraError: A GGUF file or a quantisation needs a package that is not installed.
    """
    source, gguf_file = _locate(spec, progress)
    device = best_device()
    dtype, why = choose_dtype(spec.dtype, device)
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if spec.revision is not None:
        options["revision"] = spec.revision
    attention = _attention(spec, device)
    if gguf_file is not None:
        if spec.quantization is not None:
            raise ModelError("model.quantization: a GGUF file is unpacked; remove one of the two")
        model, tokenizer = load_gguf(source, gguf_file, dtype, **options, **attention)
    else:
        _check_causal(source, spec, options)
        tokenizer = _load_tokenizer(source, options)
        quantised = _quantised(spec, dtype, device)
        model = _load_model(source, dtype, {**options, **attention, **quantised})
    _set_pad_token(model, tokenizer)
    if spec.chat_template is not None:
        tokenizer.chat_template = _chat_template(spec.chat_template)
    if spec.quantization is None and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        model.to(device)
    used = model.config._attn_implementation
    kind = spec.quantization or str(dtype).removeprefix("torch.")
    logger.info("model %s: %s (%s), %s attention, on %s", spec.name, kind, why, used, device)
    return model, tokenizer


def best_device() -> torch.device:
    """Return this process's accelerator if the machine has one, else the CPU."""
    if not torch.accelerator.is_available():
        return torch.device("cpu")
    kind = torch.accelerator.current_accelerator()
    return torch.device(str(kind), int(os.environ.get("LOCAL_RANK", "0")))


def choose_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """Return the type of the weights and why it was chosen.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`. `auto` is bf16 where the device multiplies
            matrices in it, else fp32: without such instructions bf16 is many times slower.
        device: Where the model will run.
    """
    if name != "auto":
        return _DTYPES[name], "as asked"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "the GPU has bf16"
        return torch.float32, "the GPU has no bf16"
    if device.type == "cpu":
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return torch.bfloat16, "this CPU multiplies matrices in bf16"
        return torch.float32, "this CPU has no bf16 matrix instructions"
    return torch.float32, f"safe on {device.type}"


def dtype_name(dtype: torch.dtype) -> str:
    """Return what a recipe calls a type of weights."""
    return next(name for name, known in _DTYPES.items() if known == dtype)


def weights_digest(model: PreTrainedModel) -> str:
    """Return what tells a model's weights from others of the same name, as SHA-256.

    Names and shapes of all parameters and some evenly spaced values of each go into it, so that it takes no time
    on a large model. Buffers do not: a model computes its own, which machines may round differently. Weights that
    are rounded to another type have another digest.

    Args:
        model: As loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in model.named_parameters():
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)].to("cpu", torch.float32)
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


_SAMPLED_VALUES = 1024
"""Of a parameter, at least, if it has so many."""


def _locate(spec: ModelSpec, progress: Progress | None) -> tuple[str, str | None]:
    """Return the folder or hub id, and the GGUF file in it if it is one."""
    path = Path(spec.name).expanduser()
    if spec.name == DEMO_NAME:
        return str(smollm2_135m(progress)), None
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{path}: no such model file.{nearest_file(path)}")
        return str(path.parent), path.name
    if path.is_dir():
        if spec.gguf_file is not None and not (path / spec.gguf_file).is_file():
            hint = nearest_file(path / spec.gguf_file)
            raise ModelError(f"{path / spec.gguf_file}: no such model file.{hint}")
        if spec.gguf_file is None and not (path / "config.json").is_file():
            raise ModelError(f"{path}: not the folder of a model: it holds no config.json")
        return str(path), spec.gguf_file
    if path.is_file():
        raise ModelError(f"{path}: expected a model's folder or a .gguf file, got another file")
    if path.is_absolute() or spec.name.startswith("."):
        raise ModelError(f"{path}: no such model folder.{nearest_file(path)}")
    _check_hub(spec)
    return spec.name, spec.gguf_file


def _check_hub(spec: ModelSpec) -> None:
    """Ask the hub once, with a short timeout: loading would ask for half a minute."""
    wanted = spec.gguf_file or "config.json"
    try:
        cached = try_to_load_from_cache(spec.name, wanted, revision=spec.revision)
        if isinstance(cached, str):
            return
        if constants.is_offline_mode():
            raise ModelError(
                f"model '{spec.name}': neither a local folder nor in the local cache of the hub, "
                "and HF_HUB_OFFLINE is set; unset it or give a folder"
            )
        HfApi().model_info(spec.name, revision=spec.revision, timeout=10)
    except HFValidationError as error:
        raise ModelError(
            f"model '{spec.name}': neither a local folder nor a hub id such as 'owner/name'"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"model '{spec.name}': has no revision '{spec.revision}'") from error
    except GatedRepoError as error:
        raise ModelError(
            f"model '{spec.name}': gated; accept its terms on the hub, then log in with 'hf auth "
            "login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model '{spec.name}': neither a local folder nor a public model of the hub; check the "
            "spelling, or log in with 'hf auth login' if it is private"
        ) from error
    except (HTTP_ERROR, OSError) as error:
        raise ModelError(
            f"model '{spec.name}': not a local folder, not in the local cache, and the hub cannot "
            "be reached; connect to it or give a folder"
        ) from error


def _check_causal(source: str, spec: ModelSpec, options: dict[str, Any]) -> None:
    try:
        config = AutoConfig.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model '{spec.name}': {_one_line(error)}") from error
    remote = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in remote:
        raise ModelError(
            f"model '{spec.name}': is of the type '{config.model_type}', not a causal language "
            "model; take one that continues text, such as a Llama, Qwen or SmolLM2"
        )


def _load_tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{source}: no tokenizer can be loaded: {_one_line(error)}") from error


def _load_model(source: str, dtype: torch.dtype, options: dict[str, Any]) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{source}: the model cannot be loaded: {_one_line(error)}") from error


def _attention(spec: ModelSpec, device: torch.device) -> dict[str, str]:
    if spec.attention != "auto":
        return {"attn_implementation": spec.attention}
    # On short padded batches eager is 1.5 times as fast as SDPA on a CPU. Elsewhere transformers'
    # own choice is SDPA wherever the model has it.
    return {"attn_implementation": "eager"} if device.type == "cpu" else {}


def _quantised(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if spec.quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        purpose = f"model.quantization '{spec.quantization}'"
        raise MissingExtraError("bitsandbytes", "quantization", purpose)
    from transformers import BitsAndBytesConfig

    if spec.quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": config, "device_map": {"": device}}


def _set_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ModelError(
            f"{model.name_or_path}: the tokenizer has no padding, unknown or end token; add one to "
            "its tokenizer_config.json"
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id


def _chat_template(text: str) -> str:
    """Return the template itself, or what the file of that name holds."""
    if "{" in text:
        return text
    path = Path(text)
    if not path.is_file():
        raise ModelError(f"model.chat_template: no such file '{path}'.{nearest_file(path)}")
    return path.read_text(encoding="utf-8")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
