"""Makes PEFT's test classes QTHA's: imports them, chooses the tests and puts in the parameters."""

import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from contract_source import PACKAGE
from contract_table import (
    INLINE_PARAMETERS,
    NOT_APPLICABLE,
    PARAMETERS,
    RUNS_BY_DEFAULT,
    RUNS_FOR_LORA_ONLY,
    WRITTEN_WITH_LORA,
)

from qpeft import QthaConfig

IN_LORAS_WORDS = {
    "init_lora_weights": "init_weights",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
}


def adopt(folder: Path) -> dict[str, type]:
    """Return PEFT's test classes, reduced to the tests that apply and with QTHA's parameters.

    Args:
        folder: Holds PEFT's tests as the package `peft_tests`.
    """
    sys.path.insert(0, str(folder))
    pytest.register_assert_rewrite(PACKAGE)
    with _without_diffusers():
        _prepare_common_tests()
        modules = [importlib.import_module(f"{PACKAGE}.{name}") for name in PARAMETERS]
    return {name: cls for module in modules for name, cls in _adopted_classes(module)}


def stand_in_for_lora(module_name: str, test_name: str) -> Callable[..., QthaConfig] | None:
    """Return what `LoraConfig` means in a test: None if it means LoRA."""
    if test_name in RUNS_FOR_LORA_ONLY:
        return QthaConfig
    return qtha_for_lora if _is_written_with_lora(module_name, test_name) else None


def qtha_for_lora(**options: Any) -> QthaConfig:
    """Return the `QthaConfig` for what a test says to `LoraConfig`."""
    return QthaConfig(**{IN_LORAS_WORDS.get(name, name): value for name, value in options.items()})


@contextlib.contextmanager
def _without_diffusers() -> Iterator[None]:
    """PEFT's tests import one class of diffusers, which no test of ours uses."""
    try:
        importlib.import_module("diffusers")
    except ImportError:
        stub = types.ModuleType("diffusers")
        stub.StableDiffusionPipeline = type("StableDiffusionPipeline", (), {})  # type: ignore[attr-defined]
        stub.__version__ = "0"  # type: ignore[attr-defined]
        sys.modules["diffusers"] = stub
        yield
        del sys.modules["diffusers"]
    else:
        yield


def _prepare_common_tests() -> None:
    utils = importlib.import_module(f"{PACKAGE}.testing_utils")
    # PEFT lets a model's first use reach the hub; ours are all local.
    utils.hub_online_once = lambda model_id: contextlib.nullcontext()  # type: ignore[attr-defined]
    common = importlib.import_module(f"{PACKAGE}.testing_common")
    # PEFT keeps a list of the methods that adapt transformers' Conv1D; QTHA does.
    common._skip_if_conv1d_not_supported = lambda *args: None  # type: ignore[attr-defined]
    # Where PEFT's tests know that Lily, a relative of QTHA, cannot be merged, they mean QTHA too.
    common.LilyConfig = QthaConfig  # type: ignore[attr-defined]


def _adopted_classes(module: types.ModuleType) -> Iterator[tuple[str, type]]:
    module_name = module.__name__.removeprefix(f"{PACKAGE}.")
    if module_name == "test_custom_models":
        # Some tests train on inputs of up to 90 at a learning rate of 0.5, which is too high for several
        # methods. For those, RandLoRA among them, PEFT's tests take 0.01.
        module.RandLoraConfig = QthaConfig  # type: ignore[attr-defined]
    replacements = {
        id(getattr(module, name)): values for name, values in PARAMETERS[module_name].items()
    }
    for name, cls in inspect.getmembers(module, inspect.isclass):
        is_own = cls.__module__ == module.__name__ and not issubclass(cls, Exception)
        if name.startswith("Test") and is_own:
            left_out = {
                test_name: None
                for test_name, test in inspect.getmembers(cls, inspect.isfunction)
                if test_name.startswith("test_")
                and not _adopt_test(module_name, test_name, test, replacements)
            }
            adopted = pytest.mark.filterwarnings("ignore")(type(name, (cls,), left_out))
            if name not in RUNS_BY_DEFAULT:
                adopted = pytest.mark.slow(adopted)
            yield name, adopted


def _adopt_test(module_name: str, name: str, test: Any, replacements: dict[int, list[Any]]) -> bool:
    """Put QTHA's parameters into a test and return whether it is one for QTHA."""
    inline_names, inline_values = INLINE_PARAMETERS.get(name, (None, None))
    is_for_qtha = _is_written_with_lora(module_name, name)
    marks = []
    for mark in getattr(test, "pytestmark", []):
        values = None
        if mark.name == "parametrize":
            is_inline = mark.args[0] == inline_names
            values = inline_values if is_inline else replacements.get(id(mark.args[1]))
        if values is not None:
            ids = mark.kwargs.get("ids")
            ids = ids if callable(ids) else None  # a list of ids names PEFT's own parameters
            mark = pytest.mark.parametrize(mark.args[0], values, ids=ids).mark
            is_for_qtha = True
        marks.append(mark)
    if marks:
        test.pytestmark = marks
    return is_for_qtha and name not in NOT_APPLICABLE


def _is_written_with_lora(module_name: str, test_name: str) -> bool:
    patterns = WRITTEN_WITH_LORA.get(module_name, ())
    return any(fnmatch(test_name, pattern) for pattern in patterns)
