"""Keeps what depends on weights alone while the weights do not change (generation, evaluation)."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class WeightCache(Generic[T]):
    """One value that is made from weights and is valid until one of them changes.

    A change is seen by the tensors' version counters, which in-place operations and `load_state_dict`
    advance. Fused optimisers and writes through `.data` do not, so whoever owns the cache clears it in
    every training pass. Nothing is kept that autograd has recorded.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._value: T | None = None

    def get(self, weights: Sequence[Tensor]) -> T | None:
        """Return the value made from these weights as they are now, or None."""
        if self._value is None or torch.is_grad_enabled() or self._key != _key(weights):
            return None
        return self._value

    def put(self, weights: Sequence[Tensor], value: T) -> None:
        """Keep a value, unless autograd is recording or the weights have no version counters."""
        if torch.is_grad_enabled() or any(weight.is_inference() for weight in weights):
            self.clear()
        else:
            self._key, self._value = _key(weights), value

    def clear(self) -> None:
        """Forget the value."""
        self._key = self._value = None

    def __deepcopy__(self, memo: dict[int, object]) -> "WeightCache[T]":
        return WeightCache()

    def __reduce__(self) -> tuple[type["WeightCache[T]"], tuple[()]]:
        return (WeightCache, ())


def _key(weights: Sequence[Tensor]) -> tuple[object, ...]:
    return tuple((id(w), w.data_ptr(), w._version, w.dtype) for w in weights)
