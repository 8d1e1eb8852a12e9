"""The model card says what was measured, how to load it, and nothing that is not so."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import make_recipe, make_tiny_model

from qpeft.recipe import Recipe
from qpeft.training import train
from qpeft.training.card import model_card
from qpeft.training.evaluation import Comparison, Evaluation
from qpeft.training.significance import wilson_interval

RECORD = {
    "parameters": {
        "n_trainable": 240,
        "n_circuit_angles": 64,
        "n_modules": 4,
        "n_lora": 1000,
        "n_qubits": 4,
        "n_circuits": 4,
        "saving": 0.76,
    },
    "training": {
        "steps": 200,
        "steps_done": 200,
        "loss": 0.5,
        "validation_loss": 0.6,
        "tokens": 12345,
        "seconds": 60.0,
    },
}


def evaluation(n_correct: int, n_shots: int = 0) -> Evaluation:
    return Evaluation(
        n_shots, 500, n_correct, wilson_interval(n_correct, 500), 0.25, 3.0, "chain_sum"
    )


def card(
    method: str, base_id: str = "owner/model", adapter: dict[str, Any] | None = None, **record: Any
) -> str:
    recipe = Recipe.model_validate(
        {
            "model": base_id,
            "adapter": {"method": method, "r": 4, **(adapter or {})},
            "data": {"task": "chain_sum", "n_train": 10, "n_test": 500},
            "training": {"steps": 200},
        }
    )
    parameters = {**RECORD["parameters"], **record}
    return model_card(
        recipe,
        recipe.adapter,
        {**RECORD, "parameters": parameters},
        {"base": [evaluation(340)], method: [evaluation(410)]},
        [Comparison(method, "base", 0, 0.14, 0.00012)],
        base_id=base_id,
    )


def front_matter(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---")[1])


def test_front_matter_is_what_the_hub_reads() -> None:
    data = front_matter(card("lora"))
    assert data["base_model"] == "owner/model"
    assert data["library_name"] == "peft"
    assert "base_model:adapter:owner/model" in data["tags"]


def test_a_card_says_where_the_circuits_run() -> None:
    text = card("qtha", adapter={"backend": "origin", "backend_layers": [28, 29]})
    assert "The circuits of decoder layers 28, 29 run on the backend `origin`" in text
    assert "qpeft export FOLDER TARGET --surrogate" in text
    assert "run on the backend" not in card("qtha")


def test_a_local_base_is_not_given_as_a_hub_id(tmp_path: Path) -> None:
    text = card("lora", base_id=str(tmp_path))
    assert "base_model" not in front_matter(text)
    assert f"local folder `{tmp_path}`" in text


def test_numbers_stand_in_the_card_as_measured() -> None:
    text = card("qtha")
    low, high = wilson_interval(410, 500)
    row = f"| **qtha** | 0 | 410/500 | 82.0% | {low:.1%} to {high:.1%} | 0.2500 | 1.284 |"
    assert row in text
    assert "| base model | 0 | 340/500 | 68.0% |" in text
    assert "qtha against the base model, 0 shots: +14.0 points, p = 0.00012" in text
    assert "On 500 examples of the test split" in text
    assert "greedy decoding, at most 16 new tokens" in text


def test_a_qtha_card_gives_the_saving_to_the_tensor_networks() -> None:
    text = card("qtha")
    assert "has 1,000: this is 76.0% fewer" in text
    assert "the tensor networks save" in text
    assert "No quantum advantage is claimed" in text
    assert "64 of the parameters are angles of circuits" in text


def test_a_qtha_card_that_saves_nothing_says_so() -> None:
    text = card("qtha", n_trainable=1250, saving=-0.25)
    assert "25.0% more" in text


def test_a_lora_card_speaks_of_no_circuit() -> None:
    text = card("lora", n_circuits=0, n_circuit_angles=0, n_qubits=0, saving=0.0, n_lora=240)
    for word in ("quantum", "circuit", "import qpeft", "tensor", "fewer"):
        assert word not in text.lower()


def test_a_control_without_circuit_mentions_no_qubits() -> None:
    text = card("qtha", n_circuits=0, n_circuit_angles=0, n_qubits=0)
    assert "qubits" not in text
    assert "import qpeft" in text


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "qtha"])
def test_the_cards_example_runs_in_a_fresh_process(tmp_path: Path, method: str) -> None:
    model = make_tiny_model(tmp_path / "model")
    adapter = {"method": method, "r": 4, "target_modules": ["q_proj", "v_proj"]}
    train(make_recipe(tmp_path, model, adapter=adapter, training={"steps": 1}))
    folder = tmp_path / "run" / method
    text = (folder / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    code = found[1].replace("path/to/this/folder", str(folder))
    code += "\nprint(model.peft_config['default'].peft_type.value.lower(), len(tokenizer))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == method


def test_a_trained_adapter_carries_its_card(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    result = train(make_recipe(tmp_path, model, training={"steps": 1}))
    text = (tmp_path / "run" / "lora" / "README.md").read_text()
    trained = json.loads((tmp_path / "run" / "results.json").read_text())["arms"]["lora"]
    assert f"{trained['parameters']['n_trainable']:,} trainable parameters" in text
    assert f"{result.evaluations['lora'][0].loss:.4f}" in text
    assert "1 steps of 4 examples" in text
