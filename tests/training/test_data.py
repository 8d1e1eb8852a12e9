"""Data: which examples come out of files, templates, dialogues and tasks, and what is refused."""

import csv
import json
import logging
import subprocess
import sys
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from qpeft.errors import DataError, MissingExtraError
from qpeft.recipe import DataSpec
from qpeft.training.data import Example, load_splits
from qpeft.training.tasks import question_key, task_names

PAIRS = [{"prompt": f"{i} + {i} =", "completion": f" {2 * i}"} for i in range(20)]
CHAIN = {
    "task": "chain_sum",
    "options": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "prompt": "Question: {expression} = ?\nAnswer:",
    "completion": " {answer}",
}


@pytest.fixture
def jsonl(tmp_path):
    def write(rows, name="a.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def load(files, *, chat=True, **keys):
    return load_splits(DataSpec(files=files, **keys), tokenizer_has_chat_template=chat)


def refusal(files, *, chat=True, **keys):
    with pytest.raises(DataError) as caught:
        load(files, chat=chat, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- files -----------------------------------------------------------------------------------


def test_every_file_format_gives_the_same_examples(tmp_path, jsonl):
    paths = [jsonl(PAIRS), tmp_path / "a.json", tmp_path / "a.csv", tmp_path / "a.parquet"]
    paths[1].write_text(json.dumps(PAIRS))
    with paths[2].open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(PAIRS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), paths[3])
    first, *others = [load(path).train for path in paths]
    assert first[3] == Example("3 + 3 =", " 6", "6")
    assert all(other == first for other in others)


def test_a_files_hash_is_that_of_its_bytes(jsonl):
    path = jsonl(PAIRS)
    sum_ = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout
    assert load(path).hashes == {str(path): sum_.split()[0]}


def test_a_limit_reads_the_first_rows_only(jsonl):
    path = jsonl([*PAIRS[:3], "not json"])
    assert [e.answer for e in load(path, limit=3).train] == ["0", "2", "4"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "the file has no rows"),
        (["", "  "], "the file has no rows"),
        ([PAIRS[0], "{oops"], "line 2: not valid JSON at column 2"),
        ([PAIRS[0], "", "[1, 2]"], "line 3: expected an object with columns"),
        ([PAIRS[0], {"prompt": "a"}], "line 2: the field 'completion' is missing"),
        ([PAIRS[0], {"prompt": "a", "completion": ""}], "line 2: the field 'completion' is empty"),
        ([PAIRS[0], {"prompt": "a", "completion": " "}], "line 2: the completion is empty"),
        ([{"q": "a", "a": "b"}], "line 1: cannot tell the format from the columns q, a (known are"),
        (
            [{"prompt": 1, "completion": 2}],
            "line 1: 'prompt' is not a list of 'role' and 'content'",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_line(jsonl, rows, expected):
    assert expected in refusal(jsonl(rows))


def test_a_missing_file_names_the_nearest_one(jsonl):
    path = jsonl(PAIRS, "train.jsonl")
    assert refusal(path.with_name("tarin.jsonl")).endswith("Did you mean 'train.jsonl'?")
    assert "The folder" in refusal(path.parent / "no" / "train.jsonl")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert "expected a file ending in .jsonl, .json, .csv" in refusal(tmp_path / "a.txt")
    (tmp_path / "a.parquet").write_text("x")
    assert "not a Parquet file" in refusal(tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert "expected a JSON list of rows" in refusal(tmp_path / "a.json")
    (tmp_path / "b.jsonl").write_bytes(b'{"prompt": "\xff"}')
    assert "not UTF-8" in refusal(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prompt,completion\na,b\na,b,c\n", "row 2: more than the header's 2 fields"),
        ("prompt,completion\na,b\na\n", "row 2: the field 'completion' is empty"),
        ('prompt,completion\na,"b"c\n', "row 1: not well-formed CSV"),
        ("prompt,completion\n", "the file has no rows"),
    ],
)
def test_a_bad_csv_row_is_refused_with_its_number(tmp_path, text, expected):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert expected in refusal(path)


# ---- templates -------------------------------------------------------------------------------


def test_templates_render_columns_nested_ones_too(jsonl):
    path = jsonl([{"q": "why?", "answers": {"text": ["so", "no"]}, "n": 3}])
    (example,) = load(path, prompt="{{Q}} {q} {n}:", completion=" {answers.text.0}").train
    assert example == Example("{Q} why? 3:", " so", "so")


def test_templates_can_be_put_as_a_dialogue(jsonl):
    path = jsonl([{"q": "why?", "a": "so"}])
    (example,) = load(path, prompt="{q}", completion=" {a}", format="messages").train
    assert example.prompt == [{"role": "user", "content": "why?"}]
    assert example.completion == [{"role": "assistant", "content": "so"}]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("{qq}", "data.prompt: unknown placeholder {qq}. Did you mean 'q'? Columns: q, a."),
        ("{}", "data.prompt: unknown placeholder {}."),
        ("{q!r}", "data.prompt: unknown placeholder {q}."),
        ("{q", "data.prompt: expected '}' before end of string; write a brace"),
    ],
)
def test_a_wrong_placeholder_is_refused(jsonl, prompt, expected):
    path = jsonl([{"q": "why?", "a": "so"}])
    assert refusal(path, prompt=prompt, completion="{a}").startswith(expected)


