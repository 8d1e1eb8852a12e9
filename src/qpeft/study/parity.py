"""Who gets what in a study, and the refusal of a difference that the study file does not own up to."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qpeft.errors import StudyError
from qpeft.study.spec import QUANTITIES, Quantity, StudySpec

PARAMETERS_TOLERANCE = 0.05
"""Numbers of parameters that lie no further apart than this share count as equal."""


_COUNTED = tuple(quantity for quantity in QUANTITIES if quantity != "options")
"""Those that a plan has numbers of; the study file itself is refused for the options of a control."""


@dataclass(frozen=True)
class ParityRow:
    """What an arm gets on a task.

    Args:
        task: A task's name.
        arm: An arm's name.
        compared_with: The arm whose budget it has to keep to.
        parameters: Trainable parameters.
        tokens: Tokens trained on, about.
        steps: Optimiser steps.
        batch_size: Examples of an optimiser step.
        trials: Learning rates that are tried.
        circuits: Circuits evaluated in the forward pass of an optimiser step, about.
        training: Other keys of `training` that are the arm's own, as text.
    """

    task: str
    arm: str
    compared_with: str
    parameters: int
    tokens: int
    steps: int
    batch_size: int
    trials: int
    circuits: int
    training: str

    def get(self, quantity: Quantity) -> int | str:
        """Return one of the quantities."""
        values: dict[str, int | str] = {
            "parameters": self.parameters,
            "tokens": self.tokens,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "trials": self.trials,
            "circuits": self.circuits,
            "training": self.training,
        }
        return values[quantity]


def check_parity(spec: StudySpec, rows: Sequence[ParityRow]) -> None:
    """Raise if an arm gets more or less than the arm that it is compared with, undeclared.

    Circuits may differ without a word: that is what such a study is about.

    Args:
        spec: The study file, with what each arm declares.
        rows: One for each task and arm.

    Raises:
        StudyError: A difference is not declared, or a declared one does not exist; names arm,
            quantity and numbers.
    """
    found = [*_undeclared(spec, rows), *_not_there(spec, rows)]
    if found:
        raise StudyError("\n".join(found))


def find_differences(
    rows: Sequence[ParityRow],
) -> Iterator[tuple[ParityRow, ParityRow, Quantity]]:
    """Return each row, the row that it is compared with, and a quantity in which they differ."""
    by_name = {(row.task, row.arm): row for row in rows}
    for row in rows:
        other = by_name[row.task, row.compared_with]
        for quantity in _COUNTED:
            if _differ(row, other, quantity):
                yield row, other, quantity


def _undeclared(spec: StudySpec, rows: Sequence[ParityRow]) -> Iterator[str]:
    told: set[tuple[str, Quantity]] = set()
    for row, other, quantity in find_differences(rows):
        key = (row.arm, quantity)
        if quantity == "circuits" or quantity in spec.arm(row.arm).differs or key in told:
            continue
        told.add(key)
        yield (
            f"Arm '{row.arm}' has {_said(row.get(quantity))} {_WORDS[quantity]} on task '{row.task}', but "
            f"'{other.arm}', which it is compared with, has {_said(other.get(quantity))}. "
            f'Make them equal, or say why it may be so: differs: {{{quantity}: "the reason"}} in that arm.'
        )


def _not_there(spec: StudySpec, rows: Sequence[ParityRow]) -> Iterator[str]:
    there = {(row.arm, quantity) for row, _, quantity in find_differences(rows)}
    for arm in spec.arms:
        for quantity in arm.differs:
            if quantity not in _COUNTED or (arm.label, quantity) in there:
                continue
            own, other = (
                next(row for row in rows if row.arm == name)
                for name in (arm.label, spec.compared_with(arm))
            )
            yield (
                f"Arm '{arm.label}' declares that its {_WORDS[quantity]} differ from those of '{other.arm}', but "
                f"they do not: {_said(own.get(quantity))} and {_said(other.get(quantity))}. "
                f"Remove '{quantity}' from its 'differs'."
            )


def _differ(row: ParityRow, other: ParityRow, quantity: Quantity) -> bool:
    if quantity != "parameters":
        return row.get(quantity) != other.get(quantity)
    return abs(row.parameters - other.parameters) > PARAMETERS_TOLERANCE * other.parameters


def _said(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value or "none"


_WORDS = {
    "parameters": "trainable parameters",
    "tokens": "training tokens",
    "steps": "optimiser steps",
    "batch_size": "examples a step",
    "trials": "trials of the tuning",
    "circuits": "circuits a step",
    "training": "training settings of its own",
}
