"""What an adapter forgets: the loss on general text with it, less that without it.

The general text is what the base model itself writes: continuations of a few plain openings, drawn at
temperature 1 from its whole distribution. Then the base model's loss is the entropy of its own text, and the
difference an estimate of the Kullback-Leibler divergence, a token, of the adapted model from the base model. It
needs no corpus and no licence and exists for every model. Its limits: it sees what the base model says often,
not what it knows and rarely says, nor any skill by name; and numbers of different base models do not compare.
For those a text file can be given in its place.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from qpeft.errors import StudyError
from qpeft.files import written_whole
from qpeft.study.measures.subject import Subject, left_out
from qpeft.training.adapting import quiet_libraries
from qpeft.training.encoding import encode_prompt, end_token_ids, pad_token_id

OPENINGS = (
    "In the",
    "It was",
    "The city",
    "People who",
    "One of",
    "When the",
    "A good",
    "The history",
    "She looked",
    "Scientists have",
    "If you",
    "Most of",
    "There are",
    "Water is",
    "My favorite",
    "How to",
)
"""How the base model's texts begin; plain words that commit to no subject."""

_DRAWN_TOGETHER = 64  # texts
_BATCH = 8  # texts whose distributions over the vocabulary are in memory at once

Rows = list[tuple[list[int], list[int]]]
"""Token ids of each text: what is only read, and what is scored."""


def measure_forgetting(subject: Subject) -> dict[str, Any]:
    """Return the mean loss a token on general text with the adapter and without it.

    Returns:
        The keys in the table of `qpeft.study.measures`, in nats a token, or why it was left out.

    Raises:
        StudyError: The text file cannot be read or is too short.
    """
    spec = subject.spec
    if not spec.n_forgetting_texts:
        return left_out("n_forgetting_texts is 0")
    rows = _file_rows(subject) if spec.forgetting_file else base_texts(subject)
    before, after, divergence = _losses(subject, rows)
    n_tokens = [len(scored) for _, scored in rows]
    total = sum(n_tokens)
    difference = (sum(after) - sum(before)) / total
    deviations = [a - b - difference * n for a, b, n in zip(after, before, n_tokens, strict=True)]
    return {
        "difference": difference,
        "standard_error": _standard_error(deviations, total),
        "with_adapter": sum(after) / total,
        "without_adapter": sum(before) / total,
        "divergence": sum(divergence) / total,
        "n_texts": len(rows),
        "n_tokens": total,
        "text": spec.forgetting_file.name if spec.forgetting_file else "samples of the base model",
    }


def base_texts(subject: Subject) -> Rows:
    """Return texts of the base model itself: drawn once for all who share a cache folder."""
    spec = subject.spec
    facts = [
        sorted(subject.base_bits.items()),
        OPENINGS,
        spec.n_forgetting_texts,
        spec.forgetting_tokens,
        spec.seed,
    ]
    if spec.cache_folder is None:
        return _draw(subject)
    spec.cache_folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    file = spec.cache_folder / f"base_texts-{key}.json"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            drawn = _draw(subject)
            texts = [subject.tokenizer.decode(read + scored) for read, scored in drawn]
            with written_whole(file) as partial:
                content = json.dumps({"rows": drawn, "texts": texts}, ensure_ascii=False)
                partial.write_text(content, encoding="utf-8")
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return [(read, scored) for read, scored in rows]


def _draw(subject: Subject) -> Rows:
    spec, model, tokenizer = subject.spec, subject.model, subject.tokenizer
    n_texts = spec.n_forgetting_texts
    encoded = [encode_prompt(tokenizer, OPENINGS[i % len(OPENINGS)]) for i in range(n_texts)]
    length = min(map(len, encoded))  # openings of one length need no padding
    openings = torch.tensor([row[:length] for row in encoded], device=model.device)
    ends = end_token_ids(model, tokenizer)
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_beams=1,
        max_new_tokens=spec.forgetting_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad_token_id(tokenizer),
    )
    base: Any = model.get_base_model()
    texts: list[list[int]] = []
    with quiet_libraries(), torch.random.fork_rng(), torch.no_grad(), model.disable_adapter():
        torch.manual_seed(spec.seed)
        for ids in openings.split(_DRAWN_TOGETHER):
            mask = torch.ones_like(ids)
            drawn = base.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            texts += drawn.tolist()
    return [(text[:length], _until_end(text[length:], ends)) for text in texts]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    stops = [i for i, token in enumerate(ids) if token in ends]
    return ids[: stops[0] + 1] if stops else ids


def _file_rows(subject: Subject) -> Rows:
    spec, file = subject.spec, Path(str(subject.spec.forgetting_file))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"forgetting_file {file} cannot be read as UTF-8 text: {error}") from error
    ids = _ids_of_text(subject.tokenizer, text)
    size = spec.forgetting_tokens + 1
    starts = range(0, len(ids) - size + 1, size)
    if not starts:
        raise StudyError(
            f"forgetting_file {file} has {len(ids)} tokens; give at least {size}, or lower "
            f"forgetting_tokens."
        )
    n = min(spec.n_forgetting_texts, len(starts))
    chosen = [starts[i * len(starts) // n] for i in range(n)]  # all over the file
    return [(ids[s : s + 1], ids[s + 1 : s + size]) for s in chosen]


def _ids_of_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _losses(subject: Subject, rows: Rows) -> tuple[list[float], list[float], list[float]]:
    """Return for each text the summed loss without and with the adapter, and the summed divergence."""
    model, pad = subject.model, pad_token_id(subject.tokenizer)
    before, after, divergence = [0.0] * len(rows), [0.0] * len(rows), [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: -sum(map(len, rows[i])))
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        whole = [rows[i][0] + rows[i][1] for i in batch]
        width = max(map(len, whole))
        ids = torch.tensor([r + [pad] * (width - len(r)) for r in whole], device=model.device)
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in whole]).to(ids)
        with torch.no_grad():
            adapted = _log_probabilities(model, ids, mask)
            with model.disable_adapter():
                base = _log_probabilities(model, ids, mask)
        for i, row, q, p in zip(batch, ids, adapted, base, strict=True):
            first, last = len(rows[i][0]), sum(map(len, rows[i]))
            scored = slice(first - 1, last - 1)  # a position speaks about the next token
            targets = row[first:last, None]
            p, q = p[scored], q[scored]
            before[i] = -float(p.gather(1, targets).double().sum())
            after[i] = -float(q.gather(1, targets).double().sum())
            # Over the whole vocabulary: the same in expectation, with less noise, never below 0.
            divergence[i] = float((p.exp() * (p - q)).double().sum())
    return before, after, divergence


def _log_probabilities(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Return (rows, tokens, vocabulary), without the places of virtual tokens."""
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return torch.log_softmax(logits[:, -ids.shape[1] :].float(), dim=-1)


def _standard_error(deviations: Sequence[float], n_tokens: int) -> float:
    """Return the standard error of a ratio of sums over independent texts."""
    n = len(deviations)
    if n < 2:
        return 0.0
    return math.sqrt(n / (n - 1) * sum(d * d for d in deviations)) / n_tokens
