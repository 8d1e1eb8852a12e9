"""How sure the numbers of an evaluation are: an interval for one model, a test for two."""

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson_interval(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a proportion, as fractions in [0, 1].

    Args:
        n_correct: Successes.
        n: Trials; 0 gives (0, 1).
        confidence: How often such an interval holds the true proportion.

    References:
        E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).

    Example:
        >>> [round(x, 3) for x in wilson_interval(82, 100)]
        [0.733, 0.883]
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = n_correct / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low = 0.0 if n_correct == 0 else middle - half
    return low, 1.0 if n_correct == n else middle + half


def mcnemar_p_value(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Return the exact two-sided p-value that two models are equally often right.

    Only the examples count where one model is right and the other wrong: if the models were
    equal, each of those would be a fair coin.

    Args:
        a: Whether the first model was right, for every example.
        b: The same for the second model, on the same examples.

    References:
        Q. McNemar, Psychometrika 12, 153 (1947), in its exact binomial form.

    Example:
        >>> mcnemar_p_value([True] * 6, [False] * 6)
        0.03125
    """
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)
