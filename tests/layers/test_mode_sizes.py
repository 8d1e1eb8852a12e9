"""Every width becomes a product of small modes, always the same one."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qpeft.errors import ConfigError
from qpeft.layers.mode_sizes import (
    MAX_PADDING,
    MAX_PADDING_WIDTHS,
    PADDING_GAIN,
    _most_even,
    check_modes,
    mode_sizes,
)

widths = st.integers(1, 20_000)
n_cores = st.integers(1, 6)


@pytest.mark.parametrize(
    ("width", "modes"),
    [
        (3584, (8, 8, 8, 7)),
        (512, (8, 4, 4, 4)),
        (256, (4, 4, 4, 4)),
        (576, (6, 6, 4, 4)),
        (1536, (8, 8, 6, 4)),
        (1, (1, 1, 1, 1)),
        (2, (2, 1, 1, 1)),
    ],
)
def test_widths_that_factor_well_are_kept(width: int, modes: tuple[int, ...]) -> None:
    assert mode_sizes(width, 4) == modes


@pytest.mark.parametrize(("width", "modes"), [(577, (6, 5, 5, 4)), (127, (4, 4, 4, 2))])
def test_primes_are_padded_to_small_modes(width: int, modes: tuple[int, ...]) -> None:
    assert mode_sizes(width, 4) == modes


@settings(max_examples=150, deadline=None, derandomize=True)
@given(width=widths, k=n_cores)
def test_the_product_covers_the_width_with_little_padding(width: int, k: int) -> None:
    modes = mode_sizes(width, k)
    assert len(modes) == k
    assert modes == tuple(sorted(modes, reverse=True))
    assert min(modes) >= 1
    limit = width + min(math.floor(width * MAX_PADDING), MAX_PADDING_WIDTHS)
    assert width <= math.prod(modes) <= limit


@settings(max_examples=100, deadline=None, derandomize=True)
@given(width=st.integers(64, 20_000))
def test_no_mode_of_four_is_much_larger_than_the_fourth_root(width: int) -> None:
    assert mode_sizes(width, 4)[0] <= 4 * width**0.25


@settings(max_examples=60, deadline=None, derandomize=True)
@given(width=st.integers(2, 3000))
def test_padding_makes_the_largest_mode_of_two_smaller_by_half(width: int) -> None:
    """Of two exact modes, the larger is at least the smallest divisor from the root upwards."""
    modes = mode_sizes(width, 2)
    exact = min(d for d in range(1, width + 1) if width % d == 0 and d * d >= width)
    if math.prod(modes) == width:
        assert modes[0] == exact
    else:
        assert exact > PADDING_GAIN * modes[0]


def test_a_vocabulary_sized_prime_is_chosen_at_once() -> None:
    modes = mode_sizes(151_667, 4)  # a prime
    assert 151_667 <= math.prod(modes) <= 151_667 + MAX_PADDING_WIDTHS
    assert modes[0] < 40


def test_the_choice_does_not_depend_on_what_was_asked_before() -> None:
    first = {width: mode_sizes(width, 4) for width in (577, 18_944, 11_008)}
    mode_sizes.cache_clear()
    _most_even.cache_clear()
    assert {width: mode_sizes(width, 4) for width in reversed(first)} == first


@pytest.mark.parametrize(("width", "k"), [(0, 4), (-3, 4), (16, 0)])
def test_sizes_below_one_are_refused(width: int, k: int) -> None:
    with pytest.raises(ConfigError, match="Need width >= 1 and n_cores >= 1"):
        mode_sizes(width, k)


def test_modes_by_hand_may_pad_and_keep_their_order() -> None:
    assert check_modes(10, (3, 4), 2) == (3, 4)
    with pytest.raises(ConfigError, match=r"mode_sizes\[10\]: the product of \[3, 3\] is 9"):
        check_modes(10, (3, 3), 2)
    with pytest.raises(ConfigError, match=r"mode_sizes\[10\] needs n_cores=3 positive sizes"):
        check_modes(10, (5, 2), 3)
