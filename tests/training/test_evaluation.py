"""Accuracy, loss, intervals and tests of an evaluation are what they say."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from tiny import CHAT_TEMPLATE, PROMPT, make_recipe, make_tiny_model

from qpeft.errors import DataError, ModelError, QpeftError
from qpeft.recipe import EvaluationSpec, ModelSpec, TrainingSpec
from qpeft.training import evaluate_run, train
from qpeft.training.encoding import encode_example, encode_prompt, encode_split
from qpeft.training.evaluation import choose_shots, compare, completion_loss, evaluate
from qpeft.training.examples import ExactMatch, Example, Splits
from qpeft.training.losses import IGNORED, completion_loss_sum
from qpeft.training.models import load_base
from qpeft.training.significance import mcnemar_p_value, wilson_interval


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), chat_template=CHAT_TEMPLATE)
    return load_base(ModelSpec(name=str(folder)))


def sums(n: int, start: int = 1) -> list[Example]:
    pairs = [(a, 3 * a % 17) for a in range(start, start + n)]
    return [
        Example(PROMPT.format(a=a, b=b), f" {a + b}", answer=str(a + b), entry=None)
        for a, b in pairs
    ]


def dialogue(question: str, answer: str, system: str | None = None) -> Example:
    before = [{"role": "system", "content": system}] if system else []
    prompt = [*before, {"role": "user", "content": question}]
    return Example(prompt, [{"role": "assistant", "content": answer}], answer, None)


def splits(test: list[Example], verifier: Any = None) -> Splits:
    return Splits(sums(20, start=50), [], test, verifier or ExactMatch(), {})


# ---- encoding ------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["Answer:", "Answer: ", "Question: 17 + 4\nAnswer: 1"])
def test_a_completion_is_trained_behind_the_tokens_that_generation_sees(
    base: tuple[Any, Any], prompt: str
) -> None:
    _, tokenizer = base
    prompt_ids, completion_ids = encode_example(tokenizer, Example(prompt, " 17", "17", None))
    assert prompt_ids == encode_prompt(tokenizer, prompt)
    assert tokenizer.decode(prompt_ids) == prompt
    assert tokenizer.decode(completion_ids) == " 17<|im_end|>"


def test_a_merge_across_the_boundary_is_kept_apart(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    joint = tokenizer("Answer: 17")["input_ids"]
    prompt_ids, completion_ids = encode_example(tokenizer, Example("Answer: ", "17", "17", None))
    assert joint[: len(prompt_ids)] != prompt_ids  # otherwise there is nothing to test
    assert prompt_ids == encode_prompt(tokenizer, "Answer: ")
    assert tokenizer.decode(completion_ids) == "17<|im_end|>"


def test_an_end_token_in_the_completion_is_not_doubled(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    _, ids = encode_example(tokenizer, Example("Answer:", " 4<|im_end|>", "4", None))
    assert ids.count(tokenizer.eos_token_id) == 1


def test_a_dialogue_ends_with_the_end_token(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    prompt_ids, completion_ids = encode_example(tokenizer, dialogue("hi", "ho", "be brief"))
    assert tokenizer.decode(prompt_ids) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.decode(completion_ids) == "ho<|im_end|>"


def test_a_template_that_opens_replies_differently_still_trains_behind_its_open_prompt(
    base: tuple[Any, Any],
) -> None:
    _, tokenizer = base
    thinking = CHAT_TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    plain, tokenizer.chat_template = tokenizer.chat_template, thinking
    try:
        prompt_ids, completion_ids = encode_example(tokenizer, dialogue("hi", "ho"))
    finally:
        tokenizer.chat_template = plain
    assert tokenizer.decode(prompt_ids).endswith("assistant\n<think>\n")
    assert tokenizer.decode(completion_ids) == "ho<|im_end|>"


def test_dialogues_without_a_chat_template_are_an_error(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    plain, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(DataError, match="no chat template"):
            encode_example(tokenizer, dialogue("hi", "ho"))
    finally:
        tokenizer.chat_template = plain


def test_shots_stand_in_front_of_the_prompt_once(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    shots = sums(2)
    text = tokenizer.decode(encode_prompt(tokenizer, "Q:", shots))
    assert text == (
        f"{shots[0].prompt}{shots[0].completion}\n\n{shots[1].prompt}{shots[1].completion}\n\nQ:"
    )
    chat = dialogue("new", "x", "be brief")
    text = tokenizer.decode(encode_prompt(tokenizer, chat.prompt, [dialogue("old", "y", "other")]))
    assert text == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nold<|im_end|>\n"
        "<|im_start|>assistant\ny<|im_end|>\n<|im_start|>user\nnew<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_row_that_is_too_long_is_named_with_its_lengths(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    rows = [*sums(2), Example("word " * 40, " 4", "4", None)]
    spec = TrainingSpec(steps=1, max_length=48)
    n_prompt = len(encode_prompt(tokenizer, "word " * 40))
    match = rf"Row 3 of the train split \('word .* has {n_prompt} prompt .*max_length 48"
    with pytest.raises(DataError, match=match):
        encode_split(tokenizer, rows, spec)


def test_too_long_rows_are_dropped_or_cut_in_front(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    rows = [*sums(2), Example("word " * 40 + "Answer:", " 4", "4", None)]
    spec = TrainingSpec(steps=1, max_length=48, on_long="drop")
    dropped = encode_split(tokenizer, rows, spec)
    assert (len(dropped.rows), dropped.n_dropped) == (2, 1)
    cut = encode_split(tokenizer, rows, spec.model_copy(update={"on_long": "truncate"}))
    prompt_ids, completion_ids = cut.rows[2]
    assert len(prompt_ids) + len(completion_ids) == 48
    assert tokenizer.decode(prompt_ids).endswith("word Answer:")
    assert tokenizer.decode(completion_ids) == " 4<|im_end|>"
    with pytest.raises(DataError, match="all were dropped"):
        encode_split(tokenizer, rows[2:], spec)


# ---- loss ----------------------------------------------------------------------------------


def test_loss_is_that_of_every_completion_token_on_its_own(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    examples, shots = sums(7), sums(2, start=40)
    total, n_tokens = 0.0, 0
    for example in examples:
        prompt_ids, completion_ids = encode_example(tokenizer, example, shots)
        ids = torch.tensor([prompt_ids + completion_ids])
        with torch.no_grad():
            log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
        for i, token in enumerate(completion_ids):
            total -= log_probs[len(prompt_ids) + i - 1, token].item()
            n_tokens += 1
    found = completion_loss(model, tokenizer, examples, batch_size=3, shots=shots)
    assert found == pytest.approx(total / n_tokens, rel=1e-5)


def test_loss_does_not_depend_on_the_batch_size(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    losses = [completion_loss(model, tokenizer, sums(9), batch_size=n) for n in (1, 4, 9)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_kept_logits_give_the_loss_and_gradient_of_all_logits(base: tuple[Any, Any]) -> None:
    model, _ = base
    torch.manual_seed(1)
    ids = torch.randint(3, 300, (3, 9))
    labels = ids.clone()
    labels[0, :4] = labels[1, :6] = labels[2, :2] = IGNORED
    labels[1, 8] = IGNORED
    loss, n_tokens = completion_loss_sum(model, {"input_ids": ids}, labels)
    weight = model.model.layers[0].self_attn.q_proj.weight
    (gradient,) = torch.autograd.grad(loss, weight)
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
    (expected_gradient,) = torch.autograd.grad(expected, weight)
    assert int(n_tokens) == int((labels[:, 1:] != IGNORED).sum())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


# ---- accuracy ------------------------------------------------------------------------------


class EndsWithDigit:
    """Accepts what ends with a digit, half accepts other text."""

    name = "ends with a digit"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def score(self, text: str, example: Example) -> float:
        self.seen.append((text, example.answer))
        return 1.0 if text and text[-1].isdigit() else 0.5


def test_the_verifier_judges_each_answer_of_its_own_example(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    verifier = EndsWithDigit()
    test = sums(12)
    spec = EvaluationSpec(max_new_tokens=6, batch_size=5, stop=["e"])
    found = evaluate(model, tokenizer, splits(test, verifier), spec)
    assert [p.expected for p in found.predictions] == [example.answer for example in test]
    assert verifier.seen == [(p.text, p.expected) for p in found.predictions]
    assert found.n == 12
    assert found.n_correct == sum(p.score == 1.0 for p in found.predictions)
    assert found.interval == wilson_interval(found.n_correct, 12)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert all("e" not in p.text and p.text == p.text.strip() for p in found.predictions)


def test_shots_come_from_the_training_split_by_seed() -> None:
    train_split = sums(20)
    first = choose_shots(train_split, 4, seed=1)
    assert first == choose_shots(train_split, 4, seed=1)
    assert first != choose_shots(train_split, 4, seed=2)
    assert all(shot in train_split for shot in first)
    with pytest.raises(DataError, match="asks for 21 solved examples"):
        choose_shots(train_split, 21, seed=1)


def test_an_empty_test_split_is_an_error(base: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"data\.n_test"):
        evaluate(*base, splits([]), EvaluationSpec())


# ---- statistics ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n_correct", "n"), [(0, 10), (7, 10), (10, 10), (410, 500), (1, 3)])
def test_wilson_interval_equals_scipys(n_correct: int, n: int) -> None:
    expected = stats.binomtest(n_correct, n).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(n_correct, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_of_nothing_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (6, 0), (3, 9), (50, 20), (4, 4)])
def test_mcnemar_equals_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    a = [True] * only_a + [False] * only_b + [True, False] * 5
    b = [False] * only_a + [True] * only_b + [True, False] * 5
    n = only_a + only_b
    expected = stats.binomtest(only_a, n).pvalue if n else 1.0
    assert mcnemar_p_value(a, b) == pytest.approx(expected)


# ---- evaluate_run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("finished")
    model = make_tiny_model(folder / "model")
    adapter = {"method": "lora", "r": 4, "target_modules": "all-linear"}
    baseline = {"method": "qtha", "r": 2, "inner_width": 16, "bond_dim": 2}
    recipe = make_recipe(
        folder, model, adapter=adapter, baselines=[baseline], training={"steps": 3}
    )
    return folder, train(recipe)


def test_evaluating_a_finished_run_repeats_its_numbers(finished: tuple[Path, Any]) -> None:
    folder, trained = finished
    again = evaluate_run(folder / "run")
    assert list(again.evaluations) == ["base", "lora", "qtha"]
    for arm, found in trained.evaluations.items():
        assert again.evaluations[arm][0].loss == pytest.approx(found[0].loss, rel=1e-6)
        assert again.evaluations[arm][0].predictions == found[0].predictions
    assert again.comparisons == trained.comparisons
    assert (folder / "run" / "eval" / "predictions" / "qtha-0shot.jsonl").exists()


def test_an_adapter_folder_is_evaluated_with_its_runs_recipe(finished: tuple[Path, Any]) -> None:
    folder, trained = finished
    found = evaluate_run(folder / "run" / "qtha", with_base=False, n_examples=4, n_shots=[1])
    (evaluation,) = found.evaluations["qtha"]
    assert list(found.evaluations) == ["qtha"]
    assert (evaluation.n, evaluation.n_shots) == (4, 1)
    written = json.loads((folder / "run" / "qtha" / "eval" / "results.json").read_text())
    assert written["arms"]["qtha"]["evaluations"][0]["n"] == 4
    assert trained.evaluations["qtha"][0].n == 10


def test_a_lone_adapter_needs_a_recipe_and_nothing_else(
    finished: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, trained = finished
    lone = tmp_path / "lone"
    lone.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (lone / name).write_bytes((folder / "run" / "lora" / name).read_bytes())
    with pytest.raises(QpeftError, match="--recipe"):
        evaluate_run(lone)
    recipe = make_recipe(folder, folder / "model")
    found = evaluate_run(lone, recipe=recipe, with_base=False)
    assert found.evaluations["lone"][0].predictions == trained.evaluations["lora"][0].predictions


def test_a_torn_adapter_is_named(finished: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = finished
    config = (folder / "run" / "lora" / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="cannot be loaded"):
        evaluate_run(tmp_path, recipe=make_recipe(folder, folder / "model"))


def test_comparing_is_by_example(base: tuple[Any, Any]) -> None:
    spec = EvaluationSpec(max_new_tokens=2)
    a = evaluate(*base, splits(sums(6), EndsWithDigit()), spec)
    found = compare("x", a, "base", a)
    assert (found.difference, found.p_value) == (0.0, 1.0)
