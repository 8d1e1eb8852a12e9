"""For all tests: no hub, no progress bars, fp32, and no warnings of other packages about themselves."""

import importlib.util
import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

NOT_OURS = (
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",  # torchao, on import
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # PEFT, of transformers
)


def pytest_configure(config: pytest.Config) -> None:
    # `dtype: auto` is bf16 on a CPU that multiplies in it, and numbers that hold in fp32 do not hold there.
    torch.cpu._is_avx512_bf16_supported = lambda: False
    torch.cpu._is_amx_tile_supported = lambda: False
    for warning in NOT_OURS:
        config.addinivalue_line("filterwarnings", warning)


@pytest.fixture(scope="session", autouse=True)
def plain_4_bit() -> None:
    """Let bitsandbytes leave weights as they are: on a CPU with bf16 it packs them into wide blocks."""
    if importlib.util.find_spec("bitsandbytes"):
        from bitsandbytes.nn import modules

        modules.has_avx512bf16 = lambda: False
