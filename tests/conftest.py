"""For all tests: no hub, no progress bars, and no warnings of other packages about themselves."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

NOT_OURS = (
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",  # torchao, on import
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # PEFT, of transformers
)


def pytest_configure(config: pytest.Config) -> None:
    for warning in NOT_OURS:
        config.addinivalue_line("filterwarnings", warning)
