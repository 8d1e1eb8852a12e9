"""The benchmarks of whole models run on tiny shapes, and what they measure is what they say."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Let the scripts import each other as they do when they are run, and undo it."""
    before, n_threads = set(sys.modules), torch.get_num_threads()
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for path in FOLDER.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)
    torch.set_num_threads(n_threads)


def run(name: str, monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick", *arguments])
    importlib.import_module(name).main()
    return capsys.readouterr().out


def test_a_training_step_of_every_arm_is_in_the_table_and_in_the_file(
    monkeypatch, capsys, tmp_path
):
    path = tmp_path / "result.json"
    arguments = ["--rounds", "1", "--no-memory", "--sections", "step", "--json", str(path)]
    out = run("training_step", monkeypatch, capsys, *arguments)
    written = json.loads(path.read_text())["step"]
    names = [arm.name for arm in importlib.import_module("training_step").ARMS]
    assert [result["name"] for result in written] == names
    assert all(result["cpu_seconds"][0] > 0 for result in written)
    assert all(f"| {name} |" in out for name in names)
    assert out.count("target 1.10x") == out.count("target 1.15x") == out.count("target 1.50x") == 1


@pytest.mark.parametrize(
    ("section", "column"), [("tokens", "256 tokens"), ("layers", "L = 2"), ("qubits", "n = 6")]
)
def test_a_growth_table_has_a_row_for_each_arm(section, column, monkeypatch, capsys):
    out = run("training_step", monkeypatch, capsys, "--rounds", "1", "--sections", section)
    table = [line.split(" | ") for line in out.splitlines() if line.startswith("|")]
    assert table[0][-1] == f"{column} |"
    assert len({len(row) for row in table}) == 1
    assert len(table) == {"tokens": 6, "layers": 5, "qubits": 5}[section]


def test_an_arm_gives_the_base_model_back_as_it_was():
    shared = importlib.import_module("adapted_models")
    step = importlib.import_module("training_step")
    base = step.build(step.TINY)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    kinds = [type(module) for module in base.modules()]
    tokens = step.tokens_for(base, 1)
    for arm in step.ARMS[:3]:
        with shared.attached(base, arm.config(["q_proj"])) as (model, optimizer):
            first = shared.train_one_step(model, optimizer, tokens)
            assert shared.train_one_step(model, optimizer, tokens) != first
    assert [type(module) for module in base.modules()] == kinds
    assert not base._forward_pre_hooks
    after = base.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_missed_target_is_called_missed():
    shared = importlib.import_module("adapted_models")
    results = [
        shared.Result("first", cpu_seconds=[1.0, 2.0, 1.0], peak_megabytes=100.0),
        shared.Result("slow", cpu_seconds=[1.2, 2.4], peak_megabytes=104.0),
    ]
    lines = shared.verdicts(results, {"slow": 1.1}, 1.05).splitlines()
    assert lines[0].endswith("time 1.200x, target 1.10x: MISSED")
    assert lines[1].endswith("peak memory 1.040x, target 1.05x: met")
    results[1].cpu_seconds = [1.2, 2.0]
    assert "both sides" in shared.verdicts(results, {"slow": 1.1}, 1.05).splitlines()[0]


def test_a_large_model_is_in_bf16_and_trains(monkeypatch, capsys):
    out = run("large_model", monkeypatch, capsys, "--rounds", "1", "--only", "QTHA r=4 L=1")
    assert "| QTHA r=4 L=1 | " in out
    base = importlib.import_module("large_model").build("tiny", "float32")
    assert {tensor.dtype for tensor in base.parameters()} == {torch.bfloat16}
    assert base.model.gradient_checkpointing


def test_a_widened_product_equals_the_float32_one_in_value_and_gradient(monkeypatch):
    large = importlib.import_module("large_model")
    monkeypatch.setattr(large, "BLOCK_ELEMENTS", 100)  # several blocks, the last one smaller
    plain = torch.nn.Linear(24, 18, dtype=torch.bfloat16).requires_grad_(False)
    parent = torch.nn.Sequential(plain)
    large.widen_products(parent)
    assert isinstance(parent[0], large.WideLinear)
    assert parent[0].weight is plain.weight
    inputs = torch.randn(2, 5, 24, dtype=torch.bfloat16, requires_grad=True)
    factors = torch.randn(2, 5, 18, dtype=torch.bfloat16)
    (gradient,) = torch.autograd.grad((parent(inputs) * factors).sum(), inputs)
    exact = inputs.detach().double() @ plain.weight.double().T + plain.bias.double()
    torch.testing.assert_close(parent(inputs).double(), exact, rtol=0.01, atol=0.01)
    expected = factors.double() @ plain.weight.double()
    torch.testing.assert_close(gradient.double(), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("arm", "n_parameters", "n_lora"),
    [((4, 4), 572_544, 1_261_568), ((8, 8), 703_360, 2_523_136), ((10, 10), 772_800, 3_153_920)],
)
def test_the_saving_on_7b_shapes_is_the_published_one(arm, n_parameters, n_lora):
    large = importlib.import_module("large_model")
    shared = importlib.import_module("adapted_models")
    with torch.device("meta"):
        base = Qwen2ForCausalLM(Qwen2Config(**large.SHAPES["deepseek-r1-distill-qwen-7b"]))
        counts = shared.count_parameters(base, shared.qtha(*arm).config(large.TARGETS))
    assert counts == (n_parameters, n_lora)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux measures it")
def test_memory_is_measured_in_a_process_of_its_own():
    memory = importlib.import_module("memory")
    settings = [["q_proj", "v_proj"], True, 2]
    script = str(FOLDER / "training_step.py")
    added, peak = memory.peaks_of_process(script, "QTHA r=4 L=1", settings)
    assert 0 < added < peak


def test_every_table_of_the_pages_has_its_place_and_its_command():
    everything = importlib.import_module("everything")
    for part in everything.PARTS:
        page = (everything.DOCS / part.page).read_text(encoding="utf-8")
        assert page.count(f"<!-- begin: {part.name} -->\n") == 1
        assert page.count(f"<!-- end: {part.name} -->") == 1
        assert (FOLDER / part.command[0]).exists()


def test_a_table_takes_the_place_of_the_old_one_alone(tmp_path):
    everything = importlib.import_module("everything")
    (tmp_path / "benchmarks.md").write_text(
        "before\n<!-- begin: step -->\nold\n<!-- end: step -->\nafter\n", encoding="utf-8"
    )
    (part,) = (part for part in everything.PARTS if part.name == "step")
    for text in ("new", "newer"):
        everything.put(part, text, tmp_path)
    written = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert written == "before\n<!-- begin: step -->\nnewer\n<!-- end: step -->\nafter\n"
    assert [path.name for path in tmp_path.iterdir()] == ["benchmarks.md"]


def test_a_page_without_the_marks_is_left_as_it_is(tmp_path):
    everything = importlib.import_module("everything")
    (tmp_path / "benchmarks.md").write_text("nothing here\n", encoding="utf-8")
    (part,) = (part for part in everything.PARTS if part.name == "step")
    with pytest.raises(SystemExit, match="no marks"):
        everything.put(part, "new", tmp_path)
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == "nothing here\n"
