"""The exceptions that qpeft raises for a user's mistake or a missing thing.

    QpeftError                 every error of ours; the CLI shows its message in one line
    |- ConfigError             an adapter, circuit or engine option that cannot work (also a ValueError)
    |- RecipeError             a recipe or an override that is wrong; all problems found (also a ValueError)
    |- DataError               a data set that is missing, empty or of the wrong form (also a ValueError)
    |- ModelError              a base model that is missing or cannot be used
    |- MissingExtraError       an optional package is not installed; names the extra (also an ImportError)
    `- MergeError              an adapter that has no merged form (also a NotImplementedError)

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