def test_a_template_refuses_a_row_without_its_column(jsonl):
    path = jsonl([{"q": "why?", "a": "so"}, {"q": "x", "a": None}])
    message = refusal(path, prompt="{q}", completion="{a}")
    assert message.endswith("line 2: the field 'a' is missing or null")


# ---- dialogues -------------------------------------------------------------------------------


def test_every_assistants_turn_is_an_example(jsonl):
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "u2"},
        {"role": "assistant", "content": "a2"},
        {"role": "user", "content": "u3"},
    ]
    examples = load(jsonl([{"messages": turns}])).train
    assert examples == [
        Example(turns[:2], [turns[2]], "a1"),
        Example(turns[:4], [turns[4]], "a2"),
    ]


def test_sharegpt_is_messages_under_other_names(jsonl):
    path = jsonl(
        [
            {
                "conversations": [
                    {"from": "gpt", "value": "hello"},
                    {"from": "human", "value": "u"},
                    {"from": "gpt", "value": "a"},
                ]
            }
        ]
    )
    (example,) = load(path).train
    assert [m["role"] for m in example.prompt] == ["assistant", "user"]
    assert example.completion == [{"role": "assistant", "content": "a"}]


def test_alpaca_is_a_dialogue_where_the_model_has_a_template(jsonl):
    path = jsonl([{"instruction": "Add.", "input": "1 2", "output": "3"}])
    (example,) = load(path, chat=True).train
    assert example.prompt == [{"role": "user", "content": "Add.\n\n1 2"}]
    (plain,) = load(path, chat=False).train
    assert plain == Example("Task: Add.\nGiven: 1 2\nResult:", " 3", "3")


def test_alpaca_without_input_shows_no_empty_place(jsonl):
    path = jsonl([{"instruction": "Sing.", "input": "", "output": "la"}])
    assert load(path, chat=False).train[0].prompt == "Task: Sing.\nResult:"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([{"role": "usr", "content": "a"}], "messages[0].role is \"usr\". Did you mean 'user'?"),
        ([{"role": "user", "content": None}], "messages[0].content is not a text or empty: null"),
        ([{"role": "user", "content": "a"}], "no assistant's turn after a user's"),
        ("hello", "'messages' is not a list of 'role' and 'content'"),
    ],
)
def test_a_bad_dialogue_is_refused(jsonl, turns, expected):
    assert expected in refusal(jsonl([{"messages": turns}]))


def test_dialogues_need_a_chat_template(jsonl):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert "no chat template" in refusal(jsonl([{"messages": turns}]), chat=False)


def test_another_format_than_the_columns_is_refused(jsonl):
    message = refusal(jsonl(PAIRS), format="alpaca")
    assert "the field 'instruction' is missing (format 'alpaca')" in message


# ---- parts -----------------------------------------------------------------------------------


