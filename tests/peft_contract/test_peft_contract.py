"""PEFT's own tests, run on QTHA. `contract_table.py` says which, with what, and what does not apply."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from adoption import adopt, stand_in_for_lora
from contract_models import save_models
from contract_source import PACKAGE, PeftTestsUnavailableError, fetch_peft_tests
from contract_table import (
    INLINE_PARAMETERS,
    MAY_SKIP,
    NOT_APPLICABLE,
    PARAMETERS,
    RUNS_FOR_LORA_ONLY,
    WRITTEN_WITH_LORA,
)

try:
    PEFT_TESTS = fetch_peft_tests()
except PeftTestsUnavailableError as error:
    if os.environ.get("CI"):
        raise
    pytest.skip(str(error), allow_module_level=True)

globals().update(adopt(PEFT_TESTS))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny models, each under its hub id."""
    folder = tmp_path_factory.mktemp("models")
    save_models(folder)
    return folder


@pytest.fixture(autouse=True)
def surroundings(
    models: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Run a test where hub ids are folders, and with QTHA where its text says LoRA."""
    monkeypatch.chdir(models)
    module = sys.modules[request.function.__module__]
    stand_in = stand_in_for_lora(
        module.__name__.removeprefix(f"{PACKAGE}."), request.node.originalname
    )
    if stand_in is not None:
        monkeypatch.setattr(module, "LoraConfig", stand_in)
        common = importlib.import_module(f"{PACKAGE}.testing_common")
        monkeypatch.setattr(common, "LoraConfig", stand_in)
    return


def test_the_table_names_only_tests_that_peft_has() -> None:
    text = {name: (PEFT_TESTS / PACKAGE / f"{name}.py").read_text() for name in PARAMETERS}
    everything = "\n".join(text.values())
    for name in (*NOT_APPLICABLE, *MAY_SKIP, *INLINE_PARAMETERS, *RUNS_FOR_LORA_ONLY):
        assert f"def {name}(" in everything, name
    for module, patterns in WRITTEN_WITH_LORA.items():
        for pattern in patterns:
            assert f"def {pattern.rstrip('_*')}" in text[module], pattern
