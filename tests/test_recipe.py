"""The recipe: what is read, what is refused, and in which words."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from qpeft.errors import RecipeError
from qpeft.recipe import AdapterSpec, DataSpec, Recipe, TrainingSpec, load_recipe

GOOD = """
model: smollm2-135m
adapter: {method: QTHA, r: 8, lora_dropout: 1e-1}
baselines: [{method: lora, r: 8, name: LoRA}]
data:
  task: chain_sum
  options: {min_terms: 2}
  prompt: "Question: {question}\\nAnswer:"
  n_train: 10
training: {steps: 200, learning_rate: 1e-3}
"""


@pytest.fixture
def write(tmp_path):
    def write_recipe(text: str = GOOD, name: str = "r.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert all("\n" not in line for line in caught.value.problems)
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]


def test_a_good_recipe_is_typed_data(write):
    recipe = load_recipe(write())
    assert recipe.model.name == "smollm2-135m"
    assert recipe.adapter.method == "qtha"
    assert recipe.adapter.options == {"r": 8, "lora_dropout": 0.1}
    assert recipe.baselines[0].label == "LoRA"
    assert recipe.training.learning_rate == 1e-3
    assert recipe.evaluation.n_shots == [0]


def test_the_written_recipe_reads_back_equal(write):
    recipe = load_recipe(write(), ["evaluation.stop=['\\n', 'a: b', '# c']", "training.steps=7"])
    again = load_recipe(write(recipe.to_yaml(), "again.yaml"))
    assert again == recipe
    assert "learning_rate: 0.001" in recipe.to_yaml()


def test_options_stand_beside_the_method_when_written():
    text = AdapterSpec(method="lora", options={"r": 4}).model_dump()
    assert text == {"method": "lora", "r": 4}


def test_a_name_alone_is_an_adapter_and_a_model():
    data = {"task": "t", "n_train": 1}
    recipe = Recipe.model_validate(
        {"model": "m", "adapter": "lora", "data": data, "training": {"steps": 1}}
    )
    assert (recipe.model.name, recipe.adapter.method) == ("m", "lora")


def test_every_mistake_is_reported_at_once(write):
    path = write("""