def test_parts_split_off_are_disjoint_and_seeded(jsonl):
    path = jsonl(PAIRS)
    splits = load(path, n_validation=3, n_test=5, seed=1)
    parts = [{e.prompt for e in part} for part in (splits.train, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [12, 3, 5]
    assert len(set.union(*parts)) == 20
    assert load(path, n_validation=3, n_test=5, seed=1).test == splits.test
    assert load(path, n_validation=3, n_test=5, seed=2).test != splits.test
    assert load(path, n_test=5, seed=1).test == splits.test


def test_a_prompt_that_is_held_out_is_not_trained_on(jsonl):
    splits = load(jsonl(PAIRS + PAIRS), n_test=5, n_validation=5)
    held_out = {e.prompt for e in splits.test} | {e.prompt for e in splits.validation}
    assert held_out.isdisjoint(e.prompt for e in splits.train)
    assert {e.prompt for e in splits.test}.isdisjoint(e.prompt for e in splits.validation)


def test_a_dialogue_stays_in_one_part(jsonl):
    rows = [
        {"messages": [{"role": r, "content": f"{i}{r}"} for r in ["user", "assistant"] * 2]}
        for i in range(6)
    ]
    splits = load(jsonl(rows), n_test=2)
    assert [len(splits.train), len(splits.test)] == [8, 4]
    first = {e.prompt[0]["content"] for e in splits.test}
    assert first.isdisjoint(e.prompt[0]["content"] for e in splits.train)


def test_too_few_rows_to_split_are_refused(jsonl):
    message = refusal(jsonl(PAIRS), n_validation=10, n_test=10)
    assert "20 rows are too few to split off n_validation 10 and n_test 10" in message


def test_parts_with_files_of_their_own_are_cut_not_split(jsonl):
    files = {"train": jsonl(PAIRS), "test": jsonl(PAIRS[:6], "t.jsonl")}
    splits = load(files, n_train=8, n_test=4)
    assert [e.answer for e in splits.test] == ["0", "2", "4", "6"]
    assert [len(splits.train), len(splits.validation)] == [8, 0]


def test_test_prompts_that_are_trained_on_are_warned_of(jsonl, caplog):
    files = {"train": jsonl(PAIRS), "test": jsonl(PAIRS[:6], "t.jsonl")}
    with caplog.at_level(logging.WARNING):
        load(files)
    assert "6 of the 6 test prompts also occur in the training data" in caplog.text


def test_exact_match_ignores_surrounding_blanks(jsonl):
    splits = load(jsonl(PAIRS))
    scores = [splits.verifier.score(text, splits.train[3]) for text in (" 6\n", "6.0", "")]
    assert scores == [1.0, 0.0, 0.0]


def test_an_unreachable_hub_data_set_is_one_line(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"^hub data set no/such, split 'train': [^\n]+$"):
        load_splits(DataSpec(hub="no/such"), True)


def test_hub_rows_are_read_like_those_of_a_file(monkeypatch):
    from datasets import Dataset

    asked = []

    def load_dataset(hub, name, *, split, revision):
        asked.append((hub, name, split, revision))
        return Dataset.from_list(PAIRS[:5] if split == "train" else PAIRS[5:7])

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    spec = DataSpec(hub="a/b", name="main", splits={"test": "held"}, limit=4)
    splits = load_splits(spec, True)
    assert asked == [("a/b", "main", "train", None), ("a/b", "main", "held", None)]
    assert [e.answer for e in splits.train] == ["0", "2", "4", "6"]
    assert [e.answer for e in splits.test] == ["10", "12"]
    assert set(splits.hashes) == {"a/b/train", "a/b/test"}


# ---- tasks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sums():
    pytest.importorskip("reasoning_gym")
    spec = DataSpec(**CHAIN, n_train=400, n_validation=50, n_test=100)
    return load_splits(spec, tokenizer_has_chat_template=False)


def test_a_task_gives_the_prompts_of_its_template(sums):
    example = sums.train[0]
    expression = example.entry["metadata"]["expression"]
    assert example.prompt == f"Question: {expression} = ?\nAnswer:"
    assert example.completion == f" {example.entry['answer']}"
    assert eval(expression) == int(example.answer)


def test_the_parts_of_a_task_share_no_question_in_any_order(sums):
    keys = Counter(
        tuple(sorted(example.entry["metadata"]["expression"].split()))
        for part in (sums.train, sums.validation, sums.test)
        for example in part
    )
    assert len(keys) == 550
    assert max(keys.values()) == 1


def test_swapped_terms_are_the_same_question_and_grids_are_not():
    def key(question, answer):
        return question_key({"question": question, "answer": answer})

    assert key("4 + 13 =", "17") == key("13 + 4 =", "17")
    assert key("4 - 13 =", "-9") == key("13 - 4 =", "9")
    assert key("4 + 13 =", "17") != key("4 - 13 =", "-9")
    assert key("0 1\n1 1", "a") != key("1 1\n0 1", "a")


def test_the_parts_of_a_task_are_alike(sums):
    def share_of_short(part):
        return sum(e.entry["metadata"]["num_digits"] == 1 for e in part) / len(part)

    # Drawn without a shuffle, the few one-digit sums would nearly all be in the part cut first.
    assert abs(share_of_short(sums.train) - share_of_short(sums.test)) < 0.15


def test_a_task_is_the_same_for_the_same_seed_only(sums):
    def load_with(seed):
        spec = DataSpec(**CHAIN, n_train=400, n_validation=50, n_test=100, seed=seed)
        return load_splits(spec, tokenizer_has_chat_template=False)

    assert load_with(0).hashes == sums.hashes
    other = load_with(1)
    assert other.hashes.keys() == sums.hashes.keys()
    shared = {e.prompt for e in other.train} & {e.prompt for e in sums.train}
    assert len(shared) < 200


def test_the_verifier_is_the_tasks_own(sums):
    example = sums.test[0]
    score = sums.verifier.score
    assert score(f" {example.answer}\n", example) == 1.0
    assert score(f"{example.answer}.00", example) == 1.0
    assert score(str(int(example.answer) + 1), example) == 0.0
    assert score("", example) == 0.0
    assert "reasoning-gym" in sums.verifier.name


def test_a_task_can_be_put_as_a_dialogue():
    pytest.importorskip("reasoning_gym")
    spec = DataSpec(task="chain_sum", n_train=2, format="messages")
    example = load_splits(spec, tokenizer_has_chat_template=True).train[0]
    assert example.prompt[0]["role"] == "user"
    assert example.completion == [{"role": "assistant", "content": example.answer}]
    with pytest.raises(DataError, match="no chat template"):
        load_splits(spec, tokenizer_has_chat_template=False)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"task": "chain_sums"}, "no task is called 'chain_sums'. Did you mean 'chain_sum'?"),
        (
            {"options": {"min_term": 2, "max_digits": "x", "seed": 1, "size": 3}},
            "data.options.min_term: unknown option of ChainSumConfig. Did you mean 'min_terms'?\n"
            'data.options.max_digits: expected a whole number, got "x"\n'
            "data.options.seed: cannot be set here; use data.seed\n"
            "data.options.size: cannot be set here; use data.n_train, data.n_validation and "
            "data.n_test",
        ),
        ({"options": {"min_terms": 5, "max_terms": 2}}, "max_terms must be >= min_terms"),
        ({"prompt": "{expresion}"}, "unknown placeholder {expresion}. Did you mean 'expression'?"),
        (
            {"options": {"max_terms": 2, "max_digits": 1}, "n_train": 200},
            "gave only 110 different questions in 4200 draws, but",
        ),
    ],
)
def test_a_wrong_task_is_refused(keys, expected):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(DataError) as caught:
        load_splits(DataSpec(**{"task": "chain_sum", "n_train": 5, **keys}), True)
    assert expected in str(caught.value)


