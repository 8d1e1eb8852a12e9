"""Numbers as people read them: units, signs, intervals.

Shares are shown in percent, differences of shares in percentage points (pp), losses in nats a token. A space
between number and unit does not break, and a minus sign is one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qpeft.study.findings import Interval

ABSENT = "\N{EN DASH}"
"""Stands where there is no number."""

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Measure:
    """How a measure of `ArmSummary` is shown.

    Args:
        label: Its name in a sentence.
        unit: What stands after a number; "%" for shares, which are multiplied by a hundred.
        difference_unit: What stands after a difference.
        n_digits: Behind the decimal point.
    """

    label: str
    unit: str
    difference_unit: str
    n_digits: int

    @property
    def factor(self) -> float:
        """What a raw number is multiplied by to be shown."""
        return 100.0 if self.unit == "%" else 1.0


MEASURES = {
    "accuracy": Measure("accuracy", "%", "pp", 1),
    "strict_accuracy": Measure("strict accuracy", "%", "pp", 1),
    "training_effect": Measure("training effect", "%", "pp", 1),
    "test_loss": Measure("test loss", "nats/token", "nats/token", 3),
    "validation_loss": Measure("validation loss", "nats/token", "nats/token", 3),
    "forgetting": Measure("forgetting", "nats/token", "nats/token", 3),
}


def decimal(value: float | None, n_digits: int = 1, *, is_signed: bool = False) -> str:
    """Return a number with so many digits behind the point; a zero has no sign.

    Example:
        >>> decimal(-0.04, 1), decimal(2.25, 2, is_signed=True), decimal(1234567.0, 0)
        ('0.0', '+2.25', '1,234,567')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    text = f"{abs(value):,.{n_digits}f}"
    is_zero = not text.strip("0.,")
    if is_zero:
        return text
    return (MINUS if value < 0 else "+" if is_signed else "") + text


def percent(share: float | None, n_digits: int = 1) -> str:
    """Return a share in [0, 1] in percent."""
    return with_unit(decimal(None if share is None else 100 * share, n_digits), "%")


def with_unit(number: str, unit: str) -> str:
    """Put a unit behind a number that is there."""
    return number if number == ABSENT or not unit else f"{number}{SPACE}{unit}"


def interval(value: Interval, measure: str, *, has_unit: bool = True) -> str:
    """Return an estimate with its interval, as "63.2 % (60.1 to 66.0)"."""
    how = MEASURES[measure]
    middle, low, high = (
        decimal(how.factor * x, how.n_digits) for x in (value.estimate, value.low, value.high)
    )
    return _with_ends(with_unit(middle, how.unit if has_unit else ""), low, high)


def difference(value: Interval, measure: str, *, has_unit: bool = True) -> str:
    """Return a difference with its interval, as "+2.1 pp (-1.0 to +5.2)"."""
    how = MEASURES[measure]
    middle, low, high = (
        decimal(how.factor * x, how.n_digits, is_signed=True)
        for x in (value.estimate, value.low, value.high)
    )
    return _with_ends(with_unit(middle, how.difference_unit if has_unit else ""), low, high)


def spread(values: Sequence[float], n_digits: int, unit: str = "") -> str:
    """Return the mean of some runs and, where they differ, their range: "1.32 (1.28 to 1.36)"."""
    if not values:
        return ABSENT
    middle, low, high = (
        decimal(x, n_digits) for x in (sum(values) / len(values), min(values), max(values))
    )
    shown = with_unit(middle, unit)
    return shown if low == high else _with_ends(shown, low, high)


def p_value(value: float | None) -> str:
    """Return a p-value with two digits that mean something.

    Example:
        >>> p_value(0.0412), p_value(0.00002), p_value(1.0)
        ('0.041', '< 0.001', '1.00')
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    if value < 0.001:
        return f"<{SPACE}0.001"
    return f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def whole(value: float | None) -> str:
    """Return a count with separators, as "1,261,568"."""
    return decimal(None if value is None else float(value), 0)


def size(n_bytes: float | None) -> str:
    """Return bytes in decimal units, as "1.9 GB"."""
    if n_bytes is None:
        return ABSENT
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 999.95:
            return with_unit(decimal(amount, 0 if unit == "B" else 1), unit)
        amount /= 1000
    return with_unit(decimal(amount, 1), "GB")


def duration(seconds: float | None) -> str:
    """Return a time in the unit that suits it, as "2.5 h"."""
    if seconds is None:
        return ABSENT
    if seconds < 1:
        return with_unit(decimal(1000 * seconds, 0), "ms")
    if seconds < 120:
        return with_unit(decimal(seconds, 1), "s")
    if seconds < 7200:
        return with_unit(decimal(seconds / 60, 1), "min")
    return with_unit(decimal(seconds / 3600, 1), "h")


def short(value: float | None) -> str:
    """Return a number of any size with three digits, as "0.0021", "1.3e-05" or "12.4"."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.1e}".replace("-", MINUS)
    return f"{value:.3g}".replace("-", MINUS)


def _with_ends(middle: str, low: str, high: str) -> str:
    if middle == ABSENT or ABSENT in (low, high):
        return middle
    return f"{middle} ({low} to {high})"
