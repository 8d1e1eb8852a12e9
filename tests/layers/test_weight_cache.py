"""The cache holds one value, for exactly the weights from which it was made."""

import copy
import pickle

import torch

from qpeft.layers.weight_cache import WeightCache


def test_a_value_is_valid_until_a_weight_changes() -> None:
    cache: WeightCache[str] = WeightCache()
    weights = [torch.nn.Parameter(torch.zeros(3)), torch.zeros(2)]
    with torch.no_grad():
        assert cache.get(weights) is None
        cache.put(weights, "first")
        assert cache.get(weights) == "first"
        weights[1].add_(1)
        assert cache.get(weights) is None
        cache.put(weights, "second")
        assert cache.get(weights) == "second"
        assert cache.get([weights[0].clone(), weights[1]]) is None
        assert cache.get(weights[:1]) is None
        weights[0].data = torch.ones(3)
        assert cache.get(weights) is None


def test_nothing_is_kept_or_given_while_autograd_records() -> None:
    cache: WeightCache[str] = WeightCache()
    weights = [torch.zeros(3)]
    cache.put(weights, "recorded")
    with torch.no_grad():
        assert cache.get(weights) is None
        cache.put(weights, "kept")
    assert cache.get(weights) is None
    with torch.no_grad():
        assert cache.get(weights) == "kept"
        cache.clear()
        assert cache.get(weights) is None


def test_weights_without_version_counters_are_never_kept() -> None:
    cache: WeightCache[str] = WeightCache()
    with torch.inference_mode():
        weights = [torch.zeros(3)]
        cache.put(weights, "value")
        assert cache.get(weights) is None


def test_copies_start_empty() -> None:
    cache: WeightCache[str] = WeightCache()
    weights = [torch.zeros(3)]
    with torch.no_grad():
        cache.put(weights, "value")
        for other in (copy.deepcopy(cache), copy.copy(cache), pickle.loads(pickle.dumps(cache))):
            assert other.get(weights) is None
        assert cache.get(weights) == "value"
