"""The quantum layer: groups apart, angle maps, starts, precision, and gradients for inputs and weights."""

import math
import subprocess
import sys

import pytest
import torch

from qpeft.backends import get_backend
from qpeft.circuits import build_ansatz, z_on_each
from qpeft.errors import ConfigError
from qpeft.layers import Evaluation, QuantumLayer
from qpeft.layers.quantum import bind_each


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_expectations_are_those_of_the_reference(width: int, n_layers: int) -> None:
    torch.manual_seed(0)
    layer = QuantumLayer(width, n_layers).double()
    inputs = torch.randn(2, 3, width, dtype=torch.float64)
    circuit = build_ansatz("reupload", width, n_layers)
    bound = get_backend("reference").bind(circuit, z_on_each(width), layer.angles[0])
    torch.testing.assert_close(
        layer(inputs), bound(inputs.reshape(6, width)).reshape(2, 3, width), rtol=0, atol=1e-10
    )


def test_groups_are_separate_circuits_in_the_order_of_the_inputs() -> None:
    torch.manual_seed(0)
    layer = QuantumLayer(6, 2, groups=3)
    alone = QuantumLayer(2, 2)
    inputs = torch.randn(4, 6)
    for group in range(3):
        with torch.no_grad():
            alone.angles.copy_(layer.angles[group : group + 1])
        columns = slice(2 * group, 2 * group + 2)
        torch.testing.assert_close(
            layer(inputs)[:, columns], alone(inputs[:, columns]), rtol=0, atol=1e-6
        )


def test_a_group_does_not_see_the_inputs_of_another() -> None:
    layer = QuantumLayer(4, groups=2)
    inputs = torch.randn(1, 4, requires_grad=True)
    layer(inputs)[0, :2].sum().backward()
    assert inputs.grad[0, :2].abs().min() > 0
    assert not inputs.grad[0, 2:].any()


def test_without_rings_a_qubit_sees_only_its_own_input() -> None:
    layer = QuantumLayer(3, is_entangled=False)
    jacobian = torch.autograd.functional.jacobian(layer, torch.randn(3))
    assert (jacobian - torch.diag(jacobian.diag())).abs().max() < 1e-6
    assert jacobian.diag().abs().min() > 1e-3


def test_tanh_map_bounds_the_angles_to_half_a_turn() -> None:
    torch.manual_seed(0)
    mapped = QuantumLayer(3, angle_map="tanh")
    raw = QuantumLayer(3)
    raw.load_state_dict(mapped.state_dict())
    inputs = torch.tensor([[0.3, -2.0, 50.0]])
    torch.testing.assert_close(mapped(inputs), raw(math.pi * torch.tanh(inputs)))


def test_rms_map_forgets_the_scale_of_a_row_and_nothing_else() -> None:
    torch.manual_seed(0)
    mapped = QuantumLayer(4, groups=2, angle_map="rms").double()
    raw = QuantumLayer(4, groups=2).double()
    raw.load_state_dict(mapped.state_dict())
    inputs = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(mapped(inputs), mapped(0.01 * inputs), rtol=0, atol=1e-6)
    unit = inputs / inputs.square().mean(dim=-1, keepdim=True).sqrt()
    torch.testing.assert_close(mapped(inputs), raw(unit), rtol=0, atol=1e-7)
    assert torch.isfinite(mapped(torch.zeros(1, 4, dtype=torch.float64))).all()


@pytest.mark.parametrize(("kind", "bound"), [("uniform", math.pi), ("small", 0.1)])
def test_angles_start_in_their_interval(kind: str, bound: float) -> None:
    torch.manual_seed(0)
    angles = QuantumLayer(8, 20, angle_init=kind).angles
    assert angles.abs().max() <= bound
    assert angles.abs().max() > 0.9 * bound
    assert angles.mean().abs() < 0.1 * bound


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_circuits_run_in_float32_at_least(dtype: torch.dtype, expected: torch.dtype) -> None:
    layer = QuantumLayer(3).to(dtype)
    result = layer(torch.randn(4, 3).to(dtype))
    assert result.dtype == expected
    assert result.abs().max() <= 1 + 1e-6


def test_autocast_does_not_touch_the_circuit() -> None:
    layer = QuantumLayer(3)
    inputs = torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer(inputs)
    assert torch.equal(inside, layer(inputs))


def test_a_pass_in_inference_mode_does_not_spoil_training() -> None:
    """What is compiled on first use is used ever after."""
    width, n_layers = 3, 7  # used by no other test, so that this pass is the first
    with torch.inference_mode():
        QuantumLayer(width, n_layers)(torch.zeros(2, width))
    layer = QuantumLayer(width, n_layers)
    layer(torch.randn(2, width)).sum().backward()
    assert layer.angles.grad.abs().max() > 0


def test_a_first_use_within_another_default_device_does_not_spoil_later_ones() -> None:
    code = (
        "import torch\n"
        "with torch.device('meta'):\n"
        "    from qpeft.layers import Evaluation, QuantumLayer\n"
        "    QuantumLayer(3), QuantumLayer(3, evaluation=Evaluation('reference'))\n"
        "for backend in ('exact', 'reference'):\n"
        "    assert QuantumLayer(3, evaluation=Evaluation(backend))(torch.zeros(2, 3)).isfinite().all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_layers_bound_together_are_as_each_alone() -> None:
    torch.manual_seed(0)
    layers = [QuantumLayer(4, 2, groups=2) for _ in range(3)]
    inputs = torch.randn(5, 4)
    for layer, bound in zip(layers, bind_each(layers), strict=True):
        torch.testing.assert_close(layer.evaluate(bound, inputs), layer(inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["exact", "reference"])
def test_gradients_equal_finite_differences(backend: str) -> None:
    torch.manual_seed(0)
    layer = QuantumLayer(2, 2, evaluation=Evaluation(backend)).double()
    inputs = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)

    def run(inputs: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"angles": angles}, (inputs,))

    assert torch.autograd.gradcheck(run, (inputs, layer.angles))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 4, "groups": 3}, "groups must divide the rank; got groups=3 for r=4."),
        ({"width": 4, "angle_map": "tan"}, "Unknown angle_map 'tan'. Did you mean 'tanh'?"),
        ({"width": 4, "angle_init": "unifrom"}, "Did you mean 'uniform'?"),
        ({"width": 4, "ansatz": "xyz"}, "Unknown ansatz 'xyz'. Valid: encode_once, reupload"),
        ({"width": 13}, "takes at most 12 qubits; circuit 'reupload' has 13."),
        ({"width": 4, "n_layers": 0}, "at least 1 qubit and 1 layer"),
    ],
)
def test_a_layer_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QuantumLayer(**options)
    assert message in str(caught.value)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises((ConfigError, RuntimeError)):
        QuantumLayer(4)(torch.zeros(2, 5))
