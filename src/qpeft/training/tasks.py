"""Tasks: data that need no file, with a verifier of their own, by the name in `data.task`.

A source of tasks is an entry of `SOURCES`: the names it knows and a function that makes the
problems. Templates, dialogues, hashes and the table's order are the same for all of them.
"""

import logging
from collections.abc import Mapping, Sequence

from qpeft.errors import DataError, did_you_mean
from qpeft.recipe import DataSpec
from qpeft.training.examples import Example, Splits, Verifier, hash_examples
from qpeft.training.formats import Template, text_example
from qpeft.training.icd10 import icd10_names, make_icd10_task
from qpeft.training.reasoning_tasks import (
    make_reasoning_task,
    question_key,
    reasoning_task_names,
)
from qpeft.training.rows import Row
from qpeft.training.task_source import Problem, TaskData, TaskSource

__all__ = ["SOURCES", "load_task", "question_key", "task_names"]

# Asked in this order: a name of the first needs none of the libraries behind it.
SOURCES = (
    TaskSource(icd10_names, make_icd10_task),
    TaskSource(reasoning_task_names, make_reasoning_task),
)

_NO_ANSWER = "no answer"

logger = logging.getLogger(__name__)


def load_task(spec: DataSpec, tokenizer_has_chat_template: bool) -> Splits:
    """Make the three parts of a task; the same recipe gives the same rows.

    Args:
        spec: The task's name, options, templates, sizes and seed; `format: messages` puts the
            texts as a dialogue.
        tokenizer_has_chat_template: Whether dialogues can be shown to the model.

    Raises:
        DataError: No such task, option or placeholder, or the task has too few problems.
        MissingExtraError: The library that the task comes from is not installed.
    """
    if spec.format == "messages" and not tokenizer_has_chat_template:
        raise DataError(
            "data.format is 'messages', but the model's tokenizer has no chat template; "
            "set model.chat_template or leave the format out"
        )
    sizes = {"test": spec.n_test, "validation": spec.n_validation, "train": spec.n_train}
    data = _source(spec).make(spec, {part: n or 0 for part, n in sizes.items()})
    parts = _examples(data, spec)
    hashes = {f"{spec.task}/{part}": hash_examples(found) for part, found in parts.items() if found}
    _warn_of_lenience(data.verifier, parts["test"])
    return Splits(parts["train"], parts["validation"], parts["test"], data.verifier, hashes)


def task_names() -> list[str]:
    """Return the names that `data.task` takes.

    Raises:
        MissingExtraError: A library that tasks come from is not installed.
    """
    return sorted(name for source in SOURCES for name in source.names())


def _source(spec: DataSpec) -> TaskSource:
    for source in SOURCES:
        if spec.task in source.names():
            return source
    hint = did_you_mean(str(spec.task), task_names())
    raise DataError(f"data.task: no task is called '{spec.task}'.{hint}")


def _examples(data: TaskData, spec: DataSpec) -> dict[str, list[Example]]:
    columns = _columns(data.parts)
    prompt = Template.parse(spec.prompt or data.prompt, "data.prompt", columns)
    completion = Template.parse(spec.completion or data.completion, "data.completion", columns)
    is_chat = spec.format == "messages"
    parts: dict[str, list[Example]] = {}
    for part, problems in data.parts.items():
        parts[part] = []
        for i, problem in enumerate(problems, 1):
            row = Row(f"task '{spec.task}', {part} row {i}", problem.columns)
            texts = prompt.render(row), completion.render(row)
            example = text_example(row, *texts, is_chat=is_chat, entry=problem.entry)
            parts[part].append(example)
    return parts


def _columns(parts: Mapping[str, Sequence[Problem]]) -> list[str]:
    first = next(problem for problems in parts.values() for problem in problems)
    return list(first.columns)


def _warn_of_lenience(verifier: Verifier, test: Sequence[Example]) -> None:
    n_taken = sum(verifier.score(_NO_ANSWER, example) >= 1.0 for example in test[:20])
    if n_taken:
        logger.warning(
            "%s takes the text %r for right in %d of %d problems; its accuracy says little",
            *(verifier.name, _NO_ANSWER, n_taken, len(test[:20])),
        )