def test_a_text_that_the_task_stumbles_over_is_wrong():
    pytest.importorskip("reasoning_gym")
    splits = load_splits(DataSpec(task="prime_factorization", n_train=2), True)
    with pytest.raises(ValueError, match="invalid literal"):
        splits.verifier.dataset.score_answer("words", splits.train[0].entry)
    assert splits.verifier.score("words", splits.train[0]) == 0.0


def test_a_verifier_that_takes_anything_is_warned_of(caplog):
    pytest.importorskip("reasoning_gym")
    with caplog.at_level(logging.WARNING):
        load_splits(DataSpec(**CHAIN, n_train=5, n_test=5), True)
        assert caplog.text == ""
        load_splits(DataSpec(task="game_of_life_halting", n_train=1, n_test=5), True)
    assert "takes the text 'no answer' for right" in caplog.text


def test_a_task_without_reference_answers_is_refused():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(DataError, match="row 1: the field 'answer' is missing or null"):
        load_splits(DataSpec(task="rubiks_cube", n_train=2), True)


def test_task_names_are_those_that_can_be_loaded_alone():
    pytest.importorskip("reasoning_gym")
    assert "chain_sum" in task_names()
    assert "composite" not in task_names()


def test_without_reasoning_gym_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qpeft\[tasks\]'"):
        load_splits(DataSpec(task="chain_sum", n_train=2), True)
