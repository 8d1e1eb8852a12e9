"""Run folders with an adapter as if it had been trained: fresh, with all weights drawn at random."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "training"))

from tiny import make_recipe, make_tiny_model

from qpeft.recipe import ModelSpec
from qpeft.study.measures.spec import MeasureSpec
from qpeft.study.measures.subject import Subject, load_subject
from qpeft.training.adapting import add_adapter
from qpeft.training.methods import build_adapter_config
from qpeft.training.models import load_base
from qpeft.training.saving import save_adapter

TARGETS = ["q_proj", "v_proj"]
QTHA = {
    "method": "qtha",
    "r": 2,
    "target_modules": TARGETS,
    "inner_width": 8,
    "bond_dim": 2,
    "n_cores": 2,
    "init_weights": False,
}
LORA = {"method": "lora", "r": 2, "target_modules": TARGETS, "init_lora_weights": False}
IDS = torch.tensor([[5, 9, 20, 31, 40, 8], [7, 7, 13, 50, 61, 2]])
QUICK = {"n_forgetting_texts": 4, "forgetting_tokens": 12, "n_rows": 60}


def make_run(folder: Path, adapter: dict[str, Any]) -> Any:
    """Write a run of one adapter and return its recipe."""
    model = folder.parent / "model"
    if not model.exists():
        make_tiny_model(model)
    folder.mkdir(exist_ok=True)
    recipe = make_recipe(folder, model, adapter=adapter, output_dir=str(folder / "run"))
    base, _ = load_base(ModelSpec(name=str(model)))
    torch.manual_seed(3)
    save_adapter(add_adapter(base, build_adapter_config(recipe.adapter)), _arm(recipe))
    return recipe


def make_subject(folder: Path, adapter: dict[str, Any], **spec: Any) -> Subject:
    """Write such a run and load its adapter to be measured."""
    recipe = make_run(folder, adapter)
    measures = MeasureSpec(**{**QUICK, **spec})
    return load_subject(folder / "run", recipe, recipe.adapter.label, measures)


def logits(subject: Subject) -> Tensor:
    """Return what the model makes of two short rows of tokens."""
    with torch.no_grad():
        result: Tensor = subject.model(input_ids=IDS).logits
    return result


def _arm(recipe: Any) -> Path:
    folder: Path = recipe.output_dir / recipe.adapter.label
    folder.mkdir(parents=True, exist_ok=True)
    return folder
