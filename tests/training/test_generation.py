"""Greedy text does not depend on how it was batched, and a stream says the same."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny import CHAT_TEMPLATE, PROMPT, make_recipe, make_tiny_model
from transformers import GenerationConfig

from qpeft.errors import DataError, ModelError
from qpeft.recipe import ModelSpec
from qpeft.training import generate_text, load_for_chat, stream_reply, train
from qpeft.training.encoding import encode_prompt
from qpeft.training.examples import Example
from qpeft.training.generation import SharedPrefix, cut_at_stop
from qpeft.training.models import load_base

PROMPTS = [PROMPT.format(a=a, b=b) for a, b in [(1, 2), (33, 40), (7, 18), (21, 5), (9, 9)]]
SHOTS = [Example(PROMPT.format(a=3, b=8), " 11", "11", None)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), chat_template=CHAT_TEMPLATE)


@pytest.fixture
def base(model_folder: Path) -> tuple[Any, Any]:
    return load_base(ModelSpec(name=str(model_folder)))


def one_by_one(
    model: Any, tokenizer: Any, prompts: list[str], n: int, shots: Any = ()
) -> list[str]:
    """Greedy decoding in the plainest way: the whole text anew for every token."""
    texts = []
    for prompt in prompts:
        ids = encode_prompt(tokenizer, prompt, shots)
        new: list[int] = []
        while len(new) < n and tokenizer.eos_token_id not in new:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids + new])).logits
            new.append(int(logits[0, -1].argmax()))
        texts.append(tokenizer.decode(new, skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("shots", [(), SHOTS], ids=["zero-shot", "one-shot"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_say_what_single_prompts_say(
    base: tuple[Any, Any], batch_size: int, shots: Any
) -> None:
    model, tokenizer = base
    expected = one_by_one(model, tokenizer, PROMPTS, 6, shots)
    found = generate_text(
        model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=batch_size, shots=shots
    )
    assert found == expected
    assert len(set(found)) > 1  # otherwise a mixed-up order would pass


def test_sdpa_attention_says_the_same_as_eager(model_folder: Path) -> None:
    texts = [
        generate_text(*load_base(ModelSpec(name=str(model_folder), attention=kind)), PROMPTS)
        for kind in ("eager", "sdpa")
    ]
    assert texts[0] == texts[1]


def test_prompts_with_nothing_in_common_share_no_prefix(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    prompts = ["one plus two is", "Two and two are", "3 +"]
    assert SharedPrefix(model, [encode_prompt(tokenizer, p) for p in prompts]).ids == []
    expected = one_by_one(model, tokenizer, prompts, 5)
    assert generate_text(model, tokenizer, prompts, max_new_tokens=5) == expected


def test_equal_prompts_leave_a_token_to_generate_from(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    prompts = [PROMPTS[0]] * 3
    expected = one_by_one(model, tokenizer, prompts, 5)
    assert generate_text(model, tokenizer, prompts, max_new_tokens=5) == expected


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    ],
    ids=["lora", "prompt_tuning"],
)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_adapters_are_heard_in_generated_text(base: tuple[Any, Any], config: Any) -> None:
    model, tokenizer = base
    before = generate_text(model, tokenizer, PROMPTS, max_new_tokens=5)
    adapted = get_peft_model(model, config)
    alone = [generate_text(adapted, tokenizer, [p], max_new_tokens=5)[0] for p in PROMPTS]
    assert generate_text(adapted, tokenizer, PROMPTS, max_new_tokens=5) == alone
    assert alone != before


def test_a_stop_string_ends_the_text_and_is_cut_off(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    whole = generate_text(model, tokenizer, PROMPTS, max_new_tokens=8)
    stop = whole[0][3:5]
    found = generate_text(model, tokenizer, PROMPTS, max_new_tokens=8, stop=[stop])
    assert found == [text.split(stop)[0] for text in whole]
    assert cut_at_stop("a\nb;c", [";", "\n"]) == "a"
    assert cut_at_stop("abc", []) == "abc"


def test_the_models_own_generation_settings_do_not_bend_greedy_text(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    expected = generate_text(model, tokenizer, PROMPTS, max_new_tokens=8)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=3, repetition_penalty=9.0, no_repeat_ngram_size=1
    )
    assert generate_text(model, tokenizer, PROMPTS, max_new_tokens=8) == expected


def test_generation_restores_the_training_mode(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    model.train()
    generate_text(model, tokenizer, PROMPTS[:1])
    assert model.training


def test_progress_ends_with_all_prompts(base: tuple[Any, Any]) -> None:
    seen: list[tuple[int, int]] = []
    generate_text(*base, PROMPTS, batch_size=2, on_progress=lambda *done: seen.append(done))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_prompt_beyond_the_models_positions_is_an_error(base: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"Prompt 2 has \d+ tokens; with 16 new ones"):
        generate_text(*base, ["short", "word " * 200])


@pytest.mark.parametrize("as_messages", [True, False], ids=["messages", "text"])
def test_a_stream_adds_up_to_the_whole_reply(base: tuple[Any, Any], as_messages: bool) -> None:
    prompt: Any = [{"role": "user", "content": "one"}] if as_messages else PROMPTS[0]
    pieces = list(stream_reply(*base, prompt, max_new_tokens=12))
    assert "".join(pieces) == generate_text(*base, [prompt], max_new_tokens=12)[0]


def test_a_stream_comes_in_pieces(base: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = base
    words = tokenizer(" 42 17 user assistant system")["input_ids"]
    scripted = iter(words)

    def speak(**inputs: Any) -> None:
        inputs["streamer"].put(inputs["input_ids"])
        for token in scripted:
            inputs["streamer"].put(torch.tensor([token]))
        inputs["streamer"].end()

    monkeypatch.setattr(model, "generate", speak)
    pieces = list(stream_reply(model, tokenizer, "one", max_new_tokens=12))
    assert "".join(pieces) == " 42 17 user assistant system"
    assert len(pieces) > 2


def test_a_stream_holds_its_stop_string_back(base: tuple[Any, Any]) -> None:
    whole = generate_text(*base, PROMPTS[:1], max_new_tokens=12)[0]
    stop = whole[4:7]
    text = "".join(stream_reply(*base, PROMPTS[0], max_new_tokens=12, stop=[stop]))
    assert text == whole.split(stop)[0]


def test_a_closed_stream_stops_its_thread(base: tuple[Any, Any]) -> None:
    before = set(threading.enumerate())
    stream = stream_reply(*base, PROMPTS[0], max_new_tokens=200)
    next(stream)
    stream.close()
    assert set(threading.enumerate()) <= before  # those of others may end meanwhile


def test_an_error_while_streaming_reaches_the_reader(
    base: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = base

    def fail(**_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(stream_reply(model, tokenizer, "hi"))


def test_chat_loads_a_base_model_a_run_and_an_adapter(tmp_path: Path, model_folder: Path) -> None:
    adapter = {"method": "qtha", "r": 2, "inner_width": 16, "bond_dim": 2}
    training = {"steps": 2}
    recipe = make_recipe(tmp_path, model_folder, adapter=adapter, training=training)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(ModelError, match="no finished adapter"):
        load_for_chat(tmp_path / "run")
    train(recipe, overwrite=True)
    plain = load_for_chat(model_folder)
    of_run = load_for_chat(tmp_path / "run")
    of_adapter = load_for_chat(tmp_path / "run" / "qtha")
    assert plain.prompt_template is None
    assert of_run.prompt_template == of_adapter.prompt_template == PROMPT
    assert of_run.stop == ("\n",)
    texts = [
        generate_text(chat.model, chat.tokenizer, PROMPTS, max_new_tokens=8)
        for chat in (of_run, of_adapter)
    ]
    assert texts[0] == texts[1]
    assert of_run.model.active_adapter == "default"
    with pytest.raises(ModelError, match=r"has no adapter 'lora'\. It has: qtha"):
        load_for_chat(tmp_path / "run", adapter="lora")
