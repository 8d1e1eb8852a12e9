"""Saving a trained adapter: a small folder that PEFT loads, written whole or not at all."""

import shutil
import warnings
from pathlib import Path

from peft import PeftModel

from qpeft.training.record import is_main

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the active adapter's weights and configuration into a folder.

    The configuration is moved last: a folder that has one has the weights too.

    Args:
        model: A model with one adapter.
        folder: Where to; other files in it stay.
    """
    if not is_main():
        return
    partial = folder / ".adapter.partial"
    shutil.rmtree(partial, ignore_errors=True)
    with warnings.catch_warnings():
        # PEFT asks the hub whether the vocabulary grew; the base's name may be a local folder.
        warnings.filterwarnings("ignore", "Could not find a config file in")
        model.save_pretrained(str(partial))
    for name in ADAPTER_FILES:
        (partial / name).replace(folder / name)
    shutil.rmtree(partial)
