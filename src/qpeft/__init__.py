"""qpeft: fine-tune large language models with quantum-hybrid adapters.

    import qpeft
    model = get_peft_model(model, qpeft.QthaConfig(r=8))

Importing qpeft registers its methods with PEFT: at once if PEFT is loaded, otherwise as soon as it is. That
one registration is all that happens on import; everything public below is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from qpeft.errors import QpeftError
from qpeft.import_hook import when_imported

if TYPE_CHECKING:
    from qpeft.adapters import QthaConfig, QthaModel
    from qpeft.layers import QuantumLayer

__version__ = "0.1.0"
__all__ = ["QpeftError", "QthaConfig", "QthaModel", "QuantumLayer", "__version__"]

_LAZY = {
    "QthaConfig": "qpeft.adapters",
    "QthaModel": "qpeft.adapters",
    "QuantumLayer": "qpeft.layers",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'qpeft' has no attribute '{name}'")


when_imported("peft", lambda: importlib.import_module("qpeft.adapters"))
