"""An adapter computes what the method's equations say."""

import numpy as np
import pytest
import slow_twin
import torch

from qpeft import QthaConfig
from qpeft.adapters.qtha import QthaAdapter

SIZES = {"inner_width": 6, "bond_dim": 2, "n_cores": 2}
VARIANTS = [
    {"core": "quantum"},
    {"core": "quantum", "fusion": "hadamard"},
    {"core": "quantum", "ansatz": "reupload_v1", "n_layers": 2},
    {"core": "quantum", "ansatz": "encode_once", "n_layers": 2, "fusion": "hadamard"},
    {"core": "quantum", "groups": 2, "n_layers": 2, "angle_map": "tanh"},
    {"core": "quantum", "groups": 2, "angle_map": "rms"},
    {"core": "quantum", "fusion": "hadamard", "angle_map": "rms"},
    {"core": "quantum", "alpha": 3.0, "r": 3},
    {"core": "quantum", "n_cores": 3, "bond_dim": 3, "inner_width": 10},
    {"core": "quantum", "n_cores": 1},
    {"core": "quantum", "r": 1},
    {"core": "quantum", "r": 8, "n_layers": 3},
    {"core": "quantum", "backend": "reference"},
    {"core": "none"},
    {"core": "none", "fusion": "hadamard"},
    {"core": "constant"},
    {"core": "constant", "fusion": "hadamard", "groups": 2},
    {"core": "mlp", "n_layers": 2},
    {"core": "mlp", "groups": 2, "fusion": "hadamard"},
    {"core": "mlp", "groups": 2, "angle_map": "rms"},
    {"core": "product"},
    {"core": "product", "fusion": "hadamard", "n_layers": 2, "groups": 2},
    {"core": "frozen", "n_layers": 2},
    {"core": "frozen", "fusion": "hadamard", "ansatz": "encode_once"},
    {"core": "fourier", "r": 3, "n_layers": 2},
    {"core": "fourier", "groups": 2, "fusion": "hadamard"},
    {"core": "fourier", "r": 2, "angle_map": "rms"},
]


def name_of(options: dict[str, object]) -> str:
    return "-".join(str(value) for value in options.values())


def built(d_in: int, d_out: int, **options: object) -> tuple[QthaConfig, QthaAdapter]:
    torch.manual_seed(3)
    config = QthaConfig(**{**SIZES, "init_weights": False, **options})
    adapter = QthaAdapter(config, d_in, d_out, config.r).double().eval()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return config, adapter


@pytest.mark.parametrize("options", VARIANTS, ids=name_of)
def test_update_equals_the_slow_twin(options: dict[str, object]) -> None:
    config, adapter = built(12, 10, **options)
    x = torch.randn(5, 12, dtype=torch.float64)
    expected = slow_twin.update(adapter.state_dict(), config, 12, 10, x.numpy())
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("d_in", "d_out"), [(13, 11), (7, 64), (1, 5), (97, 2)])
def test_update_equals_the_slow_twin_where_widths_are_padded(d_in: int, d_out: int) -> None:
    config, adapter = built(d_in, d_out, n_cores=3, inner_width=7)
    x = torch.randn(3, d_in, dtype=torch.float64)
    expected = slow_twin.update(adapter.state_dict(), config, d_in, d_out, x.numpy())
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_mode_sizes_by_hand_are_used_in_their_order() -> None:
    modes = {12: [2, 6], 10: [5, 2], 6: [1, 6]}
    config, adapter = built(12, 10, mode_sizes=modes)
    assert [core.shape[1:3] for core in adapter.down.cores] == [(2, 1), (6, 6)]
    assert [core.shape[1:3] for core in adapter.up.cores] == [(5, 1), (2, 6)]
    x = torch.randn(3, 12, dtype=torch.float64)
    expected = slow_twin.update(adapter.state_dict(), config, 12, 10, x.numpy())
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    _, adapter = built(12, 10, core="quantum")
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    alone = torch.stack([torch.stack([adapter(row[None])[0] for row in sample]) for sample in x])
    torch.testing.assert_close(adapter(x), alone, rtol=0, atol=1e-12)


def test_dropout_acts_on_x_in_training_only() -> None:
    _, adapter = built(12, 10, dropout=0.5)
    x = torch.randn(4, 12, dtype=torch.float64)
    torch.testing.assert_close(adapter(x), adapter(x), rtol=0, atol=0)
    adapter.train()
    torch.manual_seed(0)
    trained = adapter(x)
    torch.manual_seed(0)
    dropped = torch.nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(trained, adapter.eval()(dropped), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "core", ["quantum", "none", "constant", "mlp", "product", "frozen", "fourier"]
)
@pytest.mark.parametrize("fusion", ["linear", "hadamard"])
@pytest.mark.parametrize("ansatz", ["reupload", "reupload_v1", "encode_once"])
def test_a_fresh_adapter_adds_exactly_nothing(core: str, fusion: str, ansatz: str) -> None:
    options = {**SIZES, "core": core, "fusion": fusion, "ansatz": ansatz, "n_layers": 2, "r": 2}
    x = torch.randn(4, 12)
    neutral = QthaAdapter(QthaConfig(**options), 12, 10, 2)
    assert torch.equal(neutral(x), torch.zeros(4, 10))
    random = QthaAdapter(QthaConfig(**options, init_weights=False), 12, 10, 2)
    assert random(x).abs().max() > 1e-4


def test_a_fresh_update_has_the_size_of_x_whatever_the_widths() -> None:
    """The tensor trains keep the variance, so that learning rates mean the same at every width."""
    sizes = []
    for width in (64, 512):
        torch.manual_seed(0)
        config = QthaConfig(core="none", inner_width=64, init_weights=False)
        adapters = [QthaAdapter(config, width, width, 4) for _ in range(40)]
        x = torch.randn(16, width)
        down = torch.stack([torch.nn.functional.linear(x, a.down.contract(a.A)) for a in adapters])
        sizes.append(down.square().mean().sqrt().item())
    assert 0.3 < sizes[0] < 3
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("shape", [(0, 12), (2, 0, 12), (12,), (1, 1, 1, 12)])
@pytest.mark.parametrize("core", ["quantum", "constant", "mlp", "fourier", "none"])
def test_any_number_of_rows_will_do(core: str, shape: tuple[int, ...]) -> None:
    _, adapter = built(12, 10, core=core, r=2)
    x = torch.randn(*shape, dtype=torch.float64, requires_grad=True)
    update = adapter(x)
    assert update.shape == (*shape[:-1], 10)
    update.sum().backward()
    assert x.grad.shape == x.shape
