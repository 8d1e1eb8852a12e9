"""Makes our methods known to PEFT: the only file that touches PEFT's tables.

PEFT's registry takes only names that are members of its `PeftType` enum, and knows no plug-ins. So a member is
added, then PEFT's own `register_peft_method` does the rest. `tests/adapters/test_registration.py` is the canary
that tells when a new PEFT makes this unnecessary or impossible.
"""

import enum
import re
from typing import Any

from torch import nn

from qpeft.errors import ConfigError

# How model families call the projections that LoRA adapts, single and fused.
_QUERY_OR_VALUE = re.compile(r"(q|v|query|value)(_proj|_lin)?|.*qkv.*|query_key_value|c_attn")


def add_peft_type(name: str) -> Any:
    """Return the member of PEFT's `PeftType` enum of this upper-case name, adding it if needed."""
    from peft.utils.peft_types import PeftType

    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    member.__objclass__ = PeftType  # type: ignore[attr-defined]
    # The attribute first: from Python 3.11 on, the tables below make it read-only.
    type.__setattr__(PeftType, name, member)
    members: dict[str, enum.Enum] = PeftType._member_map_
    members[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
    return member


def register_method(name: str, config_cls: type, model_cls: type) -> None:
    """Register a tuner with PEFT under a lower-case name; harmless when repeated.

    Raises:
        ConfigError: Another package has registered a method of that name.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import register_peft_method

    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(add_peft_type(name.upper()))
    if known is config_cls:
        return
    if known is not None:
        raise ConfigError(
            f"PEFT already has a method '{name}', from {known.__module__}. qpeft cannot register "
            f"its own beside it: uninstall the other package, or use a separate environment."
        )
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls, prefix=f"{name}_")


def default_targets(model_type: str, model: nn.Module) -> list[str] | str:
    """Return the target modules that PEFT's LoRA takes in models of a type.

    Args:
        model_type: The `model_type` of a transformers configuration.
        model: The base model, to say what fits if PEFT knows none.

    Raises:
        ConfigError: PEFT knows none; names those of this model that can be passed.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from transformers.pytorch_utils import Conv1D

    found = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    if found is not None:
        targets: list[str] | str = found if isinstance(found, str) else list(found)
        return targets
    layers = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    fitting = sorted(name for name in layers if _QUERY_OR_VALUE.fullmatch(name))
    advice = f"target_modules={fitting} adapts its query and value projections; " if fitting else ""
    raise ConfigError(
        f"Please specify `target_modules`: PEFT knows no default ones for models of type "
        f"'{model_type}'. {advice}linear layers here are {', '.join(sorted(layers)) or 'none'}; "
        f"'all-linear' means all but the head."
    )
