"""A trained adapter on its base model, loaded to be measured, and how it does on the test split."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from qpeft.adapters import QthaConfig, run_on
from qpeft.adapters.qtha import QthaAdapter, QthaLinear
from qpeft.backends import REMOTES
from qpeft.errors import StudyError
from qpeft.layers import QuantumLayer
from qpeft.recipe import AdapterSpec, Recipe
from qpeft.study.measures.spec import MeasureSpec
from qpeft.training.adapting import fingerprint, quiet_libraries
from qpeft.training.data import load_splits
from qpeft.training.evaluation import Evaluation, evaluate
from qpeft.training.examples import Splits
from qpeft.training.loading import attach_adapter, is_adapter
from qpeft.training.models import load_base
from qpeft.training.run import place


@dataclass
class Subject:
    """A trained adapter on its base model.

    Args:
        recipe: What it was trained with.
        adapter: Its part of the recipe.
        folder: Where its weights lie.
        model: The base model with the adapter, in evaluation mode.
        tokenizer: The base model's tokenizer.
        splits: The recipe's data.
        base_bits: `fingerprint` of the base model.
        spec: How thoroughly to measure.
    """

    recipe: Recipe
    adapter: AdapterSpec
    folder: Path
    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    splits: Splits
    base_bits: dict[str, int]
    spec: MeasureSpec
    _unchanged: dict[int, Evaluation] = field(default_factory=dict)

    def score(self, n_examples: int | None) -> Evaluation:
        """Return how the model as it is now does on the first test examples; None or 0 for all."""
        test = self.splits.test[: n_examples or None]
        parts = self.splits
        splits = Splits(parts.train, parts.validation, test, parts.verifier, parts.hashes)
        evaluation = self.recipe.evaluation
        n_shots = evaluation.n_shots[0]
        return evaluate(
            self.model, self.tokenizer, splits, evaluation, n_shots, seed=self.recipe.seed
        )

    def score_unchanged(self, n_examples: int | None) -> Evaluation:
        """Return the same, evaluated once: call it while nothing is changed."""
        n = len(self.splits.test[: n_examples or None])
        if n not in self._unchanged:
            self._unchanged[n] = self.score(n)
        return self._unchanged[n]


def load_subject(run_folder: Path, recipe: Recipe, arm: str, spec: MeasureSpec) -> Subject:
    """Load a finished arm of a run.

    Circuits that were trained on a machine or emulator run on the exact simulator here: a measure
    must not send jobs.

    Args:
        run_folder: The run's folder.
        recipe: The run's recipe.
        arm: The arm's label.
        spec: How thoroughly it will be measured.

    Raises:
        StudyError: The recipe has no such arm, or the run has not finished it.
    """
    arms = {one.label: one for one in (recipe.adapter, *recipe.baselines)}
    if arm not in arms:
        raise StudyError(f"The recipe has no arm '{arm}' to measure. It has: {', '.join(arms)}.")
    folder = run_folder / arm
    if not is_adapter(folder):
        raise StudyError(f"{folder} holds no finished adapter to measure. Train the run first.")
    with quiet_libraries():
        model, tokenizer = load_base(recipe.model)
    place(model)
    bits = fingerprint(model)
    splits = load_splits(recipe.data, tokenizer.chat_template is not None)
    adapted = attach_adapter(model, folder)
    config = qtha_config(adapted)
    if config is not None and config.backend in REMOTES:
        run_on(adapted, "exact", adapter_name=str(adapted.active_adapter))
    return Subject(recipe, arms[arm], folder, adapted, tokenizer, splits, bits, spec)


def qtha_config(model: PeftModel) -> QthaConfig | None:
    """Return the active adapter's configuration if it is a QTHA adapter."""
    config = model.peft_config[model.active_adapter]
    return config if isinstance(config, QthaConfig) else None


def qtha_adapters(model: nn.Module) -> dict[str, QthaAdapter]:
    """Return the active QTHA adapter of each adapted layer, by the layer's name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, QthaLinear):
            for active in module.active_adapters:
                adapter = module.adapters[active]
                if isinstance(adapter, QthaAdapter):
                    found[name] = adapter
    return found


def circuits_of(model: nn.Module) -> dict[str, QuantumLayer]:
    """Return the circuit layer of each adapted layer that has one, by the layer's name."""
    return {
        name: adapter.core
        for name, adapter in qtha_adapters(model).items()
        if isinstance(adapter.core, QuantumLayer)
    }


def layer_index(name: str) -> int:
    """Return the decoder layer of a module, the first number in its name; -1 where there is none."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), -1)


def left_out(reason: str) -> dict[str, Any]:
    """Return what stands in place of a measure that does not apply."""
    return {"left_out": reason}
