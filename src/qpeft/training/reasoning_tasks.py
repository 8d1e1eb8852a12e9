"""Procedurally generated reasoning tasks, with their own verifiers, from the library reasoning-gym.

The parts of a task share no question. Two questions count as the same if each line of theirs has
the same words, numbers and signs in any order and their answers differ at most in sign: so
`a + b` and `b + a`, and also `a - b` and `b - a`, are never on two sides, while two different
grids of zeros and ones may be.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from qpeft.errors import DataError, MissingExtraError
from qpeft.recipe import DataSpec
from qpeft.training.examples import Example
from qpeft.training.options import option_problems
from qpeft.training.task_source import Problem, Sizes, TaskData

DEFAULT_PROMPT = "Question: {question}\nAnswer:"
DEFAULT_COMPLETION = " {answer}"


def reasoning_task_names() -> list[str]:
    """Return the names of the tasks of reasoning-gym.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
    """
    return sorted(set(_library().factory.DATASETS) - {"composite"})


def make_reasoning_task(spec: DataSpec, sizes: Sizes) -> TaskData:
    """Generate the parts of a task.

    All questions are drawn first, then shuffled, then cut, so that the parts are alike even where
    a task soon runs out of its easy questions.

    Args:
        spec: The task's name, options and seed.
        sizes: Problems of each part.

    Raises:
        DataError: No such option, or the task has too few questions.
        MissingExtraError: reasoning-gym is not installed.
    """
    dataset, entries = _distinct(spec, sum(sizes.values()))
    random.Random(spec.seed).shuffle(entries)
    parts: dict[str, list[Problem]] = {}
    for part, n in sizes.items():
        parts[part], entries = [_problem(entry) for entry in entries[:n]], entries[n:]
    verifier = TaskVerifier(f"{spec.task} (reasoning-gym)", dataset)
    return TaskData(parts, verifier, DEFAULT_PROMPT, DEFAULT_COMPLETION)


@dataclass(frozen=True)
class TaskVerifier:
    """Right is what the task's own scoring gives full marks.

    Args:
        name: How it is called in tables.
        dataset: The task, as reasoning-gym made it.
    """

    name: str
    dataset: Any

    def score(self, text: str, example: Example) -> float:
        """Return 1.0 for full marks, else 0.0: partial marks do not count as right.

        Raises:
            DataError: The example was not made by a task.
        """
        if example.entry is None:
            raise DataError("the example holds no entry of the task to be verified against")
        try:
            marks = self.dataset.score_answer(text.strip(), example.entry)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError):
            # Some tasks stumble over a text that is not of the form they expect: so it is wrong.
            return 0.0
        return float(marks >= 1.0)


def question_key(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Return what two entries share if their questions count as the same."""
    lines = entry["question"].splitlines()
    answer = str(entry["answer"]).strip().lstrip("-")
    return answer, *(tuple(sorted(re.findall(r"\w+|[^\w\s]", line))) for line in lines)


def _problem(entry: dict[str, Any]) -> Problem:
    texts = {"question": entry["question"], "answer": entry["answer"]}
    return Problem({**entry["metadata"], **texts}, entry)


def _library() -> ModuleType:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("reasoning_gym"):
            raise
        raise MissingExtraError("reasoning-gym", "tasks", "A task as data") from error
    return reasoning_gym


def _dataset(spec: DataSpec, size: int) -> Any:
    library = _library()
    _, config_class = library.factory.DATASETS[spec.task]
    reserved = {
        "seed": "use data.seed",
        "size": "use data.n_train, data.n_validation and data.n_test",
    }
    problems = option_problems(spec.options, config_class, "data.options", reserved=reserved)
    if problems:
        raise DataError("\n".join(problems))
    # The library's row i of seed s is its row 0 of seed s + i: seeds must lie far apart.
    digest = hashlib.sha256(f"{spec.task} {spec.seed}".encode()).digest()
    try:
        return library.create_dataset(
            spec.task, seed=int.from_bytes(digest[:4]), size=size, **spec.options
        )
    except (AssertionError, ValueError, TypeError) as error:
        # What the task finds by itself: values that do not go together.
        raise DataError(f"data.options: '{spec.task}' does not take this: {error}") from error


def _distinct(spec: DataSpec, n: int) -> tuple[Any, list[dict[str, Any]]]:
    """Return the task and n entries of it with different questions."""
    # Some tasks make all their rows at once, so the many draws are for those that need them.
    for n_draws in (2 * n + 200, 20 * n + 200):
        dataset = _dataset(spec, n_draws)
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for i in range(n_draws):
            try:
                entry = dataset[i]
            except IndexError:  # the task itself has run out
                break
            found.setdefault(question_key(entry), entry)
            if len(found) == n:
                return dataset, list(found.values())
    raise DataError(
        f"data: the task '{spec.task}' gave only {len(found)} different questions in {n_draws} "
        f"draws, but n_train + n_validation + n_test is {n}; lower them or widen data.options"
    )
