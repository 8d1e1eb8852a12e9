"""Putting an adapter on a base model and taking it off again, leaving no trace.

All arms of a run share one base model in memory. `fingerprint` proves that an arm gave it back as
it got it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from qpeft.errors import ConfigError


def add_adapter(
    model: PreTrainedModel, config: PeftConfig, *, low_cpu_mem_usage: bool = False
) -> PeftModel:
    """Return the model with a new adapter, its base weights frozen.

    Args:
        model: The base model.
        config: The adapter; PEFT writes the model's name into it.
        low_cpu_mem_usage: Leave the adapter's weights on the meta device.

    Raises:
        ConfigError: PEFT cannot put this adapter on this model.
    """
    try:
        with quiet_libraries():
            return get_peft_model(model, config, low_cpu_mem_usage=low_cpu_mem_usage)
    except ConfigError:
        raise
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"This adapter does not fit the model: {reason}") from error


def remove_adapter(adapted: PeftModel) -> PreTrainedModel:
    """Return the base model without the adapter and without what training changed around it."""
    config = adapted.peft_config[adapted.active_adapter]
    base: Any = adapted.base_model
    if config.is_prompt_learning:
        if hasattr(base, "peft_config"):
            del base.peft_config
    else:
        base = adapted.unload()
    with quiet_libraries():
        base.gradient_checkpointing_disable()
        base.disable_input_require_grads()
    # TRL's trainer wraps `forward` on the instance; the class's own comes back.
    base.__dict__.pop("forward", None)
    model: PreTrainedModel = base
    return model


def fingerprint(model: nn.Module) -> dict[str, int]:
    """Return a checksum of the bits of every parameter and buffer, by name."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: _checksum(tensor) for name, tensor in state.items()}


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence inside a `with` block the libraries' progress bars and notes to each other.

    Downloads from the hub keep their bars: they may take long.
    """
    level, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    had_hub_bars = not huggingface_hub.utils.are_progress_bars_disabled()
    had_datasets_bars = datasets.is_progress_bar_enabled()
    with warnings.catch_warnings():
        # PEFT 0.21 still says gradient checkpointing to a transformers that renamed it.
        warnings.filterwarnings("ignore", ".*activation_checkpointing", FutureWarning)
        # Prompt tuning: no batch of ours has padding in front, so no position is lost.
        warnings.filterwarnings("ignore", "Position ids are not supported", UserWarning)
        # Said where the user has switched the hub's bars off by environment: so they stay.
        warnings.filterwarnings("ignore", "Cannot enable progress bars", UserWarning)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        datasets.disable_progress_bars()
        if had_hub_bars:
            huggingface_hub.utils.enable_progress_bars()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if had_bars:
                logging.enable_progress_bar()
            if had_datasets_bars:
                datasets.enable_progress_bars()


def _checksum(tensor: torch.Tensor) -> int:
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().contiguous().view(words[tensor.element_size()]).flatten()
    return int(bits.sum(dtype=torch.int64))
