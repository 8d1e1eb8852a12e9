"""One forward pass over real test examples, for hooks that look at what the layers do to their tokens."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.study.measures.subject import Subject
from qpeft.training.encoding import encode_example, pad_token_id
from qpeft.training.losses import is_prompt_learning

Watcher = Callable[[Tensor, Tensor], None]
"""Told the inputs (rows, d_in) and the outputs (rows, d_out) of a module, padding left out."""


def watch_tokens(subject: Subject, watchers: Mapping[nn.Module, Watcher], n_rows: int) -> int:
    """Run the first test examples, prompts and completions, through the model once.

    Args:
        subject: What is measured.
        watchers: Who looks at a module, with all rows at a time; modules that take no rows are passed over.
        n_rows: About how many tokens; whole examples are taken until there are so many.

    Returns:
        The number of rows, which is smaller where the test split has fewer tokens.
    """
    rows = _first_examples(subject, n_rows)
    width = max(len(row) for row in rows)
    pad = pad_token_id(subject.tokenizer)
    device = subject.model.device
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    handles = [
        module.register_forward_hook(_hook(watcher, mask.bool()))
        for module, watcher in watchers.items()
    ]
    options = {} if is_prompt_learning(subject.model) else {"logits_to_keep": 1}
    try:
        with torch.no_grad():
            subject.model(input_ids=ids, attention_mask=mask, use_cache=False, **options)
    finally:
        for handle in handles:
            handle.remove()
    return sum(len(row) for row in rows)


def _first_examples(subject: Subject, n_rows: int) -> list[list[int]]:
    rows: list[list[int]] = []
    n = 0
    for example in subject.splits.test:
        if n >= n_rows:
            break
        prompt, completion = encode_example(subject.tokenizer, example)
        rows.append(prompt + completion)
        n += len(rows[-1])
    return rows


def _hook(watcher: Watcher, is_token: Tensor) -> Callable[[nn.Module, Any, Any], None]:
    def see(_module: nn.Module, args: Any, output: Any) -> None:
        if not args or not isinstance(output, Tensor):
            return  # no layer of rows: a whole attention block, say
        # Experts of a mixture see their tokens in a list of their own, without padding's place.
        known = args[0].shape[:2] == is_token.shape and args[0].dim() == 3
        kept = is_token.flatten() if known else slice(None)
        watcher(args[0].flatten(0, -2)[kept], output.flatten(0, -2)[kept])

    return see
