"""Text from a model: many prompts at once, greedily, or one reply as a stream.

The tokens that all prompts begin with (an instruction, solved examples) are read once and their
keys and values reused for every batch: a four-shot evaluation then costs about what a zero-shot
one does.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)
from transformers.cache_utils import DynamicLayer

from qpeft.errors import DataError
from qpeft.training.adapting import quiet_libraries
from qpeft.training.encoding import encode_prompt, end_token_ids, pad_token_id
from qpeft.training.examples import Example, Text
from qpeft.training.losses import is_prompt_learning

# Below this many common tokens a batch gains less than the copy of the cache costs.
_MIN_SHARED_TOKENS = 4
# What a model's own generation settings must not bring into greedy decoding.
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}


def generate_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Text],
    *,
    max_new_tokens: int = 16,
    stop: Sequence[str] = (),
    batch_size: int = 64,
    shots: Sequence[Example] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Return the greedy continuation of every prompt, up to the first stop string.

    The answers do not depend on `batch_size` or on the order of the prompts, but for rounding.

    Args:
        model: A causal language model, with or without adapters.
        tokenizer: Its tokenizer.
        prompts: Plain texts or message lists.
        max_new_tokens: The longest continuation, in tokens.
        stop: Strings that end a continuation; they are not part of it.
        batch_size: How many prompts run at once.
        shots: Solved examples shown in front of every prompt.
        on_progress: Called with the number of finished prompts and of all.

    Raises:
        DataError: A prompt and its continuation do not fit into the model's positions.
    """
    encoded = [encode_prompt(tokenizer, prompt, shots) for prompt in prompts]
    _check_lengths(model, encoded, max_new_tokens)
    config = _greedy_config(model, tokenizer, max_new_tokens, stop)
    texts = [""] * len(encoded)
    n_done = 0
    with quiet_libraries(), evaluation_mode(model), torch.no_grad():
        shared = SharedPrefix(model, encoded)
        for rows in _batches(encoded, batch_size, is_equal_length=is_prompt_learning(model)):
            batch = shared.batch([encoded[i] for i in rows], pad_token_id(tokenizer))
            width = batch["input_ids"].shape[1]
            output = model.generate(**batch, generation_config=config, tokenizer=tokenizer)
            replies = tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
            for i, reply in zip(rows, replies, strict=True):
                texts[i] = cut_at_stop(reply, stop)
            n_done += len(rows)
            if on_progress is not None:
                on_progress(n_done, len(encoded))
    return texts


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return `text` up to the first of the stop strings in it."""
    ends = [text.index(string) for string in stop if string in text]
    return text[: min(ends)] if ends else text


def stream_reply(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Text,
    *,
    max_new_tokens: int = 256,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
) -> Iterator[str]:
    """Yield the reply piece by piece as it is generated.

    Closing the iterator, or an exception in its loop, ends the generation after its next token.

    Args:
        model: A causal language model, with or without adapters.
        tokenizer: Its tokenizer.
        prompt: The messages so far (needs a chat template), or a plain text to go on with.
        max_new_tokens: The longest reply, in tokens; less if the model has fewer positions left.
        stop: Strings that end the reply; they are not part of it.
        temperature: 0 is greedy; above, the spread of the sampling.

    Raises:
        DataError: The prompt is a message list and there is no chat template, or it is too long.
    """
    ids = encode_prompt(tokenizer, prompt)
    _check_lengths(model, [ids], 1)
    limit = _n_positions(model)
    if limit is not None:
        max_new_tokens = min(max_new_tokens, limit - len(ids))
    config = _greedy_config(model, tokenizer, max_new_tokens, stop)
    if temperature > 0:
        config.do_sample, config.temperature = True, temperature
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    cancelled = _Cancelled()
    batch = {key: value.to(model.device) for key, value in _pad_left([ids], 0).items()}

    def generate() -> None:
        with evaluation_mode(model), torch.no_grad():
            model.generate(
                **batch,
                generation_config=config,
                tokenizer=tokenizer,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([cancelled]),
            )

    with ThreadPoolExecutor(max_workers=1) as pool:
        work = pool.submit(generate)
        # Without this the loop below would wait for ever if the generation failed.
        work.add_done_callback(lambda _: streamer.end())
        try:
            yield from _until_stop(streamer, stop)
        finally:
            cancelled.event.set()
        work.result()


class evaluation_mode:  # noqa: N801 - used as a function, like torch.no_grad
    """Switch dropout off inside a `with` block and restore the model's mode after it."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._was_training = self._model.training
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        self._model.train(self._was_training)


