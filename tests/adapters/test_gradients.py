"""Gradients reach every trained number, through the dense branch and through the circuit."""

import pytest
import torch
from tiny_bases import adapted, fresh_config, sequence_loss, tiny_llama
from torch import nn

from qpeft.adapters.qtha import QthaAdapter
from qpeft.layers import QuantumLayer

CORES = ["quantum", "none", "constant", "mlp", "product", "frozen", "fourier"]


def adapter_of(**options: object) -> QthaAdapter:
    torch.manual_seed(2)
    config = fresh_config(**options)
    return QthaAdapter(config, 12, 10, config.r).double()


def gradients_of(adapter: QthaAdapter) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(5)
    adapter(torch.randn(6, 12, dtype=torch.float64)).square().sum().backward()
    return {name: parameter.grad for name, parameter in adapter.named_parameters()}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("fusion", ["linear", "hadamard"])
def test_every_trained_tensor_gets_a_gradient(core: str, fusion: str) -> None:
    gradients = gradients_of(adapter_of(core=core, fusion=fusion))
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.abs().max() > 1e-9, name
    assert ("core.angles" in gradients) == (core in ("quantum", "product"))


@pytest.mark.parametrize("core", [core for core in CORES if core not in ("none", "constant")])
def test_gradients_reach_the_input_side_through_the_core_alone(core: str) -> None:
    adapter = adapter_of(core=core)
    nn.init.zeros_(adapter.C)  # without the dense branch, only the core carries z
    gradients = gradients_of(adapter)
    for name in ("A", "down.cores.0", "down.cores.1"):
        assert gradients[name].abs().max() > 1e-9, name


def test_all_angles_matter_in_the_reference_order() -> None:
    assert gradients_of(adapter_of(n_layers=2))["core.angles"].abs().min() > 1e-9


@pytest.mark.parametrize("ansatz", ["reupload_v1", "encode_once"])
def test_only_the_last_ring_is_dead_in_the_other_orders(ansatz: str) -> None:
    gradient = gradients_of(adapter_of(ansatz=ansatz, n_layers=2))["core.angles"][0]
    assert gradient[-4:].abs().max() < 1e-12
    assert gradient[:-4].abs().min() > 1e-9


def test_frozen_angles_are_saved_but_not_trained() -> None:
    adapter = adapter_of(core="frozen")
    assert "core.angles" in adapter.state_dict()
    assert "core.angles" not in dict(adapter.named_parameters())


@pytest.mark.parametrize("fusion", ["linear", "hadamard"])
def test_gradients_equal_finite_differences(fusion: str) -> None:
    adapter = adapter_of(fusion=fusion, r=2)
    x = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    weights = dict(adapter.named_parameters())

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        named = dict(zip(weights, values, strict=True))
        return torch.func.functional_call(adapter, named, (x,))

    assert torch.autograd.gradcheck(run, (x, *weights.values()))


@pytest.mark.parametrize("core", CORES)
def test_three_steps_of_training_move_everything_that_is_trained(core: str) -> None:
    model = adapted(tiny_llama(), core=core, init_weights=True).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        sequence_loss(model).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert torch.equal(parameter, before[name]) == (".qtha_adapter." not in name), name


def test_training_lowers_the_loss() -> None:
    model = adapted(tiny_llama(), init_weights=True).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = sequence_loss(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant: bool) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = adapted(tiny_llama()).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        sequence_loss(model).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    plain, checkpointed = gradients
    assert len(plain) > 20
    for name, gradient in plain.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_of_the_users_own_gives_the_same_gradients(use_reentrant: bool) -> None:
    """No flag tells of this checkpointing: the adapters have to see it themselves."""

    class Net(nn.Module):
        def __init__(self, is_checkpointed: bool):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12))
            self.is_checkpointed = is_checkpointed

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.is_checkpointed:
                return torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=use_reentrant)
            return self.block(x)

    gradients = []
    for is_checkpointed in (False, True):
        torch.manual_seed(0)
        model = adapted(Net(is_checkpointed), target_modules=["0", "2"]).train()
        x = torch.linspace(-1, 1, 36).reshape(3, 12).requires_grad_()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-7)


def test_two_forward_passes_before_one_backward_add_their_gradients() -> None:
    model = adapted(tiny_llama()).train()
    angles = next(m for m in model.modules() if isinstance(m, QuantumLayer)).angles
    sequence_loss(model).backward()
    once = angles.grad.clone()
    angles.grad = None
    (sequence_loss(model) + sequence_loss(model)).backward()
    torch.testing.assert_close(angles.grad, 2 * once, rtol=1e-5, atol=1e-8)


def test_a_layer_that_runs_without_gradients_first_does_not_take_them_from_the_others() -> None:
    """Layers of one shape are prepared together, but each keeps its own gradients."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                x = self.first(x)
            return self.second(x)

    model = adapted(Net(), target_modules=["first", "second"]).train()
    model(torch.randn(3, 12)).square().sum().backward()
    adapters = {n: p.grad for n, p in model.named_parameters() if ".qtha_adapter." in n}
    for name, gradient in adapters.items():
        if ".first." in name:
            assert gradient is None or not gradient.any(), name
        else:
            assert gradient.abs().max() > 0, name
