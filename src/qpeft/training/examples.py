"""What training and evaluation share about data: an example, the parts, and who judges a text."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

Message = dict[str, str]
"""One turn of a dialogue: its `role` and its `content`."""

Text = str | list[Message]
"""Plain text, or the turns of a dialogue."""


@dataclass(frozen=True)
class Example:
    """One prompt and the completion that the model shall learn.

    Args:
        prompt: Plain text, or all the turns before the completion.
        completion: Of the same kind as the prompt.
        answer: What an evaluation expects, without surrounding blanks; None if nothing does.
        entry: The task's own record of the problem, for its verifier.
    """

    prompt: Text
    completion: Text
    answer: str | None = None
    entry: dict[str, Any] | None = None


class Verifier(Protocol):
    """Judges a generated text against an example."""

    @property
    def name(self) -> str:
        """How the verifier is called in tables."""

    def score(self, text: str, example: Example) -> float:
        """Return how right the text is, in [0, 1]."""


@dataclass(frozen=True)
class ExactMatch:
    """Right is what equals the answer but for surrounding blanks."""

    name: str = "exact match"

    def score(self, text: str, example: Example) -> float:
        """Return 1.0 if the text is the example's answer, else 0.0."""
        return float(example.answer is not None and text.strip() == example.answer)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, who judges answers, and what the data were.

    Args:
        train: The examples to learn from.
        validation: The examples whose loss is watched during training; may be empty.
        test: The examples that are held out for the evaluation; may be empty.
        verifier: Judges generated texts.
        hashes: SHA-256 (hexadecimal) of each file, or of each part's generated rows.
    """

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    verifier: Verifier
    hashes: dict[str, str]


def hash_examples(examples: Iterable[Example]) -> str:
    """Return the SHA-256 (hexadecimal) of the texts of the examples, in their order."""
    digest = hashlib.sha256()
    for example in examples:
        texts = [example.prompt, example.completion, example.answer]
        digest.update(json.dumps(texts, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