class SharedPrefix:
    """The tokens that all sequences begin with, read by the model once.

    Args:
        model: The model, in evaluation mode.
        sequences: Token ids of all prompts; the prefix leaves at least one token of each.
    """

    def __init__(self, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> None:
        self._device = model.device
        self._cache: DynamicCache | None = None
        self.ids: list[int] = []
        prefix = _common_prefix(sequences)
        if len(sequences) < 2 or len(prefix) < _MIN_SHARED_TOKENS or is_prompt_learning(model):
            return  # virtual tokens in front need a cache of their own
        cache = DynamicCache(config=model.config)
        # A window or a recurrent state cannot skip the padding behind the prefix.
        if all(type(layer) is DynamicLayer for layer in cache.layers):
            inputs = torch.tensor([prefix], device=self._device)
            model(input_ids=inputs, past_key_values=cache, use_cache=True)
            self._cache, self.ids = cache, prefix

    def batch(self, rows: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
        """Return `input_ids`, `attention_mask` and perhaps `past_key_values` of some sequences.

        Padding stands between the prefix and the rest, so that all rows end together.
        """
        n_shared = len(self.ids)
        rest = _pad_left([row[n_shared:] for row in rows], pad)
        shared = torch.tensor([self.ids] * len(rows), dtype=torch.long)
        batch: dict[str, Any] = {
            "input_ids": torch.cat([shared, rest["input_ids"]], dim=1).to(self._device),
            "attention_mask": torch.cat(
                [torch.ones_like(shared), rest["attention_mask"]], dim=1
            ).to(self._device),
        }
        if self._cache is not None:
            batch["past_key_values"] = self.expand(len(rows))
        return batch

    def expand(self, n_rows: int) -> DynamicCache:
        """Return a copy of the prefix's keys and values for a batch."""
        cache = copy.deepcopy(self._cache)
        assert cache is not None
        cache.batch_repeat_interleave(n_rows)
        return cache


def _batches(
    encoded: Sequence[Sequence[int]], batch_size: int, *, is_equal_length: bool
) -> list[list[int]]:
    """Return the rows of each batch, the longest first.

    Too little memory then shows at once, and no batch pads a short prompt far. With virtual
    tokens in front, PEFT counts padding as positions, so such a batch has none.
    """
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
    batches: list[list[int]] = []
    for i in order:
        fits = batches and len(batches[-1]) < batch_size
        if fits and is_equal_length:
            fits = len(encoded[batches[-1][0]]) == len(encoded[i])
        if fits:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


class _Cancelled(StoppingCriteria):
    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        is_done = self.event.is_set()
        return torch.full((len(input_ids),), is_done, device=input_ids.device)


def _greedy_config(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    stop: Sequence[str],
) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        stop_strings=list(stop) or None,
        eos_token_id=end_token_ids(model, tokenizer) or None,
        pad_token_id=pad_token_id(tokenizer),
        **_NEUTRAL,
    )


def _until_stop(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    # A stop string may come in two pieces, so its length less one is held back.
    hold = max((len(string) for string in stop), default=1) - 1
    text, n_sent = "", 0
    for piece in pieces:
        text += piece
        whole = cut_at_stop(text, stop)
        end = len(whole) if len(whole) < len(text) else len(text) - hold
        if end > n_sent:
            yield text[n_sent:end]
            n_sent = end
        if len(whole) < len(text):
            return
    if len(text) > n_sent:
        yield text[n_sent:]


def _check_lengths(
    model: PreTrainedModel, encoded: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    limit = _n_positions(model)
    for i, ids in enumerate(encoded):
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise DataError(
                f"Prompt {i + 1} has {len(ids)} tokens; with {max_new_tokens} new ones that is "
                f"more than the model's {limit} positions. Shorten it or lower max_new_tokens."
            )


def _n_positions(model: PreTrainedModel) -> int | None:
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def _common_prefix(sequences: Sequence[Sequence[int]]) -> list[int]:
    if not sequences:
        return []
    # What the first and the last in order have in common, all between them have too.
    first, last = min(map(list, sequences)), max(map(list, sequences))
    limit = min(len(ids) for ids in sequences) - 1
    n_common = 0
    while n_common < limit and first[n_common] == last[n_common]:
        n_common += 1
    return list(first[:n_common])


def _pad_left(rows: Sequence[Sequence[int]], pad: int) -> dict[str, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
