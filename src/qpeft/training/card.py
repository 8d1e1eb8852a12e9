"""The model card of an adapter: how to load it, what it scored, what is not claimed."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from qpeft.recipe import AdapterSpec, DataSpec, Recipe
from qpeft.training.demo_model import HUB_ID as DEMO_HUB_ID
from qpeft.training.demo_model import NAME as DEMO_NAME
from qpeft.training.evaluation import Comparison, Evaluation

_QTHA = "qtha"


def model_card(
    recipe: Recipe,
    arm: AdapterSpec,
    record: Mapping[str, Any],
    evaluations: Mapping[str, Sequence[Evaluation]],
    comparisons: Sequence[Comparison],
    *,
    base_id: str,
) -> str:
    """Return the README.md of one adapter folder.

    Args:
        recipe: The resolved recipe of the run.
        arm: Which of its adapters.
        record: What results.json holds of the arm: `parameters` and `training`.
        evaluations: Of the base model and of all arms.
        comparisons: Between them.
        base_id: What PEFT will load the base model from: a hub id or a folder.
    """
    lineage = _lineage(recipe, base_id)
    parts = [
        _front_matter(arm, lineage),
        f"# {arm.label}: a {arm.method} adapter for {lineage or Path(recipe.model.name).name}",
        _introduction(recipe, arm),
        "## Use",
        _use(recipe, arm, base_id),
        "## Results",
        _results(recipe, arm, evaluations, comparisons),
        "## Size",
        _size(arm, record["parameters"]),
        "## Training",
        _training(recipe, record["training"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(arm: AdapterSpec, lineage: str | None) -> str:
    data: dict[str, Any] = {"base_model": lineage} if lineage else {}
    tags = ["qpeft", arm.method, "text-generation"]
    if lineage:
        tags.append(f"base_model:adapter:{lineage}")
    data |= {"library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}
    return f"---\n{yaml.safe_dump(data, sort_keys=False)}---"


def _introduction(recipe: Recipe, arm: AdapterSpec) -> str:
    text = f"Made with qpeft {version('qpeft')}, seed {recipe.seed}, on {_data(recipe.data)}."
    if arm.method == _QTHA:
        text += (
            " QTHA (Quantum Tensor Hybrid Adaptation, arXiv 2503.12790) puts small tensor-network "
            "maps and a quantum circuit beside frozen linear layers."
        )
    return text


def _use(recipe: Recipe, arm: AdapterSpec, base_id: str) -> str:
    is_ours = arm.method == _QTHA
    lines = ["import qpeft  # registers the method with PEFT"] if is_ours else []
    lines += [
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer",
        "",
        'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")',
        f'tokenizer = AutoTokenizer.from_pretrained("{base_id}")',
    ]
    text = "```python\n" + "\n".join(lines) + "\n```"
    if is_ours:
        text += (
            "\n\nThe method is not part of PEFT: `pip install qpeft`, and keep the line `import "
            "qpeft`. After `qpeft autoload on` that line is not needed any more."
        )
    if is_ours and arm.options.get("backend", "exact") != "exact":
        text += f"\n\n{_machine(arm)}"
    if not _is_hub_id(base_id):
        text += (
            f"\n\nThe base model lay in the local folder `{base_id}`. On another machine, change "
            "`base_model_name_or_path` in `adapter_config.json`."
        )
    if recipe.model.name == DEMO_NAME:
        text += (
            f" There, `qpeft chat {DEMO_NAME}` makes that folder: a 4-bit GGUF of the model, "
            f"unpacked, where the hub cannot be reached. Its weights differ a little from the "
            f"hub's, and so will the numbers."
        )
    return text


def _machine(arm: AdapterSpec) -> str:
    """Say that using the adapter runs circuits elsewhere, and how not to."""
    layers = arm.options.get("backend_layers")
    which = f" of decoder layers {', '.join(map(str, layers))}" if layers else ""
    return (
        f"The circuits{which} run on the backend `{arm.options['backend']}`, also when the adapter is used: each "
        f'new process sends jobs. Elsewhere: `qpeft.adapters.run_on(model, "exact")`; without any '
        f"circuit: `qpeft export FOLDER TARGET --surrogate`."
    )


def _results(
    recipe: Recipe,
    arm: AdapterSpec,
    evaluations: Mapping[str, Sequence[Evaluation]],
    comparisons: Sequence[Comparison],
) -> str:
    own = evaluations.get(arm.label, ())
    if not own:
        return "Not evaluated: the data had no test split."
    stop = ", ".join(repr(string) for string in recipe.evaluation.stop) or "none"
    apart = " (no question of it occurs in the training split)" if recipe.data.task else ""
    sentence = (
        f"On {own[0].n} examples of the test split{apart}; greedy decoding, at "
        f"most {recipe.evaluation.max_new_tokens} new tokens, stop strings {stop}; an answer "
        f"counts if {own[0].verifier} accepts it. One seed. Intervals are 95 % (Wilson); they "
        f"cover the choice of test examples, not of the seed."
    )
    rows = ["| model | shots | correct | accuracy | 95 % interval | loss | perplexity |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name, found in evaluations.items():
        title = "base model" if name == "base" else f"**{name}**" if name == arm.label else name
        for e in found:
            low, high = e.interval
            rows.append(
                f"| {title} | {e.n_shots} | {e.n_correct}/{e.n} | {e.accuracy:.1%} | "
                f"{low:.1%} to {high:.1%} | {e.loss:.4f} | {e.perplexity:.3f} |"
            )
    tests = [
        f"- {c.arm} against {'the base model' if c.other == 'base' else c.other}, {c.n_shots} "
        f"shots: {100 * c.difference:+.1f} points, p = {c.p_value:.2g}"
        for c in comparisons
        if arm.label in (c.arm, c.other)
    ]
    text = sentence + "\n\n" + "\n".join(rows)
    if tests:
        text += "\n\nPaired on the same examples (exact McNemar test):\n\n" + "\n".join(tests)
    return text


def _size(arm: AdapterSpec, count: Mapping[str, Any]) -> str:
    text = f"{count['n_trainable']:,} trainable parameters in {count['n_modules']} adapted layers."
    if count["n_lora"] is not None and arm.method not in ("lora", "dora"):
        word = "fewer" if count["saving"] >= 0 else "more"
        text += (
            f" LoRA of the same rank on the same layers has {count['n_lora']:,}: this is "
            f"{abs(count['saving']):.1%} {word}."
        )
    if count["n_circuits"]:
        is_exact = arm.options.get("backend", "exact") == "exact"
        how = ", computed exactly by simulation" if is_exact else ""
        text += (
            f" {count['n_circuit_angles']:,} of the parameters are angles of circuits; one token "
            f"takes {count['n_circuits']} circuits of {count['n_qubits']} qubits{how}."
        )
    if arm.method == _QTHA:
        text += (
            "\n\nWhatever is saved against LoRA, the tensor networks save; a circuit only adds "
            "angles. No quantum advantage is claimed. What a circuit contributes can be measured "
            "with the controls that stand in its place (`core: none`, `constant`, `mlp`, `product`, "
            "`frozen`, `fourier`)."
        )
    return text


def _training(recipe: Recipe, training: Mapping[str, Any]) -> str:
    spec = recipe.training
    rows = spec.batch_size * spec.gradient_accumulation
    facts = [
        f"{training['steps_done']:,} steps of {rows} examples, {training['tokens']:,} tokens, "
        f"{training['seconds']:,.0f} seconds",
        f"learning rate {spec.learning_rate:g}, schedule {spec.schedule}, {spec.warmup_steps} "
        f"warm-up steps, weight decay {spec.weight_decay:g}",
        f"loss on {'the completion' if spec.loss_on == 'completion' else 'all tokens'}; last "
        f"training loss {training['loss']:.4f}"
        + (
            ""
            if training["validation_loss"] is None
            else f", last validation loss {training['validation_loss']:.4f}"
        ),
    ]
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"{listed}\n\nThe whole recipe: `../recipe.yaml`; every step: `metrics.jsonl`."


def _data(data: DataSpec) -> str:
    if data.task is not None:
        return f"the task `{data.task}`"
    if data.hub is not None:
        return f"the hub data set `{data.hub}`"
    assert data.files is not None
    return f"the local file `{data.files.train.name}`"


def _lineage(recipe: Recipe, base_id: str) -> str | None:
    if recipe.model.name == DEMO_NAME:
        return DEMO_HUB_ID
    return base_id if _is_hub_id(base_id) else None


def _is_hub_id(base_id: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", base_id) is not None and not Path(base_id).exists()
