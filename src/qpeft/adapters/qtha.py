"""QTHA, the adapter of one layer and its PEFT tuner (arXiv 2503.12790).

    z = (A MPO_A) dropout(x);  q = core(z);  h = C z + Q q  or  (C z) * q;  update = (alpha / r) (MPO_B B) h

Both products in brackets are linear and independent of the rows, so they are contracted to dense r x d matrices
once a step: a row then costs what LoRA costs, and the circuit.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qpeft.adapters.base import AdapterLinear, AdapterModel
from qpeft.adapters.config import QthaConfig
from qpeft.adapters.registration import default_targets
from qpeft.adapters.sizes import choose_sizes
from qpeft.adapters.together import prepare_in_forward, stop_preparing
from qpeft.backends import BoundCircuit
from qpeft.circuits import build_ansatz
from qpeft.errors import MergeError
from qpeft.layers import ConstantCore, FourierCore, MlpCore, QuantumLayer, TensorTrain
from qpeft.layers.evaluation import EXACT, Evaluation
from qpeft.layers.quantum import bind_each
from qpeft.layers.tensor_train import contract_each
from qpeft.layers.weight_cache import WeightCache


@dataclass(frozen=True)
class Contracted:
    """What depends on an adapter's weights alone: down (r, d_in), up (r, d_out), bound circuits."""

    down: Tensor
    up: Tensor
    circuits: BoundCircuit | None


class QthaAdapter(nn.Module):
    """The trained part of one adapted layer: rows of x in, rows of the update out.

    Args:
        config: The method's options.
        d_in: Input width of the adapted layer.
        d_out: Output width of the adapted layer.
        r: Rank of this layer.
        evaluation: Where its circuits run.

    Raises:
        ConfigError: The options do not fit this layer.
    """

    def __init__(
        self, config: QthaConfig, d_in: int, d_out: int, r: int, evaluation: Evaluation = EXACT
    ):
        super().__init__()
        sizes = choose_sizes(config, d_in, d_out, r)
        width, bond_dim = sizes.inner_width, sizes.bond_dim
        self.scaling = config.scaling_of(r)
        self.is_hadamard = config.fusion == "hadamard"
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.down = TensorTrain(d_in, width, sizes.in_modes, sizes.inner_modes, bond_dim)
        self.up = TensorTrain(d_out, width, sizes.out_modes, sizes.inner_modes, bond_dim)
        self.A = nn.Parameter(torch.empty(r, width))
        self.B = nn.Parameter(torch.empty(width, r))
        self.C = nn.Parameter(torch.empty(r, r))
        self.core = build_core(config, r, evaluation)
        has_q = self.core is not None and not self.is_hadamard
        self.Q = nn.Parameter(torch.empty(r, r)) if has_q else None
        # Adapters with the same key are contracted in the same operations.
        self.shape_key = (d_in, d_out, r, sizes, self.is_hadamard, self.scaling, repr(self.core))
        self.prepared: Contracted | None = None
        self._cache: WeightCache[Contracted] = WeightCache()
        self.reset_parameters(is_neutral=config.init_weights)

    def run_on(self, evaluation: Evaluation) -> None:
        """Let the circuits run elsewhere from now on; without circuits nothing changes.

        Raises:
            ConfigError: The circuit does not fit the backend.
        """
        if isinstance(self.core, QuantumLayer):
            self.core.run_on(evaluation)
            self.shape_key = (*self.shape_key[:-1], repr(self.core))
            self._cache.clear()

    def reset_parameters(self, *, is_neutral: bool = True) -> None:
        """Draw all weights; `is_neutral` makes the update exactly zero."""
        self.down.reset_parameters()
        self.up.reset_parameters(is_zero=is_neutral)
        for matrix in (self.A, self.B, self.C, self.Q):
            if matrix is not None:
                nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        if self.core is not None:
            self.core.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Return the update (..., d_out) for x (..., d_in)."""
        now = self.prepared
        if now is None or _is_checkpointed():
            now = self._prepare_alone()
        z = nn.functional.linear(self.dropout(x), now.down.to(x.dtype))  # (..., r)
        h = self._mix(z, now.circuits)
        return h @ now.up.to(h.dtype)

    @torch.compiler.disable(
        reason="qpeft prepares an adapter that no model prepares outside of graphs"
    )
    def _prepare_alone(self) -> Contracted:
        """Return what the model has not prepared, or what must be prepared anew."""
        return self.recall() or self.contract([self], self.bind_circuits([self]))[0]

    def recall(self) -> Contracted | None:
        """Return what an earlier forward contracted, if no weight has changed since."""
        if self.training:
            # Not every write advances the version counters by which the cache sees a change (fused
            # AdamW's and FSDP's do not), so what was kept ends with the next training pass.
            self._cache.clear()
            return None
        return self._cache.get(self._weights())

    @staticmethod
    def bind_circuits(adapters: Sequence["QthaAdapter"]) -> dict[int, BoundCircuit]:
        """Bind the circuits of adapters of any shape; alike ones in the same operations or jobs.

        Returns:
            The bound circuit by the adapter's id; adapters without one are left out.
        """
        alike: dict[Any, list[QthaAdapter]] = defaultdict(list)
        for adapter in adapters:
            if isinstance(adapter.core, QuantumLayer):
                angles = adapter.core.angles
                alike[adapter.shape_key[-1], angles.device, angles.dtype].append(adapter)
        bound: dict[int, BoundCircuit] = {}
        for group in alike.values():
            cores = [a.core for a in group if isinstance(a.core, QuantumLayer)]
            bound |= zip(map(id, group), bind_each(cores), strict=True)
        return bound

    @staticmethod
    def contract(
        adapters: Sequence["QthaAdapter"], circuits: Mapping[int, BoundCircuit]
    ) -> list[Contracted]:
        """Contract adapters with equal `shape_key`, all in the same operations.

        Args:
            adapters: The adapters.
            circuits: What `bind_circuits` made of them.
        """
        first = adapters[0]
        # Under autocast these few products would lose the precision that the weights are kept in.
        with torch.autocast(first.A.device.type, enabled=False):
            down = contract_each([a.down for a in adapters], torch.stack([a.A for a in adapters]))
            scaled = torch.stack([a.B for a in adapters]).mT * first.scaling
            up = contract_each([a.up for a in adapters], scaled)
        parts = zip(adapters, down.unbind(), up.unbind(), strict=True)
        made = [Contracted(d, u, circuits.get(id(adapter))) for adapter, d, u in parts]
        for adapter, contracted in zip(adapters, made, strict=True):
            if not adapter.training:
                adapter._cache.put(adapter._weights(), contracted)
        return made

    def _weights(self) -> list[Tensor]:
        return [*self.parameters(), *self.buffers()]

    def _mix(self, z: Tensor, circuits: BoundCircuit | None) -> Tensor:
        """Return h (..., r): what the dense branch and the core's branch make of z."""
        if self.core is None:
            return nn.functional.linear(z, self.C.to(z.dtype))
        if isinstance(self.core, QuantumLayer) and circuits is not None:
            q = self.core.evaluate(circuits, z).to(z.dtype)
        else:
            q = self.core(z).to(z.dtype)
        if self.Q is None:
            return nn.functional.linear(z, self.C.to(z.dtype)) * q
        mixing = torch.cat([self.C, self.Q], dim=1).to(z.dtype)
        return nn.functional.linear(torch.cat([z, q], dim=-1), mixing)


