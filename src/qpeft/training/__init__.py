"""One recipe: model, data and adapter in, trained adapters and measured numbers out.

Everything public is imported on first use: the rooms below pull in torch, transformers and TRL.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qpeft.training.generation import generate_text, stream_reply
    from qpeft.training.loading import ChatModel, load_for_chat
    from qpeft.training.plan import Plan
    from qpeft.training.reevaluation import EvaluationResult, evaluate_base, evaluate_run
    from qpeft.training.reporter import Reporter, RichReporter, SilentReporter
    from qpeft.training.run import TrainingResult, train

__all__ = [
    "ChatModel",
    "EvaluationResult",
    "Plan",
    "Reporter",
    "RichReporter",
    "SilentReporter",
    "TrainingResult",
    "evaluate_base",
    "evaluate_run",
    "generate_text",
    "load_for_chat",
    "stream_reply",
    "train",
]

_HOMES = {
    "ChatModel": "loading",
    "EvaluationResult": "reevaluation",
    "Plan": "plan",
    "Reporter": "reporter",
    "RichReporter": "reporter",
    "SilentReporter": "reporter",
    "TrainingResult": "run",
    "evaluate_base": "reevaluation",
    "evaluate_run": "reevaluation",
    "generate_text": "generation",
    "load_for_chat": "loading",
    "stream_reply": "generation",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
