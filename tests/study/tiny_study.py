"""A study of seconds: a tiny model, sums to learn, two arms and two seeds."""

import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.append(str(Path(__file__).parents[1] / "training"))

from tiny import PROMPT, make_sums, make_tiny_model

QTHA = {
    "name": "qtha",
    "method": "qtha",
    "r": 2,
    "target_modules": ["q_proj", "v_proj"],
    "inner_width": 8,
    "bond_dim": 1,
    "n_cores": 2,
    "differs": {"parameters": "fewer of them is what is on trial"},
}
LORA = {"name": "lora", "method": "lora", "r": 4, "target_modules": ["q_proj", "v_proj"]}


def study_keys(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the keys of a tiny study; `changes` replace keys, mappings one by one."""
    if not (folder / "model").exists():
        make_tiny_model(folder / "model")
        make_sums(folder)
    raw: dict[str, Any] = {
        "name": "tiny",
        "model": {"name": "model", "dtype": "fp32"},
        "subject": "qtha",
        "reference": "lora",
        "seeds": [0, 1],
        "arms": [LORA, QTHA],
        "tasks": [
            {
                "name": "sums",
                "title": "sums of two numbers",
                "data": {
                    "files": "sums.jsonl",
                    "prompt": PROMPT,
                    "completion": " {sum}",
                    "n_validation": 6,
                    "n_test": 10,
                },
            }
        ],
        "training": {
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 0.01,
            "max_length": 64,
            "evaluate_every": 3,
            "save_every": 2,
        },
        "evaluation": {"max_new_tokens": 4, "batch_size": 10},
        "base_shots": 2,
        "measures": {"n_forgetting_texts": 2, "forgetting_tokens": 8, "n_rows": 32},
        "output_dir": str(folder / "study"),
    }
    for key, value in changes.items():
        is_merged = isinstance(value, dict) and isinstance(raw.get(key), dict)
        raw[key] = {**raw[key], **value} if is_merged else value
    return raw


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study file and return where it is."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(study_keys(folder, **changes), sort_keys=False), "utf-8")
    return path
