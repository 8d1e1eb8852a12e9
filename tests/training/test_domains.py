"""The domain recipes and what they need: each runs offline on its sample, as its own header says."""

import json
import logging
import re
import runpy
from decimal import Decimal
from pathlib import Path

import pytest
from tiny import CHAT_TEMPLATE, make_tiny_model

from qpeft.errors import DataError
from qpeft.recipe import DataSpec, load_recipe
from qpeft.training import train
from qpeft.training.data import load_splits
from qpeft.training.examples import Example
from qpeft.training.verifiers import VERIFIERS, final_number

ROOT = Path(__file__).parents[2]
NAMES = ["gsm8k", "r1-distill", "medicine", "pubmedqa", "finance", "counselling"]


def offline(name):
    """The overrides in the recipe's own header."""
    text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    return re.findall(r"--set (\S+)", text)


def load(folder, *, chat=True, **keys):
    return load_splits(DataSpec(files=folder, **keys), tokenizer_has_chat_template=chat)


@pytest.fixture
def jsonl(tmp_path):
    def write(rows, name="train.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


# ---- recipes and samples ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_sample_has_the_columns_that_the_page_says_the_data_set_has(name):
    page = (ROOT / "docs" / "domains.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| [{name}](../recipes/"))
    hub, columns = (cell.strip() for cell in row.split("|")[2:4])
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert f"`{recipe.data.hub}`" in hub
    for path in (ROOT / "recipes" / "samples" / name).glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert set(json.loads(line)) == set(re.findall(r"`(\w+)`", columns))


@pytest.mark.parametrize("name", NAMES)
def test_the_mapping_reads_the_sample_and_no_test_prompt_is_trained_on(name, caplog):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", offline(name))
    with caplog.at_level(logging.WARNING):
        splits = load_splits(recipe.data, tokenizer_has_chat_template=True)
    assert caplog.text == ""
    assert all((splits.train, splits.validation, splits.test))
    for example in splits.test:
        assert splits.verifier.score(example.answer, example) == 1.0


def test_the_samples_are_what_the_script_writes():
    made = runpy.run_path(str(ROOT / "scripts" / "make_samples.py"))
    assert set(made["samples"]()) == set(NAMES)
    for name, rows in made["samples"]().items():
        folder = ROOT / "recipes" / "samples" / name
        texts = [(folder / f"{part}.jsonl").read_text("utf-8") for part in made["SIZES"]]
        assert [json.loads(line) for line in "".join(texts).splitlines()] == rows
        assert len({json.dumps(row) for row in rows}) == 60


@pytest.fixture(scope="module")
def tiny_chat_model(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), chat_template=CHAT_TEMPLATE)
    config = folder / "config.json"
    known = json.loads(config.read_text())
    # Its tokens are single letters, mostly; positions are rotations, so there are as many as asked.
    config.write_text(json.dumps({**known, "max_position_embeddings": 2048}))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_domain_recipe_trains_offline(name, tiny_chat_model, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", None)  # so a look at the hub would fail
    small = {
        "model": tiny_chat_model,
        "baselines": "[]",
        "adapter.target_modules": "[q_proj]",
        "adapter.target_saving": 0.1,  # its layers are narrow
        "data.n_test": 2,
        "data.n_validation": 2,
        "training.steps": 2,
        "training.batch_size": 1,
        "training.max_length": 1024,
        "training.on_long": "error",
        "evaluation.base_model": "false",
        "evaluation.max_new_tokens": 2,
        "output_dir": tmp_path / "run",
    }
    overrides = offline(name) + [f"{key}={value}" for key, value in small.items()]
    train(load_recipe(ROOT / "recipes" / f"{name}.yaml", overrides))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "finished"
    assert results["arms"]["qtha"]["training"]["steps_done"] == 2


# ---- what they need of the loader ------------------------------------------------------------


def test_labels_are_put_in_words(jsonl):
    path = jsonl([{"text": "up", "label": 1}, {"text": "down", "label": "0"}])
    keys = {"prompt": "{text}:", "completion": " {label}"}
    labels = {"label": {0: "bad", 1: "good"}}
    assert [e.answer for e in load(path, labels=labels, **keys).train] == ["good", "bad"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"label": {0: "bad"}}, "line 1: the field 'label' is 1, but data.labels names 0"),
        ({"lable": {1: "good"}}, "line 1: the field 'lable' is null, but data.labels names 1"),
    ],
)
def test_a_value_without_a_word_is_refused(jsonl, labels, expected):
    path = jsonl([{"text": "up", "label": 1}])
    with pytest.raises(DataError, match=expected):
        load(path, labels=labels, prompt="{text}", completion="{label}")


@pytest.mark.parametrize(
    ("key", "value"), [("labels", {"label": {0: "bad"}}), ("verifier", "word")]
)
def test_a_task_takes_neither_labels_nor_a_verifier(key, value):
    with pytest.raises(ValueError, match=f"{key}: a task has"):
        DataSpec(task="chain_sum", n_train=1, **{key: value})


