"""Any PEFT method by name: which there are, and a recipe's adapter as that method's configuration.

`dora` is the one name that PEFT does not have: LoRA with `use_dora`.
"""

from dataclasses import dataclass
from typing import Any

from peft import PeftConfig, PromptLearningConfig, TaskType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

# Importing our adapters registers them with PEFT.
import qpeft.adapters  # noqa: F401
from qpeft.errors import RecipeError, did_you_mean
from qpeft.recipe import AdapterSpec
from qpeft.training.options import option_problems


@dataclass(frozen=True)
class MethodInfo:
    """One PEFT method.

    Args:
        name: What stands behind `method:` in a recipe.
        config_class: The class whose fields are the method's options.
        summary: What it trains, in a few words.
        is_quantum: Whether it is one of qpeft's own methods, with a circuit in it.
    """

    name: str
    config_class: type[PeftConfig]
    summary: str
    is_quantum: bool


def build_adapter_config(spec: AdapterSpec, where: str = "adapter") -> PeftConfig:
    """Return the PEFT configuration of a recipe's adapter, for a causal language model.

    Args:
        spec: The method and its options.
        where: The recipe's key of the adapter, for messages.

    Raises:
        RecipeError: No such method or option, or a value that the method does not take.

    Example:
        >>> build_adapter_config(AdapterSpec(method="lora", options={"r": 8})).r
        8
    """
    methods = {method.name: method for method in list_methods()}
    if spec.method not in methods:
        hint = did_you_mean(spec.method, methods)
        raise RecipeError([f"{where}.method: no PEFT method is called '{spec.method}'.{hint}"])
    config_class = methods[spec.method].config_class
    reserved = _RESERVED | ({"use_dora": "'dora' sets it"} if spec.method == "dora" else {})
    problems = option_problems(spec.options, config_class, where, reserved=reserved)
    is_prompt = issubclass(config_class, PromptLearningConfig)
    if is_prompt and spec.options.get("num_virtual_tokens") is None and spec.method != "cpt":
        text = f"missing: how many virtual tokens '{spec.method}' shall train, such as 16"
        problems.append(f"{where}.num_virtual_tokens: {text}")
    if problems:
        raise RecipeError(problems)
    options = {**spec.options, **({"use_dora": True} if spec.method == "dora" else {})}
    try:
        return config_class(task_type=TaskType.CAUSAL_LM, **options)
    except (ValueError, TypeError, ImportError) as error:
        # What a configuration class finds by itself: values that do not go together.
        reason = " ".join(str(error).split())
        raise RecipeError([f"{where}: '{spec.method}' does not take this: {reason}"]) from error


def list_methods() -> list[MethodInfo]:
    """Return every method that a recipe can name: qpeft's own first, then PEFT's by name."""
    classes: dict[str, Any] = {
        str(getattr(kind, "value", kind)).lower(): config_class
        for kind, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    }
    classes["dora"] = classes["lora"]
    methods = [
        MethodInfo(name, config, _SUMMARIES.get(name) or _first_sentence(config), _is_ours(config))
        for name, config in classes.items()
    ]
    return sorted(methods, key=lambda method: (not method.is_quantum, method.name))


def _is_ours(config_class: type) -> bool:
    return config_class.__module__.split(".")[0] == "qpeft"


def _first_sentence(config_class: type) -> str:
    return (config_class.__doc__ or config_class.__name__).strip().splitlines()[0].rstrip(".")


_RESERVED = {
    "task_type": "a recipe always trains a causal language model",
    "peft_type": "'method' decides it",
    "auto_mapping": "PEFT fills it in",
    "peft_version": "PEFT fills it in",
    "inference_mode": "a recipe always trains",
    "base_model_name_or_path": "'model' decides it",
    "revision": "use model.revision",
}

_SUMMARIES = {
    "adalora": "LoRA whose ranks are pruned during training where they matter least",
    "adamss": "low-rank updates in clusters of the weights' singular directions",
    "adaption_prompt": "trained prompts in the top layers, let in by a gate that starts at zero",
    "beft": "bias terms alone, of the value projections by default",
    "boft": "rotations of the weights, as products of sparse butterfly factors",
    "c3a": "circular convolutions in place of low-rank products",
    "cartridge": "a trained key-value cache in front of every input",
    "cpt": "tokens of a given context, their embeddings trained within bounds",
    "deft": "takes a low-rank part out of each weight and puts a trained one in",
    "delora": "LoRA with direction and strength of the update trained apart",
    "dora": "LoRA with length and direction of the weights trained apart",
    "fourierft": "a few entries of the update's Fourier spectrum",
    "frod": "a sparse trained matrix between shared frozen factors",
    "glora": "LoRA with trained scales and shifts of weights and biases",
    "gralora": "LoRA in a grid of blocks, each block with factors of its own",
    "hira": "the weights times a trained low-rank matrix, element by element",
    "hra": "rotations of the weights, as chains of Householder reflections",
    "ia3": "one trained factor for each channel of keys, values and feed-forward",
    "lily": "LoRA whose factors are shared among layers and mixed by a router",
    "ln_tuning": "the weights of the layer norms",
    "loha": "the element-wise product of two low-rank updates",
    "lokr": "Kronecker products of small matrices",
    "lora": "a low-rank update beside each chosen layer",
    "miss": "one trained block a layer, repeated over its inputs",
    "multitask_prompt_tuning": "one shared prompt, scaled for each task by a low-rank factor",
    "oft": "rotations of the weights, block by block",
    "osf": "full training of the weights' weaker singular directions only",
    "p_tuning": "virtual tokens in front of the input, made by a small network",
    "peanut": "a small network that maps each frozen weight to its update",
    "poly": "a few LoRAs that tasks mix by a learned choice",
    "prefix_tuning": "virtual keys and values in front of every layer",
    "prompt_tuning": "embeddings of virtual tokens in front of the input",
    "psoft": "a small rotation within the weights' main singular directions",
    "pvera": "VeRA whose factors are drawn from trained distributions",
    "qtha": "a small quantum circuit between tensor networks, beside each chosen layer",
    "randlora": "scales of many frozen random factors, for updates of full rank",
    "road": "rotations and scales of pairs of output channels",
    "shadow": "a small network beside the decoder that corrects each block's input",
    "shira": "a sparse set of the weights' own entries",
    "supertuning": "the weights' largest entries, with LoRA beside them if wanted",
    "tinylora": "very few numbers, spread over the weights' singular directions",
    "trainable_tokens": "the embeddings of chosen tokens",
    "unilora": "one vector from which every LoRA factor is filled",
    "vblora": "LoRA factors put together from one shared bank of vectors",
    "vera": "two scaling vectors a layer around shared frozen random factors",
    "waveft": "a few wavelet coefficients of the update",
    "xlora": "a trained mixture of finished LoRAs",
}
