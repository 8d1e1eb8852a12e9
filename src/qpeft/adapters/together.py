"""Prepares all adapters of one shape together at the start of a model's forward pass.

What depends on weights alone takes a hundred small operations an adapter; a 30-layer model has 210 adapters. Done
for all of one shape at once it takes the same number of operations in all. A forward pre-hook does it and a
forward hook forgets it, so that nothing outlives the pass. An adapter that finds nothing prepared does it for
itself, with the same result: that is the way under gradient checkpointing (a segment that is computed again must
not share a graph with others) and for weights that a wrapper such as FSDP has not gathered yet.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from qpeft.adapters.base import AdapterLinear

_REASON = "qpeft prepares what depends on weights alone before the model's forward, not within it"


class Preparable(Protocol):
    """An adapter module whose weights can be prepared together with others of its `shape_key`."""

    shape_key: tuple[Any, ...]
    prepared: Any

    def recall(self) -> Any:
        """Return what is still valid from an earlier pass, or None."""

    def bind_circuits(self, adapters: list[Any]) -> dict[int, Any]:
        """Bind the circuits of adapters of any shape, by the adapter's id."""

    def contract(self, adapters: list[Any], circuits: dict[int, Any]) -> list[Any]:
        """Prepare adapters of one shape."""


def prepare_in_forward(model: nn.Module) -> None:
    """Install the two hooks on a model and on the backbone below its head; harmless when repeated.

    A loss that computes the logits of few positions only calls the backbone by itself.
    """
    backbone = model.base_model if isinstance(model, PreTrainedModel) else model
    for module in dict.fromkeys([model, backbone]):
        if _prepare not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_prepare)
            module.register_forward_hook(_forget, always_call=True)


def stop_preparing(model: nn.Module) -> None:
    """Take the two hooks off a model, if it has them."""
    for hooks, ours in ((model._forward_pre_hooks, _prepare), (model._forward_hooks, _forget)):
        for key in [key for key, hook in hooks.items() if hook is ours]:
            del hooks[key]
            model._forward_hooks_always_called.pop(key, None)


@torch.compiler.disable(reason=_REASON)
def _prepare(model: nn.Module, args: Any) -> None:
    if torch.is_grad_enabled() and _recomputes(model):
        return
    groups: dict[Any, list[Any]] = defaultdict(list)
    for adapter in _active_adapters(model):
        weight = next(adapter.parameters())
        if type(weight) is not nn.Parameter or weight.numel() == 0:
            continue  # sharded or replicated: its values are not here, or not a leaf
        if adapter.prepared is not None:
            return  # the pass of a model around this one has prepared all
        adapter.prepared = adapter.recall()
        if adapter.prepared is None:
            groups[adapter.shape_key, weight.device, weight.dtype, adapter.training].append(adapter)
    every = [adapter for adapters in groups.values() for adapter in adapters]
    # The circuits of all shapes of adapters are alike: on a machine they are one batch of jobs.
    circuits = every[0].bind_circuits(every) if every else {}
    for adapters in groups.values():
        contracted = adapters[0].contract(adapters, circuits)
        for adapter, prepared in zip(adapters, contracted, strict=True):
            adapter.prepared = prepared


@torch.compiler.disable(reason=_REASON)
def _forget(model: nn.Module, args: Any, output: Any) -> None:
    for adapter in _active_adapters(model):
        adapter.prepared = None


def _active_adapters(model: nn.Module) -> Iterator[Any]:
    """Yield the adapter modules that the next forward pass will use and that can be prepared."""
    for layer in model.modules():
        if isinstance(layer, AdapterLinear) and not layer.disable_adapters:
            for name in layer.active_adapters:
                if name in layer.adapters:
                    yield cast(Preparable, layer.adapters[name])


def _recomputes(model: nn.Module) -> bool:
    """Return whether parts of the forward pass will be computed again in backward.

    transformers' models carry a flag; any other use of torch.utils.checkpoint shows, while it runs, as
    hooks on saved tensors, which `QthaAdapter.forward` looks for itself.
    """
    return any(vars(module).get("gradient_checkpointing") is True for module in model.modules())
