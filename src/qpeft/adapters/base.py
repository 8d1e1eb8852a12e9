"""The tuner and the layer that all our PEFT methods share: enable, disable, mix, cast and refuse once.

A method adds a config, a module that maps rows of x to rows of the update, and two small subclasses.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features
from peft.utils import (
    AuxiliaryTrainingWrapper,
    get_quantization_kwargs,
    quantization_extra_repr,
    resolve_quantization_backend,
)
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from qpeft.errors import ConfigError

BASE_MODEL = "__base__"
"""PEFT's name for "no adapter" among the adapter names of a mixed batch."""


class AdapterLinear(nn.Module, BaseTunerLayer):
    """A linear layer (nn.Linear, Conv1D or quantised) with additive adapters beside it.

    Args:
        base_layer: The layer to adapt; stays frozen.

    Raises:
        ConfigError: The layer has no input and output width.
    """

    other_param_names = ()

    def __init__(self, base_layer: nn.Module, **kwargs: Any):
        super().__init__()
        self.base_layer = base_layer
        self.quantization_backend = resolve_quantization_backend(
            self.get_base_layer(),
            get_apply_tensor_subclass=kwargs.get("get_apply_tensor_subclass"),
        )
        d_in, d_out = _get_in_out_features(self.get_base_layer())
        if d_in is None or d_out is None:
            raise ConfigError(f"Cannot adapt a {type(self.get_base_layer()).__name__}: no widths.")
        self.in_features, self.out_features = d_in, d_out
        self._disable_adapters = False
        self.merged_adapters = []
        self.cast_input_dtype_enabled = True

    @property
    @abstractmethod
    def adapters(self) -> nn.ModuleDict:
        """The adapter modules by adapter name."""

    def update_layer(self, adapter_name: str, adapter: nn.Module, *, is_frozen: bool) -> None:
        """Add an adapter, on the base layer's device and in its precision."""
        self.adapters[adapter_name] = adapter
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=is_frozen)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return W0 x plus the updates of the active adapters, in the base layer's precision."""
        adapter_names = kwargs.pop("adapter_names", None)
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        if adapter_names is not None:
            return self._add_mixed(result, x, adapter_names)
        for name in self.active_adapters:
            if name in self.adapters:
                result = result + self._update(name, x).to(result.dtype)
        return result

    def check_merge(self) -> None:
        """Raise MergeError if this layer's adapters cannot become a part of the base weights."""

    def unmerge(self) -> None:
        """Do nothing: no adapter of ours is ever merged."""

    def _update(self, adapter_name: str, x: Tensor) -> Tensor:
        adapter = self.adapters[adapter_name]
        dtype = next(adapter.parameters()).dtype
        update: Tensor = adapter(self._cast_input_dtype(x, dtype))
        return update

    def _add_mixed(self, result: Tensor, x: Tensor, adapter_names: Sequence[str]) -> Tensor:
        """Add to each sample of the batch the update of the adapter that is named for it."""
        if len(x) != len(adapter_names):
            raise ConfigError(
                f"Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively. Name one adapter for each sample."
            )
        result = result.clone()
        for name in dict.fromkeys(adapter_names):
            if name in self.adapters:
                rows = [i for i, other in enumerate(adapter_names) if other == name]
                result[rows] += self._update(name, x[rows]).to(result.dtype)
        return result

    def extra_repr(self) -> str:
        """Show how the base layer is quantised when the module is printed."""
        text: str = quantization_extra_repr(self)
        return text

    def __repr__(self) -> str:
        return "qpeft." + super().__repr__()


