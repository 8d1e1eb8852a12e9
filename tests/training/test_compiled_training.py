"""`training: {torch_compile: true}` compiles the layers for training, and for nothing else."""

import json
import warnings
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import load_file
from tiny import make_recipe, make_tiny_model
from torch import nn

from qpeft.errors import ConfigError
from qpeft.training import compiling, train
from qpeft.training.compiling import check_compiler, compiled, repeated_layers

QTHA = {
    "method": "qtha",
    "r": 4,
    "inner_width": 16,
    "bond_dim": 2,
    "target_modules": ["q_proj", "v_proj"],
}


class Deep(nn.Module):
    """Two like layers with a list inside each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])) for _ in range(2)
        )
        self.head = nn.Linear(2, 2)


def test_the_outermost_like_layers_are_compiled_and_a_model_without_them_as_one() -> None:
    deep, alone = Deep(), nn.Linear(2, 2)
    assert repeated_layers(deep) == list(deep.layers)
    assert repeated_layers(alone) == [alone]


def test_forward_is_compiled_within_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = Deep()
    keys = list(deep.state_dict())
    monkeypatch.setattr(torch, "compile", lambda f: f"compiled {f.__self__._get_name()}")
    with compiled(deep):
        assert [layer.forward for layer in deep.layers] == ["compiled Sequential"] * 2
        assert list(deep.state_dict()) == keys
    assert all("forward" not in vars(layer) for layer in deep.layers)


@torch._inductor.config.patch("cpp.cxx", ("no-such-compiler",))
def test_without_a_compiler_nothing_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"C\+\+ compiler"):
        check_compiler(torch.device("cpu"))
    check_compiler(torch.device("cuda"))
    recipe = make_recipe(tmp_path, make_tiny_model(tmp_path / "model"), adapter=QTHA)
    training = recipe.training.model_copy(update={"torch_compile": True})
    with pytest.raises(ConfigError, match="torch_compile"):
        train(recipe.model_copy(update={"training": training}))
    assert not list(tmp_path.rglob("adapter_model.safetensors"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_compiled_run_learns_what_a_plain_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.compile
    monkeypatch.setattr(
        compiling.torch, "compile", lambda function: original(function, backend="aot_eager")
    )
    model = make_tiny_model(tmp_path / "model")
    losses, weights = [], []
    jaxtyping.config.update("jaxtyping_disable", True)  # the compiler cannot trace the checks
    try:
        for is_compiled in (False, True):
            folder = tmp_path / str(is_compiled)
            folder.mkdir()
            recipe = make_recipe(folder, model, adapter=QTHA)
            training = recipe.training.model_copy(update={"torch_compile": is_compiled})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = train(recipe.model_copy(update={"training": training}))
            lines = (folder / "run" / "qtha" / "metrics.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            losses.append([row.get("loss", row.get("validation_loss")) for row in rows])
            weights.append(load_file(folder / "run" / "qtha" / "adapter_model.safetensors"))
            assert list(result.evaluations) == ["base", "qtha"]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert weights[1].keys() == weights[0].keys()
