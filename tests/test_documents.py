"""What the documents say is true: links lead somewhere, pages are fresh, examples run."""

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

import qpeft

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LIGHT_ROOMS = ("qpeft.circuits", "qpeft.layers", "qpeft.backends", "qpeft.errors")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not missing


def test_the_page_of_the_command_line_is_fresh():
    made = runpy.run_path(str(ROOT / "scripts" / "make_docs.py"))["cli_page"]()
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == made, (
        "Make it anew: python scripts/make_docs.py"
    )


@pytest.mark.parametrize("name", qpeft.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(qpeft, name) is not None


def _light_modules() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(qpeft.__path__, "qpeft.")]
    return [name for name in found if name.startswith(LIGHT_ROOMS)]


@pytest.mark.parametrize("name", _light_modules())
def test_examples_in_docstrings_run(name, monkeypatch):
    module = importlib.import_module(name)
    torch = importlib.import_module("torch")
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.failed == 0


def test_the_pythons_of_the_readme_run_on_a_tiny_model(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S
    )
    assert len(blocks) == 2
    tiny = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=576,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=50,
        )
    )
    tiny.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda _: _load(tmp_path / "base"))
    names: dict[str, object] = {}
    exec(blocks[0], names)
    monkeypatch.undo()
    names["model"].peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    names["model"].save_pretrained(tmp_path / "adapter")
    exec(blocks[1].replace("runs/math/qtha", str(tmp_path / "adapter")), names)
    assert names["model"].active_peft_config.peft_type == "QTHA"


def _load(path):
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(path)