class AdapterModel(BaseTuner):
    """A PEFT tuner that puts an `AdapterLinear` in the place of every target."""

    tuner_layer_cls: type[AdapterLinear] = AdapterLinear  # type: ignore[type-abstract]

    @abstractmethod
    def build_adapter(self, config: Any, d_in: int, d_out: int, module_name: str) -> nn.Module:
        """Return the adapter module of one layer."""

    @abstractmethod
    def build_layer(self, base_layer: nn.Module, **kwargs: Any) -> AdapterLinear:
        """Return the layer that takes a base layer's place."""

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        is_new = not isinstance(target, AdapterLinear)
        if not isinstance(target, AdapterLinear):
            quantization = get_quantization_kwargs(self)
            _check_target(target, current_key, quantization)
            layer: AdapterLinear = self.build_layer(target, **quantization)
            layer._active_adapter = adapter_name
        else:
            layer = target
        try:
            adapter = self.build_adapter(
                peft_config, layer.in_features, layer.out_features, current_key
            )
        except ConfigError as error:
            raise ConfigError(f"{current_key}: {error}") from error
        layer.update_layer(adapter_name, adapter, is_frozen=peft_config.inference_mode)
        if is_new:
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Return a state-dict key without the adapter's name, wherever below our dict it stands."""
        for name in cls.tuner_layer_cls.adapter_layer_names:
            head, found, tail = key.partition(f".{name}.{adapter_name}.")
            if found:
                return f"{head}.{name}.{tail}"
        return super()._remove_adapter_name_from_key(key, adapter_name)

    def _check_merge_allowed(self) -> None:
        """Refuse a merge before any module is touched, not half-way through the model."""
        super()._check_merge_allowed()
        for module in self.modules():
            if isinstance(module, AdapterLinear):
                module.check_merge()

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand `adapter_names`, one for each sample of the batch, to all that has adapters."""
        adapter_names = kwargs.pop("adapter_names", None)
        if adapter_names is None:
            yield
            return
        self._check_adapter_names(adapter_names)
        n_beams = kwargs.get("num_beams") or 1
        in_encoder = _modules_of_encoder(self.model)
        handles = []
        for module in self.modules():
            if isinstance(module, AdapterLinear | AuxiliaryTrainingWrapper):
                # Beam search repeats each sample, but only behind the encoder.
                n_repeats = 1 if module in in_encoder else n_beams
                names = [name for name in adapter_names for _ in range(n_repeats)]
                hook = partial(_pass_adapter_names, adapter_names=names)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_adapter_names(self, names: Sequence[str]) -> None:
        if self.training:
            raise ConfigError(
                "Cannot pass `adapter_names` when the model is in training mode. Call model.eval() "
                "first."
            )
        known: set[str] = set()
        for module in self.modules():
            if isinstance(module, AdapterLinear):
                known.update(module.adapters)
        unknown = sorted(set(names) - known - {BASE_MODEL})
        if unknown:
            raise ConfigError(
                f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. "
                f"There are: {', '.join(sorted(known))}, and {BASE_MODEL} for none."
            )


def _check_target(target: nn.Module, name: str, quantization: dict[str, Any]) -> None:
    from transformers.pytorch_utils import Conv1D

    base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
    if isinstance(base, NonDynamicallyQuantizableLinear):
        raise ConfigError(
            f"Target module {name} is the output projection of a torch.nn.MultiheadAttention, which "
            f"reads its weight and never calls it: an adapter would do nothing. Leave it out with "
            f"exclude_modules."
        )
    if isinstance(base, nn.Linear | Conv1D):
        return
    quantised = resolve_quantization_backend(base, **quantization)
    if quantised is not None and quantised.layer_type == "linear":
        return
    raise ConfigError(
        f"Target module {name} is a {type(base).__name__}, which is not supported; supported are "
        f"torch.nn.Linear, transformers' Conv1D and quantised linear layers."
    )


def _modules_of_encoder(model: nn.Module) -> set[nn.Module]:
    """Return all modules of an encoder-decoder model's encoder; of other models, none."""
    from transformers import PreTrainedModel

    encoder = model.get_encoder() if isinstance(model, PreTrainedModel) else model
    return set() if encoder is model else set(encoder.modules())


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kwargs["adapter_names"] = adapter_names
    return args, kwargs


def count_adapter_angles(model: nn.Module) -> int:
    """Return how many of a model's trainable parameters are circuit angles."""
    from qpeft.layers import QuantumLayer

    return sum(
        module.angles.numel()
        for module in model.modules()
        if isinstance(module, QuantumLayer) and module.angles.requires_grad
    )


__all__ = ["AdapterLinear", "AdapterModel", "count_adapter_angles"]
