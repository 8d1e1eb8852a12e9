"""Who judges the answers of files and hub data sets: the values of `data.verifier`.

| verifier | right is                                                                             |
|----------|--------------------------------------------------------------------------------------|
| `exact`  | the very answer, but for surrounding blanks                                          |
| `number` | a text whose number is the answer's: the one behind `####`, else the last one        |
| `word`   | the answer in upper or lower case, with punctuation around it or without             |
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from qpeft.errors import DataError
from qpeft.training.examples import ExactMatch, Example, Verifier


@dataclass(frozen=True)
class NumberMatch:
    """Right is a text whose final number equals the answer's; GSM8K writes it behind `####`."""

    name: str = "final number"

    def score(self, text: str, example: Example) -> float:
        """Return 1.0 if both texts have a final number and it is the same, else 0.0."""
        expected = None if example.answer is None else final_number(example.answer)
        return float(expected is not None and final_number(text) == expected)


@dataclass(frozen=True)
class WordMatch:
    """Right is the answer, whatever its case, its blanks and the punctuation around it."""

    name: str = "word"

    def score(self, text: str, example: Example) -> float:
        """Return 1.0 if the text is the example's answer in these respects, else 0.0."""
        return float(example.answer is not None and _bare(text) == _bare(example.answer))


VERIFIERS: Mapping[str, Verifier] = {
    "exact": ExactMatch(),
    "number": NumberMatch(),
    "word": WordMatch(),
}


def chosen_verifier(name: str, test: Sequence[Example]) -> Verifier:
    """Return the verifier of a recipe's data, once it is known to fit.

    Args:
        name: The value of `data.verifier`.
        test: The examples that it shall judge.

    Raises:
        DataError: It would not take an example's own answer for right.
    """
    verifier = VERIFIERS[name]
    for example in test:
        answer = str(example.answer)
        if example.answer is not None and verifier.score(answer, example) < 1.0:
            begin = answer if len(answer) <= 60 else answer[:57] + "..."
            raise DataError(
                f"data.verifier: '{name}' finds nothing to compare in the answer {begin!r}; "
                "use 'exact', or another completion"
            )
    return verifier


def final_number(text: str) -> Decimal | None:
    """Return the first number behind the last `####`, else the last number; None if there is none.

    Commas between thousands are read over; a minus counts where nothing that it could be
    subtracted from stands before it.

    Example:
        >>> final_number("She sold 48 + 24 clips.\\n#### 1,072"), final_number("so it is 7.50.")
        (Decimal('1072'), Decimal('7.50'))
    """
    before, mark, after = text.rpartition("####")
    numbers = _NUMBER.findall(after if mark else before + after)
    if not numbers:
        return None
    return Decimal(numbers[0 if mark else -1].replace(",", ""))


_NUMBER = re.compile(r"(?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")


def _bare(text: str) -> str:
    words = " ".join(text.split()).casefold()
    return words.strip(string.punctuation + " ") or words  # a label may be a sign, such as +
