"""How many parameters an adapter has: the method's table, the controls, and a target saving."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from qpeft import QthaConfig
from qpeft.adapters.base import count_adapter_angles
from qpeft.adapters.qtha import QthaAdapter, build_core
from qpeft.adapters.sizes import choose_sizes, n_core_parameters, n_dense_parameters
from qpeft.errors import ConfigError
from qpeft.layers import QuantumLayer

WIDTHS = [(576, 576), (576, 192), (1536, 256), (1536, 8960), (3584, 3584), (3584, 512), (512, 577)]


@pytest.fixture(scope="module")
def qwen_7b() -> Qwen2ForCausalLM:
    """Qwen2.5-7B's shapes, which are also those of DeepSeek-R1's 7B distillation, without memory."""
    config = Qwen2Config(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=1024,
    )
    with torch.device("meta"):
        return Qwen2ForCausalLM(config)


def n_trained(base: Qwen2ForCausalLM, config: QthaConfig | LoraConfig) -> int:
    with torch.device("meta"):
        model = get_peft_model(base, config)
    n_trained = model.get_nb_trainable_parameters()[0]
    model.unload()
    return n_trained


@pytest.mark.parametrize(
    ("r", "lora", "qtha", "without_circuit"),
    [(4, 1_261_568, 572_544, 568_064), (8, 2_523_136, 703_360, 685_440)],
)
def test_counts_on_a_7b_model_are_those_of_the_table(
    qwen_7b: Qwen2ForCausalLM, r: int, lora: int, qtha: int, without_circuit: int
) -> None:
    assert n_trained(qwen_7b, LoraConfig(r=r)) == lora
    assert n_trained(qwen_7b, QthaConfig(r=r, n_layers=r)) == qtha
    assert n_trained(qwen_7b, QthaConfig(r=r, core="none")) == without_circuit


def test_rank_10_saves_three_quarters_on_a_7b_model(qwen_7b: Qwen2ForCausalLM) -> None:
    lora = n_trained(qwen_7b, LoraConfig(r=10))
    assert lora == 3_153_920
    assert n_trained(qwen_7b, QthaConfig(r=10, n_layers=10)) == 772_800
    assert n_trained(qwen_7b, QthaConfig(r=10, core="none")) == 744_800
    saving = 1 - n_trained(qwen_7b, QthaConfig(r=10)) / lora
    assert f"{saving:.1%}" == "76.1%"


def test_modes_of_the_table_come_out_by_themselves() -> None:
    sizes = choose_sizes(QthaConfig(), 3584, 512, 4)
    assert (sizes.in_modes, sizes.out_modes) == ((8, 8, 8, 7), (8, 4, 4, 4))
    assert (sizes.inner_modes, sizes.inner_width, sizes.bond_dim) == ((4, 4, 4, 4), 256, 8)


@pytest.mark.parametrize(
    "core", ["quantum", "none", "constant", "mlp", "product", "frozen", "fourier"]
)
@pytest.mark.parametrize("fusion", ["linear", "hadamard"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("d_in", "d_out"), [(24, 10), (13, 17)])
def test_predicted_count_is_the_real_one(
    core: str, fusion: str, groups: int, d_in: int, d_out: int
) -> None:
    config = QthaConfig(core=core, fusion=fusion, groups=groups, inner_width=12, bond_dim=3)
    adapter = QthaAdapter(config, d_in, d_out, config.r)
    sizes = choose_sizes(config, d_in, d_out, config.r)
    predicted = sizes.n_train_parameters + n_dense_parameters(config, config.r, 12)
    assert predicted == sum(parameter.numel() for parameter in adapter.parameters())


@pytest.mark.parametrize("r", [1, 2, 4, 6])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ansatz", ["reupload", "reupload_v1", "encode_once"])
def test_mlp_control_has_exactly_as_many_parameters_as_the_circuit_has_angles(
    r: int, n_layers: int, groups: int, ansatz: str
) -> None:
    if r % groups:
        r *= groups
    options = {"r": r, "n_layers": n_layers, "groups": groups, "ansatz": ansatz}
    circuit = build_core(QthaConfig(**options), r)
    control = build_core(QthaConfig(**options, core="mlp"), r)
    assert isinstance(circuit, QuantumLayer)
    assert isinstance(control, nn.Module)
    n_control = sum(parameter.numel() for parameter in control.parameters())
    assert n_control == circuit.angles.numel()
    assert n_control == n_core_parameters(QthaConfig(**options, core="mlp"), r)


def test_angles_of_a_model_are_counted_apart() -> None:
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    options = {"target_modules": ["0", "1"], "r": 4, "n_layers": 2}
    assert count_adapter_angles(get_peft_model(base, QthaConfig(**options))) == 2 * 32
    base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    frozen = get_peft_model(base, QthaConfig(**options, core="frozen"))
    assert count_adapter_angles(frozen) == 0


@pytest.mark.parametrize(("d_in", "d_out"), WIDTHS)
@pytest.mark.parametrize("r", [4, 8, 10])
@pytest.mark.parametrize("target", [0.5, 0.76, 0.9])
def test_target_saving_is_reached_and_nearly_used_up(
    d_in: int, d_out: int, r: int, target: float
) -> None:
    config = QthaConfig(r=r, target_saving=target)
    sizes = choose_sizes(config, d_in, d_out, r)
    n_parameters = sizes.n_train_parameters + n_dense_parameters(config, r, sizes.inner_width)
    saving = 1 - n_parameters / (r * (d_in + d_out))
    assert target <= saving < target + 0.1
    assert r <= sizes.inner_width <= 256


def test_target_saving_is_that_of_the_built_model() -> None:
    def count(config: QthaConfig | LoraConfig) -> int:
        base = nn.Sequential(nn.Linear(576, 576), nn.Linear(576, 577), nn.Linear(577, 192))
        return get_peft_model(base, config).get_nb_trainable_parameters()[0]

    layers = ["0", "1", "2"]
    lora = count(LoraConfig(r=8, target_modules=layers))
    qtha = count(QthaConfig(r=8, target_modules=layers, target_saving=0.76))
    assert 0.76 <= 1 - qtha / lora < 0.8


def test_target_saving_that_is_out_of_reach_says_what_is_possible() -> None:
    config = QthaConfig(r=4, target_saving=0.9, target_modules=["0"])
    message = (
        r"0: target_saving=0\.9 cannot be reached for a 24 -> 24 layer at r=4: the smallest adapter "
        r"saves \d+%\. Lower target_saving, raise r, or leave this layer out with exclude_modules\."
    )
    with pytest.raises(ConfigError, match=message):
        get_peft_model(nn.Sequential(nn.Linear(24, 24)), config)


def test_rank_pattern_sets_rank_and_scale_of_the_layers_it_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)
            self.second = nn.Linear(8, 8)

    config = QthaConfig(
        r=4, alpha=8, target_modules=["first", "second"], rank_pattern={"second": 2}
    )
    model = get_peft_model(Net(), config).base_model.model
    first, second = (layer.qtha_adapter["default"] for layer in (model.first, model.second))
    assert (first.A.shape[0], first.scaling) == (4, 2.0)
    assert (second.A.shape[0], second.scaling) == (2, 4.0)
    assert second.core.circuit.n_qubits == 2


@pytest.mark.parametrize("core", ["none", "constant", "mlp", "product", "frozen", "fourier"])
def test_a_control_has_the_tensor_trains_of_the_circuit_that_it_stands_for(core: str) -> None:
    """576 -> 192 is a key projection of the demo model, where sizes of its own are other ones."""
    options = {"r": 8, "groups": 2, "target_saving": 0.76}
    subject = choose_sizes(QthaConfig(**options), 576, 192, 8)
    assert choose_sizes(QthaConfig(**options, core=core), 576, 192, 8) == subject
    own = choose_sizes(QthaConfig(**options, core=core, sized_as="own"), 576, 192, 8)
    assert (own != subject) == (core in ("none", "constant", "frozen", "product"))


def test_an_unknown_way_to_size_a_control_is_told() -> None:
    with pytest.raises(ConfigError, match=r"Unknown sized_as 'quant'\. Did you mean 'quantum'"):
        QthaConfig(sized_as="quant")
