"""Chooses how a width is written as a product of small modes for a tensor train.

A width that factors badly (a prime, say) is padded: the product of its modes is then larger than the width
and what is over is cut off. The choice depends on the width alone, so that it is the same at save and load.
"""

import math
from functools import lru_cache

from qpeft.errors import ConfigError

MAX_PADDING = 0.125  # of the width
MAX_PADDING_WIDTHS = 1024  # so that a vocabulary-sized width is still chosen at once
PADDING_GAIN = 1.5  # pad only if it makes the largest mode smaller by this factor


@lru_cache(maxsize=4096)
def mode_sizes(width: int, n_cores: int) -> tuple[int, ...]:
    """Return `n_cores` mode sizes, largest first, whose product is the width or a little more.

    Raises:
        ConfigError: A size is less than one.

    Example:
        >>> mode_sizes(3584, 4), mode_sizes(577, 4)
        ((8, 8, 8, 7), (6, 5, 5, 4))
    """
    if width < 1 or n_cores < 1:
        raise ConfigError(f"Need width >= 1 and n_cores >= 1; got {width} and {n_cores}.")
    exact = _most_even(width, n_cores)
    limit = width + min(math.floor(width * MAX_PADDING), MAX_PADDING_WIDTHS)
    padded = min(
        (_most_even(candidate, n_cores) for candidate in range(width, limit + 1)),
        key=lambda modes: (sum(modes), math.prod(modes)),
    )
    return padded if exact[0] > PADDING_GAIN * padded[0] else exact


def check_modes(width: int, modes: tuple[int, ...], n_cores: int) -> tuple[int, ...]:
    """Return mode sizes that a user gave for a width.

    Raises:
        ConfigError: Their number is not `n_cores` or their product is less than the width.
    """
    if len(modes) != n_cores or any(mode < 1 for mode in modes):
        raise ConfigError(
            f"mode_sizes[{width}] needs n_cores={n_cores} positive sizes; got {list(modes)}."
        )
    if math.prod(modes) < width:
        raise ConfigError(
            f"mode_sizes[{width}]: the product of {list(modes)} is {math.prod(modes)}, less than "
            f"the width {width}."
        )
    return modes


@lru_cache(maxsize=65536)
def _most_even(width: int, n_cores: int) -> tuple[int, ...]:
    """Return the exact factorisation into n_cores factors with the smallest sum, largest first."""
    if n_cores == 1:
        return (width,)
    root = round(width ** (1 / n_cores))
    best: tuple[int, ...] = (width,) + (1,) * (n_cores - 1)
    for smallest in range(1, root + 1):
        if width % smallest == 0:
            modes = (*_most_even(width // smallest, n_cores - 1), smallest)
            if sum(modes) < sum(best):
                best = tuple(sorted(modes, reverse=True))
    return best
