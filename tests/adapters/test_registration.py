"""The canary for PEFT's tables: it tells when a new PEFT changes what our registration relies on."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import peft
import pytest
from peft import PeftConfig, PeftType, get_peft_config
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

import qpeft
from qpeft import QthaConfig, QthaModel
from qpeft.adapters.registration import add_peft_type, register_method
from qpeft.errors import ConfigError


def test_peft_knows_qtha_as_one_of_its_own() -> None:
    member = PeftType.QTHA
    assert isinstance(member, PeftType)
    assert (member.name, member.value, member) == ("QTHA", "QTHA", "QTHA")
    assert PeftType("QTHA") is PeftType["QTHA"] is member
    assert member in list(PeftType)
    assert len(set(PeftType)) == len(PeftType) == len(PeftType.__members__)
    assert PEFT_TYPE_TO_CONFIG_MAPPING[member] is QthaConfig
    assert PEFT_TYPE_TO_TUNER_MAPPING[member] is QthaModel
    assert PEFT_TYPE_TO_PREFIX_MAPPING[member] == "qtha_"


def test_members_of_pefts_own_are_untouched() -> None:
    assert PeftType.LORA.value == "LORA"
    assert PeftType("LORA") is PeftType.LORA
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA] is peft.LoraConfig


@pytest.mark.parametrize(
    "copy_of", [copy.copy, copy.deepcopy, lambda member: pickle.loads(pickle.dumps(member))]
)
def test_the_member_stays_itself_when_copied(copy_of: object) -> None:
    assert copy_of(PeftType.QTHA) is PeftType.QTHA


def test_a_configuration_is_made_from_its_type_and_from_a_dict() -> None:
    assert isinstance(PeftConfig.from_peft_type(peft_type="QTHA", r=3), QthaConfig)
    config = get_peft_config({"peft_type": "QTHA", "r": 3, "task_type": "CAUSAL_LM"})
    assert isinstance(config, QthaConfig)
    assert config.r == 3


def test_registering_again_changes_nothing() -> None:
    members, types = list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    register_method("qtha", QthaConfig, QthaModel)
    assert list(PeftType) == members
    assert types == PEFT_TYPE_TO_CONFIG_MAPPING


def test_a_name_that_another_package_took_is_an_error() -> None:
    class Other(QthaConfig):
        pass

    with pytest.raises(
        ConfigError, match=r"PEFT already has a method 'qtha', from qpeft\.adapters"
    ):
        register_method("qtha", Other, QthaModel)
    with pytest.raises(ConfigError, match="PEFT already has a method 'lora'"):
        register_method("lora", Other, QthaModel)
    assert add_peft_type("LORA") is PeftType.LORA


def test_peft_still_needs_us_to_add_the_member() -> None:
    """When PEFT takes plug-ins by itself, registration can be its documented way."""
    with pytest.raises(ValueError, match="Unknown PEFT type"):
        peft.utils.register_peft_method(
            name="qpeftcanary", config_cls=QthaConfig, model_cls=QthaModel
        )


def test_import_is_fast_and_waits_for_peft() -> None:
    code = (
        "import sys, qpeft\n"
        "assert not {'torch', 'peft', 'transformers', 'qpeft.adapters'} & set(sys.modules)\n"
        "watchers = [f for f in sys.meta_path if type(f).__module__ == 'qpeft.import_hook']\n"
        "assert len(watchers) == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_watcher_acts_once_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watched_module.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[int] = []

    def act() -> None:
        seen.append(sys.modules["watched_module"].value)

    before = list(sys.meta_path)
    qpeft.import_hook.when_imported("watched_module", act)
    __import__("json.tool")  # other imports leave it waiting
    assert len(sys.meta_path) == len(before) + 1
    import watched_module  # type: ignore[import-not-found]  # noqa: F401

    assert seen == [1]
    assert sys.meta_path == before
    qpeft.import_hook.when_imported("watched_module", act)
    assert seen == [1, 1]
    del sys.modules["watched_module"]


def test_the_watcher_leaves_a_missing_module_missing() -> None:
    before = list(sys.meta_path)
    qpeft.import_hook.when_imported("no_such_module_at_all", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        __import__("no_such_module_at_all")
    assert sys.meta_path == before


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'qpeft' has no attribute 'QthaConfg'"):
        _ = qpeft.QthaConfg
    assert set(qpeft.__all__) <= set(dir(qpeft)) | set(qpeft._LAZY)
    for name in qpeft.__all__:
        assert getattr(qpeft, name) is not None
