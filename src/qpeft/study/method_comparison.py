"""A study's runs in the layout of PEFT's method_comparison, so that its rows can stand beside theirs.

    experiments/<method>/<experiment>/adapter_config.json       the adapter's PEFT configuration
    experiments/<method>/<experiment>/training_params.json      how it was trained
    results/<method>--<experiment>.json                         run_info, train_info, meta_info

An experiment is an arm on a task with a seed: `<task>--<arm>--seed<k>`. The keys are those of
https://github.com/huggingface/peft/tree/main/method_comparison. What is measured there on an accelerator is here
the resident memory of the process; `forgetting` is a difference of losses in both.
"""

import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from qpeft.recipe import Recipe
from qpeft.study.job_folder import read_json, read_status, seconds_of
from qpeft.study.results import RunRow, StudyResults
from qpeft.training.methods import build_adapter_config
from qpeft.training.record import read_jsonl, write_json

_STATUS = {"succeeded": "success", "failed": "failed", "cancelled": "canceled"}


def write_method_comparison(results: StudyResults, folder: Path) -> list[Path]:
    """Write every run that was begun, and return the files with the results.

    Args:
        results: Of a study.
        folder: Where to; files of the same names are replaced.
    """
    written = []
    for row in results.rows:
        run = results.folder / row.folder
        if row.status not in _STATUS or not (run / "job.json").exists():
            continue
        recipe = Recipe.model_validate(read_json(run / "job.json")["recipe"])
        method = recipe.adapter.method
        experiment = f"{row.task}--{row.arm}--seed{row.seed}"
        config, params = _peft_config(run, row, recipe), training_params(recipe)
        own = folder / "experiments" / method / experiment
        write_json(own / "adapter_config.json", config)
        write_json(own / "training_params.json", params)
        file = folder / "results" / f"{method}--{experiment}.json"
        write_json(
            file,
            {
                "run_info": _run_info(row, run, f"{method}/{experiment}", params, config),
                "train_info": _train_info(row, run, recipe, results.provenance["n_base"]),
                "meta_info": _meta_info(results, row),
            },
        )
        written.append(file)
    return written


def training_params(recipe: Recipe) -> dict[str, Any]:
    """Return how a recipe trains, under the names of method_comparison's `TrainConfig`."""
    training, evaluation = recipe.training, recipe.evaluation
    dtypes = {"auto": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    angles = training.angle_rate_ratio
    own = {} if angles is None else {"angle_rate_ratio": angles}
    quantized = {"8bit": "int8", "4bit": "int4"}.get(recipe.model.quantization or "")
    return {
        "model_id": recipe.model.name,
        "dtype": quantized or dtypes[recipe.model.dtype],
        "max_seq_length": training.max_length,
        "batch_size": training.batch_size * training.gradient_accumulation,
        "batch_size_eval": evaluation.batch_size,
        "max_steps": training.steps,
        "eval_steps": training.evaluate_every,
        "compile": False,
        "use_gc": training.gradient_checkpointing,
        "query_template": recipe.data.prompt or "{query}",
        "seed": recipe.seed,
        "grad_norm_clip": training.max_grad_norm,
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {
            "lr": training.learning_rate,
            "weight_decay": training.weight_decay,
            **own,
        },
        "lr_scheduler": training.schedule,
        "use_amp": False,
        "autocast_adapter_dtype": True,
        "generation_kwargs": {"max_new_tokens": evaluation.max_new_tokens},
        "attn_implementation": None if recipe.model.attention == "auto" else recipe.model.attention,
        "init_kv_cache_prefix": None,
    }


def _peft_config(run: Path, row: RunRow, recipe: Recipe) -> dict[str, Any]:
    """Return the configuration in the adapter's folder, or without one (of published rows) that of the recipe."""
    file = run / row.arm / "adapter_config.json"
    if file.exists():
        return dict(read_json(file))
    with tempfile.TemporaryDirectory() as folder:
        build_adapter_config(recipe.adapter, "adapter").save_pretrained(folder)
        return dict(read_json(Path(folder) / "adapter_config.json"))


def _run_info(
    row: RunRow, run: Path, name: str, params: Mapping[str, Any], config: Any
) -> dict[str, Any]:
    status = read_status(run)
    return {
        "created_at": status.get("started"),
        "total_time": seconds_of(status),
        "experiment_name": name,
        "peft_branch": "main",
        "train_config": dict(params),
        "peft_config": config,
        "error_msg": row.error or "",
    }


def _train_info(row: RunRow, run: Path, recipe: Recipe, n_base: int) -> dict[str, Any]:
    results = run / "results.json"
    own = read_json(results)["arms"].get(row.arm, {}) if results.exists() else {}
    return {
        "accelerator_memory_reserved_avg": None,
        "accelerator_memory_max": row.peak_memory,
        "accelerator_memory_reserved_99th": None,
        "train_time": own.get("training", {}).get("seconds"),
        "file_size": row.adapter_bytes,
        "num_trainable_params": row.n_parameters,
        "num_total_params": n_base + (row.n_parameters or 0),
        "status": _STATUS[row.status],
        "metrics": _metrics(row, run, recipe),
    }


def _metrics(row: RunRow, run: Path, recipe: Recipe) -> list[dict[str, Any]]:
    rows_a_step = recipe.training.batch_size * recipe.training.gradient_accumulation
    found: list[dict[str, Any]] = []
    loss: float | None = None
    for line in read_jsonl(run / row.arm / "metrics.jsonl"):
        loss = line.get("loss", loss)
        if "validation_loss" in line:
            found.append(
                {
                    "step": line["step"],
                    "valid loss": line["validation_loss"],
                    "train loss": loss,
                    "train samples": line["step"] * rows_a_step,
                    "elapsed time": line["seconds"],
                }
            )
    if row.status == "succeeded":
        found.append(
            {
                "step": row.steps,
                "test accuracy": row.accuracy,
                "test strict accuracy": row.strict_accuracy,
                "test loss": row.test_loss,
                "train loss": loss,
                "train samples": (row.steps or 0) * rows_a_step,
                "train total tokens": row.tokens,
                "forgetting": row.forgetting,
            }
        )
    return found


def _meta_info(results: StudyResults, row: RunRow) -> dict[str, Any]:
    hashes = results.provenance["data_hashes"][row.task]
    return {
        "model_info": {"sha": None, "created_at": None},
        "dataset_info": {
            name: {"sha": digest, "created_at": None} for name, digest in hashes.items()
        },
        "package_info": _packages(results),
        "system_info": {
            "system": platform.system(),
            "release": platform.release(),
            "version": platform.version(),
            "machine": platform.machine(),
            "processor": results.provenance.get("cpu", platform.processor()),
            "accelerator": ", ".join(results.provenance.get("gpus", [])) or "none",
        },
        "pytorch_info": torch.__config__.show(),
    }


def _packages(results: StudyResults) -> dict[str, str | None]:
    known = results.provenance.get("versions", {})
    found: dict[str, str | None] = {}
    for name in ("transformers", "peft", "datasets", "bitsandbytes", "torch", "qpeft"):
        try:
            found[f"{name}-version"] = known.get(name) or version(name)
        except PackageNotFoundError:
            found[f"{name}-version"] = None
        found[f"{name}-commit-hash"] = None
    return found