def build_core(
    config: QthaConfig, r: int, evaluation: Evaluation = EXACT
) -> QuantumLayer | ConstantCore | MlpCore | FourierCore | None:
    """Return what computes q from z: the circuit, or the control that stands in its place.

    Raises:
        ConfigError: The circuit is too large for the backend.
    """
    if config.core == "none":
        return None
    if config.core == "constant":
        return ConstantCore(r)
    n, is_entangled = r // config.groups, config.core != "product"
    circuit = build_ansatz(config.ansatz, n, config.n_layers, is_entangled=is_entangled)
    if config.core == "mlp":
        # n inputs, n outputs and h hidden units have 2 n h parameters: as many as there are angles.
        return MlpCore(r, circuit.n_weights // (2 * n), config.groups, config.angle_map)
    if config.core == "fourier":
        weight = config.surrogate_weight
        return FourierCore(r, circuit.n_uploads(), config.groups, config.angle_map, weight)
    return QuantumLayer(
        r,
        config.n_layers,
        config.ansatz,
        config.groups,
        config.angle_map,
        config.angle_init,
        is_entangled=is_entangled,
        is_trained=config.core != "frozen",
        evaluation=evaluation,
    )


def _is_checkpointed() -> bool:
    """Return whether hooks on saved tensors are active: this pass may be computed again in backward.

    The second time must save the same tensors as the first, so the weights are contracted both times. Within a
    compiled graph it is the compiler that computes again, and it does so by itself.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


class QthaLinear(AdapterLinear):
    """A linear layer with QTHA adapters beside it."""

    adapter_layer_names = ("qtha_adapter",)

    def __init__(self, base_layer: nn.Module, **kwargs: Any):
        super().__init__(base_layer, **kwargs)
        self.qtha_adapter = nn.ModuleDict()

    @property
    def adapters(self) -> nn.ModuleDict:
        """The adapter modules by adapter name."""
        return self.qtha_adapter

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse, without touching a weight.

        Raises:
            MergeError: Always: the update is not linear in x.
        """
        self.check_merge()

    def check_merge(self) -> None:
        """Raise MergeError: the update is not linear in x."""
        raise MergeError(
            "Cannot merge a QTHA adapter into the base weights: its circuit makes the update "
            "non-linear in x, so no weight matrix equals it. Keep the adapter beside the base model "
            "(save_pretrained / PeftModel.from_pretrained), or replace the circuit by its exact "
            "classical surrogate, which is served without any quantum device."
        )


class QthaModel(AdapterModel):
    """The PEFT tuner of QTHA; made by `get_peft_model(model, QthaConfig(...))`."""

    prefix = "qtha_"
    tuner_layer_cls = QthaLinear

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:
        """Fill in LoRA's default targets for the type of model, if none are given."""
        if peft_config.target_modules is None:
            found = default_targets(model_config["model_type"], self.model)
            peft_config.target_modules = found if isinstance(found, str) else set(found)
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        prepare_in_forward(model)

    def unload(self) -> nn.Module:
        """Return the base model as it was, without any module or hook of ours."""
        model: nn.Module = super().unload()
        stop_preparing(model)
        return model

    def build_adapter(self, config: Any, d_in: int, d_out: int, module_name: str) -> nn.Module:
        """Return the adapter of one layer."""
        rank, evaluation = config.rank_of(module_name), config.evaluation_of(module_name)
        return QthaAdapter(config, d_in, d_out, rank, evaluation)

    def build_layer(self, base_layer: nn.Module, **kwargs: Any) -> AdapterLinear:
        """Return the layer that takes a base layer's place."""
        return QthaLinear(base_layer, **kwargs)
