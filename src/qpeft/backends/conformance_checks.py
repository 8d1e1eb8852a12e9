"""What a conformance check is: a claim about a target that holds, fails, or does not apply to it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from qpeft.errors import MissingExtraError, QpeftError


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Check:
    """One claim about a target and how it ended.

    Args:
        name: The claim.
        outcome: Whether it holds.
        detail: What was measured, what is wrong, or why it does not apply.
    """

    name: str
    outcome: Outcome
    detail: str


class ViolationError(QpeftError):
    """A target breaks a claim; raised inside a check and reported by it."""


class NotApplicableError(QpeftError):
    """A claim does not apply to a target; raised inside a check and reported by it."""


# A wrong target may raise any of these; what is beyond them (an interrupt, no memory) ends the run.
RAISED_BY_TARGETS = (
    QpeftError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def run_check(name: str, check: Callable[[], str]) -> Check:
    """Run one check.

    Args:
        name: The claim.
        check: Returns what it measured; raises where the claim is broken.
    """
    try:
        return Check(name, Outcome.PASSED, check())
    except NotApplicableError as error:
        return Check(name, Outcome.SKIPPED, str(error))
    except MissingExtraError as error:
        return Check(name, Outcome.SKIPPED, str(error))
    except ViolationError as error:
        return Check(name, Outcome.FAILED, str(error))
    except RAISED_BY_TARGETS as error:
        text = " ".join(str(error).split())
        return Check(name, Outcome.FAILED, f"raised {type(error).__name__}: {text[:300]}")


def require(claim: bool, otherwise: str) -> None:
    """Raise ViolationError with a text unless a claim holds."""
    if not claim:
        raise ViolationError(otherwise)


def require_raises(kind: type[Exception], what: str, act: Callable[[], object]) -> Exception:
    """Raise ViolationError unless an act raises an error of a kind; return that error.

    Args:
        kind: The class of error that is right here.
        what: What is being tried, as it stands in the sentence.
        act: Tries it.
    """
    try:
        act()
    except kind as error:
        return error
    except RAISED_BY_TARGETS as error:
        raise ViolationError(
            f"{what} raised {type(error).__name__} ({error}), expected {kind.__name__}."
        ) from error
    raise ViolationError(f"{what} was accepted, expected {kind.__name__}.")
