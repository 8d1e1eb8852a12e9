"""The command line: every verb answers, and every mistake of a user's is one line without a traceback."""

import sys
from pathlib import Path

import pytest
import yaml

from qpeft import __version__, autoload, cli
from qpeft.recipe import load_recipe

ROOT = Path(__file__).parent.parent


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["qpeft", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else int(bool(ended.value.code))


@pytest.mark.parametrize(
    "verb", ["train", "eval", "chat", "init", "methods", "circuit", "doctor", "autoload"]
)
def test_every_verb_has_help(verb, monkeypatch, capsys):
    assert run(monkeypatch, verb, "--help") == 0
    assert "Usage: qpeft" in capsys.readouterr().out


def test_version_is_the_packages(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_init_writes_a_recipe_that_loads(tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.yaml"
    assert run(monkeypatch, "init", str(path)) == 0
    recipe = load_recipe(path)
    assert (recipe.adapter.method, *recipe.output_dir.parts[-2:]) == ("qtha", "runs", "mine")
    assert run(monkeypatch, "init", str(path)) == 1
    assert "--force" in capsys.readouterr().err
    assert run(monkeypatch, "init", str(path), "--force") == 0


def test_init_into_a_missing_folder_names_it(tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, "init", str(tmp_path / "nowhere" / "a.yaml")) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.stepz=3", "Did you mean 'steps'?"),
        ("training.steps=many", "training.steps"),
        ("nonsense", "nonsense"),
        ("model=./no/such/model", "no/such/model"),
        ("adapter.method=lroa", "no PEFT method is called 'lroa'"),
        ("adapter.rank=3", "adapter.rank"),
        ("adapter.ansatz=reuplaod", "Did you mean 'reupload'?"),
        ("data.task=chain_some", "Did you mean 'chain_sum'?"),
        ("data.options.min_term=2", "Did you mean 'min_terms'?"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_would_be_right(
    override, expected, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("reasoning_gym")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text())
    recipe["model"] = str(_tiny_model(tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    code = run(
        monkeypatch, "train", str(path), "--set", f"output_dir={tmp_path}/run", "--set", override
    )
    error = capsys.readouterr().err
    assert code == 1
    assert expected in error
    assert "Traceback" not in error
    # Libraries may log on their first import; what qpeft says begins with its name.
    assert [line for line in error.splitlines() if line.startswith("qpeft: ")] == [
        error.strip().splitlines()[-1]
    ]
    assert not (tmp_path / "run").exists()


def test_two_mistakes_are_told_together(tmp_path, monkeypatch, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text((ROOT / "recipes" / "smoke.yaml").read_text())
    run(monkeypatch, "train", str(path), "--set", "training.stepz=3", "--set", "sed=1")
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_circuit_counts_what_it_draws(monkeypatch, capsys):
    assert run(monkeypatch, "circuit", "-n", "3", "-l", "2", "--ansatz", "encode_once") == 0
    drawn = capsys.readouterr().out
    assert "3 qubits" in drawn
    assert "24 trained angles" in drawn
    assert drawn.count("RY") >= 3 + 2 * 2 * 3


@pytest.mark.parametrize(("form", "start"), [("svg", "<svg"), ("qasm3", "OPENQASM 3")])
def test_circuit_writes_other_forms(form, start, monkeypatch, capsys):
    assert run(monkeypatch, "circuit", "--format", form) == 0
    assert capsys.readouterr().out.startswith(start)


def test_methods_lists_qtha_first_and_lora(monkeypatch, capsys):
    monkeypatch.setattr(cli.console, "width", 200, raising=False)
    assert run(monkeypatch, "methods") == 0
    printed = capsys.readouterr().out
    assert printed.index("qtha") < printed.index("lora")


def test_doctor_finds_the_core_packages(monkeypatch, capsys):
    assert run(monkeypatch, "doctor") == 0
    printed = capsys.readouterr().out
    assert "qpeft[origin]" in printed  # brackets are no markup
    assert "torch" in printed
    assert "registered" in printed


def test_autoload_hook_is_put_in_place_and_taken_away(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(autoload, "hook_file", lambda: tmp_path / autoload.FILE_NAME)
    assert run(monkeypatch, "autoload", "on") == 0
    assert (tmp_path / autoload.FILE_NAME).read_text().startswith("import ")
    assert run(monkeypatch, "autoload", "off") == 0
    assert not list(tmp_path.iterdir())
    assert "off" in capsys.readouterr().out


def test_every_shipped_recipe_loads():
    recipes = sorted((ROOT / "recipes").glob("*.yaml"))
    assert {path.stem for path in recipes} >= {"math", "smoke"}
    for path in recipes:
        assert load_recipe(path).output_dir == Path("runs").absolute() / path.stem


def _tiny_model(folder: Path) -> Path:
    """Save a tiny random Llama with a tokenizer that knows single characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(vocabulary),
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )
    )
    target = folder / "tiny-llama"
    fast.save_pretrained(target)
    model.save_pretrained(target)
    return target
