"""A configuration says what is wrong with it, and survives saving."""

import json
from pathlib import Path

import pytest
from peft import PeftConfig, get_peft_model
from torch import nn

from qpeft import QthaConfig
from qpeft.errors import ConfigError, QpeftError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ansatz": "reuplaod"}, "Unknown ansatz 'reuplaod'. Did you mean 'reupload'?"),
        ({"fusion": "linaer"}, "Unknown fusion 'linaer'. Did you mean 'linear'?"),
        ({"core": "quantom"}, "Unknown core 'quantom'. Did you mean 'quantum'?"),
        ({"core": "xyz"}, "Valid: constant, fourier, frozen, mlp, none, product, quantum."),
        ({"angle_map": "tan"}, "Unknown angle_map 'tan'. Did you mean 'tanh'?"),
        ({"angle_init": "smal"}, "Unknown angle_init 'smal'. Did you mean 'small'?"),
        ({"gradient": "autograde"}, "Unknown gradient 'autograde'. Did you mean 'autograd'?"),
        ({"backend": "exakt"}, "Unknown backend 'exakt'. Did you mean 'exact'?"),
        ({"shots": 100}, "shots=100: backend 'exact' computes expectation values without shots"),
        ({"r": 0}, "r must be a whole number of at least 1; got 0."),
        ({"r": 2.5}, "r must be a whole number of at least 1; got 2.5."),
        ({"n_layers": True}, "n_layers must be a whole number of at least 1; got True."),
        ({"bond_dim": -1}, "bond_dim must be a whole number of at least 1; got -1."),
        ({"r": 4, "groups": 3}, "groups must divide every rank; got groups=3 and r=4."),
        ({"groups": 2, "rank_pattern": {"v": 3}}, "got groups=2 and v=3."),
        ({"dropout": 1.0}, "dropout must be in [0, 1); got 1.0."),
        ({"target_saving": 76}, "a share between 0 and 1, for example 0.76; got 76."),
        ({"layers_pattern": "layers"}, "layers_pattern is given without layers_to_transform"),
        (
            {"target_modules": ".*q", "layers_to_transform": 0},
            "layers_to_transform cannot be combined with a regular expression in target_modules",
        ),
    ],
)
def test_a_wrong_option_is_named_with_what_to_do(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QthaConfig(**options)
    assert message in str(caught.value)
    assert isinstance(caught.value, QpeftError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("modes", "message"),
    [
        ({24: [2, 3]}, "mode_sizes[24]: the product of [2, 3] is 6, less than the width 24."),
        ({24: [2, 3, 4]}, "mode_sizes[24] needs n_cores=2 positive sizes; got [2, 3, 4]."),
        ({24: [24, 0]}, "mode_sizes[24] needs n_cores=2 positive sizes; got [24, 0]."),
    ],
)
def test_wrong_mode_sizes_are_named_with_their_layer(
    modes: dict[int, list[int]], message: str
) -> None:
    config = QthaConfig(target_modules=["0"], n_cores=2, mode_sizes=modes)
    with pytest.raises(ConfigError) as caught:
        get_peft_model(nn.Sequential(nn.Linear(24, 8)), config)
    assert str(caught.value) == f"0: {message}"


def test_more_qubits_than_the_simulator_takes_are_refused_before_any_training() -> None:
    with pytest.raises(ConfigError, match=r"0: .*12 qubits.*groups"):
        get_peft_model(nn.Sequential(nn.Linear(24, 8)), QthaConfig(target_modules=["0"], r=13))


def test_a_layer_that_is_not_linear_is_refused_by_name() -> None:
    message = (
        "Target module 0 is a Embedding, which is not supported; supported are torch.nn.Linear"
    )
    with pytest.raises(ConfigError, match=message):
        get_peft_model(nn.Sequential(nn.Embedding(4, 4)), QthaConfig(target_modules=["0"]))


def test_a_saved_configuration_comes_back_equal(tmp_path: Path) -> None:
    config = QthaConfig(
        r=4,
        alpha=6.0,
        core="mlp",
        mode_sizes={24: [4, 6], 256: [16, 16]},
        n_cores=2,
        target_modules=["v_proj", "q_proj"],
        exclude_modules=["lm_head"],
        rank_pattern={"q_proj": 2},
        layers_to_transform=0,
        target_saving=0.3,
    )
    config.save_pretrained(str(tmp_path))
    for loaded in (QthaConfig.from_pretrained(tmp_path), PeftConfig.from_pretrained(tmp_path)):
        assert isinstance(loaded, QthaConfig)
        assert loaded.to_dict() == config.to_dict()
        assert loaded.mode_sizes == {24: [4, 6], 256: [16, 16]}
        assert loaded.target_modules == {"q_proj", "v_proj"}
    text = json.loads((tmp_path / "adapter_config.json").read_text())
    assert text["peft_type"] == "QTHA"


def test_scale_is_two_unless_alpha_is_given() -> None:
    assert QthaConfig(r=4).scaling_of(4) == QthaConfig(r=4).scaling_of(8) == 2.0
    assert QthaConfig(alpha=6).scaling_of(4) == 1.5


def test_every_field_is_explained() -> None:
    docs = QthaConfig.__doc__ or ""
    for name in ("r", "alpha", "n_layers", "ansatz", "mode_sizes", "target_saving", "backend"):
        assert f"        {name}: " in docs
    own = [f for f in QthaConfig.__dataclass_fields__ if f not in PeftConfig.__dataclass_fields__]
    for name in own:
        assert f"        {name}: " in docs, name
