"""The controls compute what they say, and can replace the circuit."""

import pytest
import torch

from qpeft.errors import ConfigError
from qpeft.layers import ConstantCore, FourierCore, MlpCore, QuantumLayer


@pytest.mark.parametrize("groups", [1, 2])
def test_mlp_is_two_matrices_with_silu_between(groups: int) -> None:
    torch.manual_seed(0)
    core = MlpCore(4, 6, groups)
    inputs = torch.randn(2, 3, 4)
    parts = inputs.chunk(groups, dim=-1)
    expected = [
        torch.nn.functional.silu(part @ core.W1[g]) @ core.W2[g] for g, part in enumerate(parts)
    ]
    torch.testing.assert_close(core(inputs), torch.cat(expected, dim=-1))
    assert core.W1.shape == (groups, 4 // groups, 6)


@pytest.mark.parametrize("ansatz", ["reupload", "reupload_v1", "encode_once"])
@pytest.mark.parametrize(("n", "n_layers"), [(1, 2), (2, 1), (2, 2), (3, 1)])
def test_fourier_contains_every_circuit(ansatz: str, n: int, n_layers: int) -> None:
    """Free coefficients, fitted to a circuit on some points, give it on all others."""
    torch.manual_seed(0)
    circuit = QuantumLayer(n, n_layers, ansatz).double()
    core = FourierCore(n, circuit.circuit.n_uploads()).double()
    n_terms = core.coefficients.shape[1]
    assert n_terms == (2 * circuit.circuit.n_uploads() + 1) ** n
    points = 6 * torch.rand(3 * n_terms + 5, n, dtype=torch.float64)
    with torch.no_grad():
        features = torch.stack([core_features(core, point) for point in points])
        core.coefficients[0] = torch.linalg.lstsq(features, circuit(points)).solution
    others = 6 * torch.rand(20, n, dtype=torch.float64)
    torch.testing.assert_close(core(others), circuit(others), rtol=0, atol=1e-8)


def core_features(core: FourierCore, point: torch.Tensor) -> torch.Tensor:
    """The features of one input, read off the core by unit coefficients (it is linear in them)."""
    n_terms = core.coefficients.shape[1]
    values = []
    for term in range(n_terms):
        core.coefficients.zero_()
        core.coefficients[0, term, 0] = 1
        values.append(core(point[None])[0, 0])
    return torch.stack(values)


def test_fourier_groups_are_separate() -> None:
    core = FourierCore(4, 1, groups=2)
    inputs = torch.randn(1, 4, requires_grad=True)
    core(inputs)[0, 2:].sum().backward()
    assert not inputs.grad[0, :2].any()
    assert inputs.grad[0, 2:].abs().min() > 0


def test_fourier_starts_at_the_size_of_a_circuits_expectations() -> None:
    torch.manual_seed(0)
    inputs = 6.283 * torch.rand(500, 4)
    outputs = torch.stack([FourierCore(4)(inputs) for _ in range(20)])
    assert outputs.var().item() == pytest.approx(2.0**-4, rel=0.3)


def test_too_many_coefficients_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError) as caught:
        FourierCore(8, 2)
    assert "core='fourier' would need 3125000 coefficients" in str(caught.value)
    assert "Use more groups, n_layers=1 or ansatz='encode_once'." in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_controls_compute_in_their_weights_precision(dtype: torch.dtype) -> None:
    for core in (MlpCore(4, 2), FourierCore(2)):
        width = 4 if isinstance(core, MlpCore) else 2
        assert core(torch.randn(3, width).to(dtype)).dtype == torch.float32


def test_a_constant_is_the_same_for_every_row_and_learns() -> None:
    torch.manual_seed(0)
    core = ConstantCore(4)
    assert core.values.abs().max() <= 1
    values = core(torch.randn(3, 2, 4))
    assert values.shape == (3, 2, 4)
    assert torch.equal(values, core.values.expand(3, 2, 4))
    values.sum().backward()
    assert torch.equal(core.values.grad, torch.full((4,), 6.0))
