"""The loss of the completion tokens, with the vocabulary's logits at their positions only.

The head of a small model is a third of its work: 49152 logits for each of 28 tokens where the
loss needs those of 4. Everything else of the forward pass is the model's own.
"""

import inspect
from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

IGNORED = -100


def completion_loss_sum(
    model: torch.nn.Module, inputs: Mapping[str, object], labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the summed negative log-likelihood of the labelled tokens, in nats, and their number.

    Args:
        model: A causal language model, with or without adapters.
        inputs: What its forward takes, without labels.
        labels: (rows, tokens), the token ids, -100 where there is no loss. Padding is on the right.
    """
    targets = labels[:, 1:]  # the logits of a position speak about the next token
    is_scored = targets != IGNORED
    positions = is_scored.any(dim=0).nonzero().flatten()
    if _keeps_logits(model):
        logits = model(**inputs, logits_to_keep=positions).logits  # (rows, positions, vocabulary)
    else:
        # Virtual tokens of prompt tuning stand in front, so count from the end.
        logits = model(**inputs).logits[:, -labels.shape[1] :][:, positions]
    is_scored = is_scored[:, positions]
    loss = functional.cross_entropy(
        logits[is_scored].float(), targets[:, positions][is_scored], reduction="sum"
    )
    return loss, is_scored.sum()


def is_prompt_learning(model: torch.nn.Module) -> bool:
    """Say whether an adapter puts virtual tokens in front of the prompt."""
    if not isinstance(model, PeftModel):
        return False
    return bool(model.peft_config[model.active_adapter].is_prompt_learning)


def _keeps_logits(model: torch.nn.Module) -> bool:
    if isinstance(model, DistributedDataParallel):
        model = model.module
    if is_prompt_learning(model):
        return False
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
