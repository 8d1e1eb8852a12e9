"""Makes our methods known to PEFT: the only file that touches PEFT's tables.

PEFT's registry takes only names that are members of its `PeftType` enum, and knows no plug-ins. So a member is
added, then PEFT's own `register_peft_method` does the rest. `tests/adapters/test_registration.py` is the canary
that tells when a new PEFT makes this unnecessary or impossible.
"""

import enum
from typing import Any

from qpeft.errors import ConfigError


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
