"""From a path to a model that talks: a run's folder, an adapter's folder or a base model."""

import json
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qpeft.errors import ModelError
from qpeft.recipe import ModelSpec, Recipe, load_recipe
from qpeft.training.adapting import quiet_libraries
from qpeft.training.models import load_base


@dataclass(frozen=True)
class Source:
    """What a path holds.

    Args:
        model: The base model.
        adapters: Adapter folders by label; none for a base model.
        recipe: The recipe they were trained with, if it is there.
    """

    model: ModelSpec
    adapters: dict[str, Path]
    recipe: Recipe | None


@dataclass(frozen=True)
class ChatModel:
    """A model to talk to.

    Args:
        model: The base model, with its adapter if there is one.
        tokenizer: Its tokenizer.
        name: What it is, in a few words.
        prompt_template: The plain-text prompt it was trained with, as in the recipe ("Question:
            {question}..."); None if it was trained on dialogues or is a base model.
        stop: Strings that end its answers, from the recipe.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    prompt_template: str | None = None
    stop: tuple[str, ...] = ()


def load_for_chat(path: Path | str, adapter: str | None = None) -> ChatModel:
    """Return the model behind a path, ready for `generation.stream_reply`.

    Args:
        path: A run's folder, an adapter's folder, or a base model's folder or name.
        adapter: Which adapter of a run; its main one by default.

    Raises:
        ModelError: There is no such model or adapter.
    """
    source = find_source(path)
    with quiet_libraries():
        model, tokenizer = load_base(source.model)
    if not source.adapters:
        return ChatModel(model, tokenizer, source.model.name)
    label = adapter or next(iter(source.adapters))
    if label not in source.adapters:
        there = ", ".join(source.adapters)
        raise ModelError(f"{path} has no adapter '{label}'. It has: {there}.")
    adapted = attach_adapter(model, source.adapters[label])
    recipe = source.recipe
    return ChatModel(
        adapted,
        tokenizer,
        f"{source.model.name} with {label}",
        recipe.data.prompt if recipe else None,
        tuple(recipe.evaluation.stop) if recipe and recipe.data.prompt else (),
    )


def find_source(path: Path | str) -> Source:
    """Return what lies at a path, without loading it.

    Raises:
        ModelError: It is a run's folder without a finished adapter.
    """
    folder = Path(path)
    if (folder / "recipe.yaml").exists():
        recipe = load_recipe(folder / "recipe.yaml")
        labels = [spec.label for spec in (recipe.adapter, *recipe.baselines)]
        adapters = {label: folder / label for label in labels if is_adapter(folder / label)}
        if not adapters:
            raise ModelError(
                f"The run in {folder} has no finished adapter yet. "
                f"Finish it with: qpeft train {folder / 'recipe.yaml'} --resume"
            )
        return Source(recipe.model, adapters, recipe)
    if is_adapter(folder):
        above = folder.resolve().parent / "recipe.yaml"
        above_recipe = load_recipe(above) if above.exists() else None
        spec = above_recipe.model if above_recipe else ModelSpec(name=_base_name(folder))
        return Source(spec, {folder.resolve().name: folder}, above_recipe)
    return Source(ModelSpec(name=str(path)), {}, None)


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds a PEFT adapter."""
    return (folder / "adapter_config.json").exists()


def attach_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Return the model with the adapter of a folder, for inference.

    Raises:
        ModelError: PEFT cannot read the adapter or it does not fit the model.
    """
    # Registers our methods, so that PEFT knows them.
    import qpeft.adapters  # noqa: F401

    try:
        with quiet_libraries():
            adapted = PeftModel.from_pretrained(model, str(folder))
    except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The adapter in {folder} cannot be loaded: {reason}") from error
    adapted.eval()
    return adapted


def _base_name(folder: Path) -> str:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    name = config.get("base_model_name_or_path")
    if not name:
        raise ModelError(
            f"{folder / 'adapter_config.json'} does not say which base model it belongs to. "
            f"Write it there as base_model_name_or_path."
        )
    return str(name)