def test_a_folder_is_its_files_by_part(jsonl, tmp_path):
    for part, n in {"train": 3, "validation": 2, "test": 1}.items():
        rows = [{"prompt": f"{part} {i}", "completion": "x"} for i in range(n)]
        jsonl(rows, f"{part}.jsonl")
    splits = load(tmp_path, n_validation=5, n_test=5)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [3, 2, 1]
    assert {Path(name).name for name in splits.hashes} == {
        f"{part}.jsonl" for part in ("train", "validation", "test")
    }


def test_a_folder_without_one_training_file_is_refused(jsonl, tmp_path):
    jsonl([{"prompt": "a", "completion": "b"}], "test.jsonl")
    with pytest.raises(DataError, match=r"expected a file train\.jsonl"):
        load(tmp_path)
    jsonl([{"prompt": "a", "completion": "b"}], "train.jsonl")
    (tmp_path / "train.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(DataError, match=r"two files for the train part, train\.csv and train\.j"):
        load(tmp_path)


def test_an_alpaca_rows_history_comes_before_its_last_turn(jsonl):
    history = [["u1", "a1"], ["u2", "a2"]]
    path = jsonl([{"instruction": "u3", "output": "a3", "history": history}])
    examples = load(path).train
    assert [example.answer for example in examples] == ["a1", "a2", "a3"]
    said = [message["content"] for message in examples[2].prompt]
    assert said == ["u1", "a1", "u2", "a2", "u3"]
    assert [m["role"] for m in examples[2].prompt] == ["user", "assistant"] * 2 + ["user"]
    with pytest.raises(DataError, match="no chat template"):
        load(path, chat=False)


def test_an_empty_history_changes_nothing(jsonl):
    rows = [{"instruction": "u", "output": "a"}, {"instruction": "u", "output": "a", "history": []}]
    first, second = load(jsonl(rows)).train
    assert first == second


@pytest.mark.parametrize("history", [[["u1"]], [["u1", None]], ["u1"], {"u1": "a1"}])
def test_a_history_of_anything_but_pairs_is_refused(jsonl, history):
    path = jsonl([{"instruction": "u", "output": "a", "history": history}])
    with pytest.raises(DataError, match=r"line 1: history\[0\] is not a pair of texts"):
        load(path)


@pytest.mark.parametrize("pair", [["", "a2"], ["u2", " \n"], ["", ""]])
def test_an_empty_turn_of_a_history_is_named_with_its_row(jsonl, pair):
    whole = {"instruction": "u", "output": "a", "history": [["u1", "a1"]]}
    path = jsonl([whole, {**whole, "history": [["u1", "a1"], pair]}])
    with pytest.raises(
        DataError, match=r"line 2: history\[1\] has an empty turn: \[.*; fill it, or"
    ):
        load(path)


def test_a_list_of_texts_is_put_line_by_line(jsonl):
    path = jsonl([{"context": {"contexts": ["one", "two"]}, "answer": "yes"}])
    (example,) = load(path, prompt="{context.contexts}\n?", completion=" {answer}").train
    assert example.prompt == "one\ntwo\n?"


def test_a_data_set_that_is_a_script_is_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Dataset scripts are no longer supported, but found it.py")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(DataError, match=r"^hub data set a/b, split 'train': Dataset scripts"):
        load_splits(DataSpec(hub="a/b"), True)


# ---- verifiers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("6 + 5 = 11\n#### 11", "11"),
        ("#### 7 of 9", "7"),
        ("so $1,250.50 in all.", "1250.50"),
        ("it is -3", "-3"),
        ("10-3", "3"),
        ("(2)-3", "3"),
        ("#### $42.", "42"),
        ("12,34", "34"),
        ("#### none, or 5", "5"),
        ("3 apples ####", None),
        ("no number", None),
    ],
)
def test_the_final_number_is_found(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("verifier", "answer", "text", "score"),
    [
        ("number", "a\n#### 1,200", "The answer is 1200.0", 1.0),
        ("number", "a\n#### 1,200", "1200 and then 3", 0.0),
        ("number", "a\n#### 12", "", 0.0),
        ("number", "none", "none", 0.0),
        ("word", "very good", "Very  good.", 1.0),
        ("word", "very good", "very", 0.0),
        ("word", "+", "+", 1.0),
        ("word", "+", "-", 0.0),
        ("exact", "yes", " yes\n", 1.0),
        ("exact", "yes", "Yes", 0.0),
    ],
)
def test_each_verifier_judges_as_the_page_says(verifier, answer, text, score):
    example = Example("p", answer, answer)
    assert VERIFIERS[verifier].score(text, example) == score


def test_a_verifier_that_cannot_judge_the_answers_is_refused(jsonl):
    path = jsonl([{"prompt": f"p{i}", "completion": "none"} for i in range(4)])
    with pytest.raises(DataError, match="'number' finds nothing to compare in the answer 'none'"):
        load(path, verifier="number", n_test=1)
