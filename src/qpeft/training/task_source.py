"""What a source of tasks is: the names it knows, and how it makes the problems of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qpeft.recipe import DataSpec
from qpeft.training.examples import Verifier

Sizes = Mapping[str, int]
"""How many problems the `test`, the `validation` and the `train` part shall have, in this order."""


@dataclass(frozen=True)
class Problem:
    """One problem of a task.

    Args:
        columns: What the templates `data.prompt` and `data.completion` may name, with its value.
        entry: The task's own record of the problem, for its verifier.
    """

    columns: dict[str, Any]
    entry: dict[str, Any]


@dataclass(frozen=True)
class TaskData:
    """The problems of a task, and all that depends on the task.

    Args:
        parts: The problems of each part; no problem of one part occurs in another.
        verifier: Judges generated texts.
        prompt: The template that `data.prompt` replaces.
        completion: The template that `data.completion` replaces.
    """

    parts: dict[str, list[Problem]]
    verifier: Verifier
    prompt: str
    completion: str


@dataclass(frozen=True)
class TaskSource:
    """A library or table that tasks come from.

    Args:
        names: Returns the names that `data.task` takes.
        make: Makes the problems of the task that a recipe names, of the sizes given; raises
            DataError for options and sizes that it cannot serve. The same recipe gives the same
            problems.
    """

    names: Callable[[], list[str]]
    make: Callable[[DataSpec, Sizes], TaskData]
