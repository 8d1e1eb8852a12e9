"""The exceptions that qpeft raises for a user's mistake or a missing thing.

    QpeftError                 every error of ours; the CLI shows its message in one line
    |- ConfigError             an adapter, circuit or engine option that cannot work (also a ValueError)
    |- RecipeError             a recipe or an override that is wrong; all problems found (also a ValueError)
    |- DataError               a data set that is missing, empty or of the wrong form (also a ValueError)
    |- ModelError              a base model that is missing or cannot be used
    |- MissingExtraError       an optional package is not installed; names the extra (also an ImportError)
    |- MergeError              an adapter that has no merged form (also a NotImplementedError)
    |- StudyError              what a study refuses: an unfair comparison, a folder of another study
    |- RemoteError             a quantum machine, or the way to it, says no; trying again does not help
    |  |- TransientError       a failure that passes
    |  |  |- NotSentError         the request certainly has not arrived
    |  |  `- ConnectionLostError  the request may have arrived
    |  |- UnknownJobError      the machine knows no job of this id
    |  |- JobFailedError       the machine took a job and gave no result
    |  `- CorruptResultError   a result whose circuits, shots or keys do not add up
    `- JobsError               what the journal of hardware jobs refuses
       |- BudgetError          a job would pass a cap; nothing was sent
       `- UncertainJobError    a job may or may not have been sent; only its owner can tell

A message says what was wrong, where, and what to do.
"""

import difflib
from collections.abc import Iterable


class QpeftError(Exception):
    """Base class of every error that qpeft raises on purpose."""


class ConfigError(QpeftError, ValueError):
    """An option of an adapter, a circuit or an engine cannot work."""


class RecipeError(QpeftError, ValueError):
    """A recipe is wrong.

    Args:
        problems: One line for each mistake, in the order of the recipe.
    """

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DataError(QpeftError, ValueError):
    """A data set is missing, empty or not of the form that the recipe says."""


class ModelError(QpeftError):
    """A base model is missing, cannot be read or cannot be used."""


class MissingExtraError(QpeftError, ImportError):
    """An optional package is not installed.

    Args:
        package: The package that could not be imported.
        extra: The extra of qpeft that brings it.
        purpose: What needs it, as it should stand in the sentence.
    """

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(
            f"{purpose} needs the package '{package}'. Install it with: pip install 'qpeft[{extra}]'"
        )


class MergeError(QpeftError, NotImplementedError):
    """An adapter cannot be merged into the base weights."""


class StudyError(QpeftError):
    """A study refuses something: an unfair comparison, a folder of another study, a missing result."""


class RemoteError(QpeftError):
    """A quantum machine, or the way to it, says no; trying again does not help."""


class TransientError(RemoteError):
    """A failure that passes."""


class NotSentError(TransientError):
    """A transient failure before a request was sent: it certainly has not arrived."""


class ConnectionLostError(TransientError):
    """A transient failure after which nobody here knows whether the request has arrived."""


class UnknownJobError(RemoteError):
    """The machine knows no job of this id."""


class JobFailedError(RemoteError):
    """The machine took a job and gave no result."""


class CorruptResultError(RemoteError):
    """A result whose circuits, shots or keys do not add up."""


class JobsError(QpeftError):
    """The journal of hardware jobs refuses something."""


class BudgetError(JobsError):
    """A job would pass a cap of the budget; nothing was sent."""


class UncertainJobError(JobsError):
    """A job may or may not have been sent, and the remote cannot be asked."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest valid name, or the list of valid names.

    Args:
        name: What was given.
        valid: The names that would have worked.

    Example:
        >>> did_you_mean("reuplaod", ["reupload", "encode_once"])
        " Did you mean 'reupload'?"
    """
    options = sorted(valid)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Valid: {', '.join(options)}."
