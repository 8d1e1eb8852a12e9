"""An adapter's circuits can run anywhere, be moved, and be exported to a classical adapter."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from tiny_bases import TOKENS, adapted, logits, tiny_llama
from torch import nn

from qpeft.adapters import QthaConfig, export_surrogate, run_on
from qpeft.errors import ConfigError
from qpeft.jobs import Session, use_session
from qpeft.layers import Evaluation, FourierCore, QuantumLayer

LOADS_CLASSICALLY = """
import sys, torch
import qpeft
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    torch.save(model(torch.tensor({tokens})).logits, sys.argv[2])
absent = [name for name in ("qiskit", "pennylane", "pyqpanda3", "qpeft.jobs") if name in sys.modules]
assert not absent, absent
"""


@pytest.fixture
def remote(tmp_path: Path) -> dict[str, Any]:
    """What a configuration says to run on a machine of this folder."""
    options = {"folder": str(tmp_path / "machine"), "is_repeatable": True}
    return {"backend": "fake_remote", "backend_options": options, "shots": 500}


def test_only_the_chosen_layers_run_on_the_machine(tmp_path: Path, remote: dict[str, Any]) -> None:
    model = adapted(tiny_llama(), backend_layers=[1], **remote)
    names = {
        name: module.evaluation.name
        for name, module in model.named_modules()
        if isinstance(module, QuantumLayer)
    }
    assert {n.split("layers.")[1][0]: where for n, where in names.items()} == {
        "0": "exact",
        "1": "fake_remote",
    }
    with use_session(Session(tmp_path / "jobs.sqlite")) as session:
        logits(model)
        (total,) = session.totals()
    assert total.sent.n_circuits == 2 * 81  # query and value of layer 1


def test_tokens_do_not_change_the_number_of_circuits(
    tmp_path: Path, remote: dict[str, Any]
) -> None:
    """The claim of the method: as many circuits for one token as for hundreds, backward pass included."""
    counts = []
    for n_tokens in (1, 40):
        options = {**remote, "angle_gradient": "spsa"}
        model = adapted(tiny_llama(), **options).train()
        with use_session(Session(tmp_path / f"{n_tokens}.sqlite")) as session:
            model(TOKENS.repeat(4, 10)[:, :n_tokens]).logits.square().mean().backward()
            (total,) = session.totals()
        counts.append(total.sent.n_circuits)
    assert counts == [4 * 81 * 3] * 2  # four layers; one forward pass and two perturbed ones


def test_all_adapters_of_a_model_share_jobs(tmp_path: Path, remote: dict[str, Any]) -> None:
    options = {**remote["backend_options"], "max_programs": 1000}
    model = adapted(tiny_llama(), **{**remote, "backend_options": options})
    with use_session(Session(tmp_path / "jobs.sqlite")) as session:
        logits(model)
        (total,) = session.totals()
    assert (
        total.sent.n_jobs == 1
    )  # query and value projections of both layers, whatever their widths


def test_a_trained_adapter_moves_to_another_backend_and_back(
    tmp_path: Path, remote: dict[str, Any]
) -> None:
    model = adapted(tiny_llama())
    before = logits(model)
    with use_session(Session(tmp_path / "jobs.sqlite")):
        n_moved = run_on(
            model, "fake_remote", options=remote["backend_options"], layers=[0], shots=20_000
        )
        moved = logits(model)
    assert n_moved == 2
    assert not torch.equal(moved, before)
    torch.testing.assert_close(moved, before, rtol=0, atol=0.05 * before.abs().max().item())
    assert run_on(model, "exact") == 4
    assert torch.equal(logits(model), before)
    assert model.peft_config["default"].backend == "exact"


def test_moving_refuses_what_cannot_be_and_changes_nothing(remote: dict[str, Any]) -> None:
    model = adapted(tiny_llama())
    with pytest.raises(ConfigError, match=r"has no QTHA adapter 'other'\. It has: default"):
        run_on(model, "exact", adapter_name="other")
    with pytest.raises(ConfigError, match="cannot look into backend 'fake_remote'"):
        run_on(model, "fake_remote", gradient="autograd")
    assert model.peft_config["default"].backend == "exact"


@pytest.mark.parametrize("angle_map", ["raw", "tanh", "rms"])
@pytest.mark.parametrize("where", ["exact", "noisy", "fake_remote"])
def test_an_exported_adapter_gives_the_same_outputs(
    where: str, angle_map: str, tmp_path: Path, remote: dict[str, Any]
) -> None:
    chosen = {"exact": {}, "noisy": {"backend": "noisy", "gradient": "surrogate"}}
    options = chosen.get(where, remote)
    model = adapted(tiny_llama(), groups=2, angle_map=angle_map, **options)
    model.save_pretrained(tmp_path / "trained")
    with use_session(Session(tmp_path / "jobs.sqlite")) as session:
        expected = logits(model)
        done = export_surrogate(tmp_path / "trained", tmp_path / "classical")
        sent = session.totals()
    assert done.n_layers == 4
    assert done.n_circuits == 4 * 2 * 9
    assert done.is_exact
    assert done.disagreement < 1e-5
    if where == "fake_remote":
        assert (
            sent[0].sent.n_circuits == 4 * 2 * 9
        )  # the forward pass's results serve the export too
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "classical")
    assert not any(isinstance(module, QuantumLayer) for module in loaded.modules())
    assert any(isinstance(module, FourierCore) for module in loaded.modules())
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)


def test_an_export_keeps_the_sizes_that_a_target_chose(tmp_path: Path) -> None:
    """The polynomial has more coefficients than the circuit angles; the tensor trains stay as they are."""
    torch.manual_seed(0)
    base, inputs = nn.Sequential(nn.Linear(600, 300)), torch.randn(5, 600)
    options = {"target_modules": ["0"], "groups": 2, "target_saving": 0.76, "inner_width": 256}
    model = adapted(copy.deepcopy(base), **{"r": 8, "bond_dim": 8, "n_cores": 4, **options})
    model.save_pretrained(tmp_path / "trained")
    export_surrogate(tmp_path / "trained", tmp_path / "classical")
    loaded = PeftModel.from_pretrained(base, tmp_path / "classical")
    torch.testing.assert_close(loaded(inputs), model(inputs), rtol=0, atol=1e-5)


def test_an_exported_adapter_loads_without_anything_quantum(tmp_path: Path) -> None:
    base = tiny_llama()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = adapted(base)
    model.save_pretrained(tmp_path / "trained")
    export_surrogate(tmp_path / "trained", tmp_path / "classical")
    code = LOADS_CLASSICALLY.format(tokens=TOKENS.tolist())
    words = [sys.executable, "-c", code, str(tmp_path / "classical"), str(tmp_path / "out.pt")]
    subprocess.run(words, check=True, timeout=300)
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), logits(model), rtol=0, atol=1e-5)


def test_a_truncated_export_says_what_it_loses(tmp_path: Path) -> None:
    model = adapted(tiny_llama(), r=6)
    model.save_pretrained(tmp_path / "trained")
    where = Evaluation(gradient="surrogate", surrogate_weight=3)
    done = export_surrogate(tmp_path / "trained", tmp_path / "classical", where)
    assert not done.is_exact
    assert 0.001 < done.truncation_error < 0.2
    assert done.disagreement < 1e-5  # from the truncated surrogate, which is what was measured
    config = PeftConfig.from_pretrained(tmp_path / "classical")
    assert (config.core, config.surrogate_weight) == ("fourier", 3)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "classical")
    difference = (logits(loaded) - logits(model)).abs().max()
    assert 0 < difference < 0.2 * logits(model).abs().max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "is no adapter: it has no adapter_config.json"),
        (
            lambda folder: adapted(tiny_llama(), core="none").save_pretrained(folder),
            "has core='none', which is classical already",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "source")
    with pytest.raises(ConfigError, match=message):
        export_surrogate(tmp_path / "source", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_an_export_replaces_a_folder_only_when_told(tmp_path: Path) -> None:
    adapted(tiny_llama()).save_pretrained(tmp_path / "source")
    (tmp_path / "target").mkdir()
    with pytest.raises(ConfigError, match=r"exists\. Choose another folder"):
        export_surrogate(tmp_path / "source", tmp_path / "target")
    export_surrogate(tmp_path / "source", tmp_path / "target", overwrite=True)
    assert (tmp_path / "target" / "adapter_config.json").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_export_touches_no_folder_that_is_no_adapter(tmp_path: Path) -> None:
    adapted(tiny_llama()).save_pretrained(tmp_path / "source")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    for target, message in (("mine", "is not an adapter's folder"), ("source", "is exported")):
        with pytest.raises(ConfigError, match=message):
            export_surrogate(tmp_path / "source", tmp_path / target, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    (tmp_path / "source" / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not JSON"):
        export_surrogate(tmp_path / "source", tmp_path / "target")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "emulator", "gradient": "autograd"}, "cannot look into backend 'emulator'"),
        ({"gradient": "spsaa"}, "Unknown gradient 'spsaa'. Did you mean 'spsa'?"),
        ({"surrogate_weight": 2}, "surrogate_weight=2 is for gradient='surrogate'"),
        ({"backend": "emulator", "shots": 0}, "shots must be a whole number of at least 1"),
    ],
)
def test_a_wrong_choice_of_hardware_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QthaConfig(**options)
    assert message in str(caught.value)