model: {name: m, dtype: bf61}
adapter: {r: 8}
data: {task: t, n_train: 0, optoins: {}}
training: {learning_rat: 1, learning_rate: 0, packing: maybe, epochs: true}
evaluation: {n_shots: []}
seed: -1
extra: 1
""")
    assert problems(path) == [
        "model.dtype: expected one of auto, fp32, bf16, fp16, got \"bf61\". Did you mean 'bf16'?",
        "adapter.method: missing",
        "data.n_train: expected a number above 0, got 0",
        "data.optoins: unknown key. Did you mean 'options'?",
        "training.epochs: expected a number, got true",
        "training.learning_rate: expected a number above 0, got 0",
        'training.packing: expected true or false, got "maybe"',
        "training.learning_rat: unknown key. Did you mean 'learning_rate'?",
        "evaluation.n_shots: expected a list that is not empty, got []",
        "seed: expected a number not below 0, got -1",
        "extra: unknown key. Valid: adapter, baselines, data, evaluation, jobs, model, output_dir,"
        " seed, training.",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps=many", 'expected a whole number, got "many"'),
        ("training.steps=1.5", "expected a whole number, got 1.5"),
        ("training.steps=true", "expected a whole number, got true"),
        ("training.weight_decay=.nan", "expected a finite number, got NaN"),
        ("model.name=3", "expected a text, got 3"),
        ("model.name=", "expected a text, got null"),
        ("data.options=3", "expected keys with values, got 3"),
        ("training.loggers=tensorboard", 'expected a list, got "tensorboard"'),
        (
            "adapter.name=a/b",
            "expected a name of letters, digits, '.', '_', '+' or '-', got \"a/b\"",
        ),
    ],
)
def test_a_wrong_type_is_said_in_plain_words(write, override, expected):
    assert problems(write(), override) == [f"--set {override}: {expected}"]


def test_a_key_of_another_part_is_pointed_to(write):
    path = write(GOOD + "batch_size: 3\n")
    assert problems(path) == ["batch_size: unknown key. Did you mean 'training.batch_size'?"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{steps: 200,", "{", "training: set exactly one of 'steps' and 'epochs', got none"),
        ("{steps:", "{epochs: 1.0, steps:", "training: set exactly one of 'steps' and 'epochs', g"),
        (
            "task:",
            "hub: x\n  task:",
            "data: set exactly one of 'task', 'files' and 'hub', got task",
        ),
        ("  n_train: 10", "", "data.n_train: missing: set how many"),
        ("task: chain_sum", "hub: x", "data.completion: missing: a template for 'prompt' needs"),
        ("name: LoRA", "name: qtha", "baselines.0.name: a second adapter is called 'qtha'"),
        ("{steps:", "{early_stopping: 2, steps:", "training.early_stopping: needs validation"),
        (
            "n_train: 10\ntraining: {",
            "n_train: 10\n  n_validation: 2\ntraining: {early_stopping: 2, evaluate_every: null, ",
            "training.early_stopping: counts validations",
        ),
        ("task:", "format: alpaca\n  task:", "data.prompt: format 'alpaca' takes no templates"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(write, old, new, expected):
    assert old in GOOD
    found = problems(write(GOOD.replace(old, new)))
    assert any(line.startswith(expected) for line in found), found


def test_checks_across_keys_run_beside_those_of_single_keys(write):
    path = write(GOOD.replace("{steps: 200", "{steps: many, epochs: 2"))
    assert [line.split(":")[0] for line in problems(path)] == ["training.steps", "training"]


def test_specs_made_in_python_are_checked_too():
    with pytest.raises(ValidationError, match="exactly one of 'steps' and 'epochs'"):
        TrainingSpec()
    with pytest.raises(ValidationError, match="exactly one of 'task', 'files' and 'hub'"):
        DataSpec()


def test_overrides_reach_every_depth_and_read_yaml(write):
    overrides = [
        "training.learning_rate=2e-4",
        "adapter.r=4",
        "baselines.0.r=2",
        "model.dtype=fp32",
        "data.options={min_terms: 3}",
        "training.max_grad_norm=1e-1",
        "data.prompt='a = {question}'",
    ]
    recipe = load_recipe(write(), overrides)
    assert recipe.training.learning_rate == 2e-4
    assert recipe.adapter.options["r"] == 4
    assert recipe.baselines[0].options["r"] == 2
    assert (recipe.model.name, recipe.model.dtype) == ("smollm2-135m", "fp32")
    assert recipe.data.options == {"min_terms": 3}
    assert recipe.data.prompt == "a = {question}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("nope", "--set nope: expected key=value, for example training.steps=50"),
        ("=3", "--set =3: expected key=value, for example training.steps=50"),
        ("a b=3", "--set a b=3: expected key=value, for example training.steps=50"),
        ("seed=[", "--set seed=[, line 1, column 2: not valid YAML: expected the node content"),
        (
            "training.stesp=3",
            "--set training.stesp=3: unknown key. Did you mean 'steps'?",
        ),
        ("trainin.steps=3", "--set trainin.steps=3: unknown key. Did you mean 'training'?"),
        ("baselines.4.r=1", "--set baselines.4.r=1: 'baselines' has the places 0 to 0"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(write, override, expected):
    (line,) = problems(write(), override)
    assert line.startswith(expected)


def test_a_missing_recipe_names_the_nearest_file(write):
    path = write(name="maths.yaml")
    (line,) = problems(path.with_name("math.yaml"))
    assert line == "no such recipe file. Did you mean 'maths.yaml'?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": the recipe is empty"),
        ("# only a comment\n", ": the recipe is empty"),
        ("- a\n- b\n", ": expected keys such as 'model:' and 'data:', got [\"a\", \"b\"]"),
        ("model: m\nadapter: {a: [1}\n", ", line 2, column 16: not valid YAML:"),
        ("seed: 1\nseed: 2\n", ", line 2, column 1: not valid YAML: the key 'seed' stands here"),
        ("a: \tb: c\n", ", line 1, column"),
        ("a: \x01\n", ": not valid YAML: unacceptable character"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(write, text, expected):
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}{expected}")


def test_a_folder_or_bytes_in_place_of_a_recipe_are_one_line(tmp_path):
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, binary):
        with pytest.raises(RecipeError, match="cannot be read as a text file"):
            load_recipe(path)


def test_paths_are_taken_from_the_recipes_folder_and_output_from_here(write, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    text = GOOD.replace("smollm2-135m", "{name: base, chat_template: chat.jinja}")
    text = text.replace("task: chain_sum", "files: {train: d/a.jsonl, test: ../b.csv}")
    text = text.replace("  options: {min_terms: 2}\n", "").replace(
        "  n_train", "  completion: c\n  n_train"
    )
    path = write(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    recipe = load_recipe(path)
    assert recipe.data.files is not None
    assert recipe.data.files.train == tmp_path / "d/a.jsonl"
    assert recipe.data.files.test == tmp_path / "../b.csv"
    assert recipe.data.files.validation is None
    assert recipe.model.name == str(tmp_path / "base")
    assert recipe.model.chat_template == str(tmp_path / "chat.jinja")
    assert recipe.output_dir == elsewhere / "runs" / "r"


def test_a_hub_id_stays_a_hub_id(write):
    recipe = load_recipe(write(GOOD.replace("smollm2-135m", "Qwen/Qwen2.5-0.5B")))
    assert recipe.model.name == "Qwen/Qwen2.5-0.5B"


def test_one_file_means_training_rows(write, tmp_path):
    text = GOOD.replace("task: chain_sum", "files: a.jsonl\n  completion: ' {x}'")
    text = text.replace("  options: {min_terms: 2}\n", "")
    recipe = load_recipe(write(text), ["data.files.test=t.csv"])
    assert recipe.data.files is not None
    assert recipe.data.files.train == tmp_path / "a.jsonl"
    assert recipe.data.files.test == tmp_path / "t.csv"


def test_reading_recipes_imports_nothing_heavy():
    code = (
        "import sys, qpeft.recipe; "
        "print(*{'torch', 'transformers', 'peft', 'datasets', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
