"""Whether runs that are compared were trained on the same data: contents, order and amount.

Read off what every run wrote itself: the hashes of its data and its seed (provenance.json), how examples were
made of the data (recipe.yaml), and how many tokens it had seen after each step (metrics.jsonl). Data, seed and
size of the batches fix their order; the tokens step by step show that it was kept, also over an interruption.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qpeft.errors import StudyError
from qpeft.study.job_folder import read_json
from qpeft.study.results import RunRow
from qpeft.training.record import read_jsonl

_AMOUNTS = {"tokens", "steps", "batch_size"}
"""An arm that declares one of these has other batches."""


@dataclass(frozen=True)
class SeenData:
    """What a run was trained on.

    Args:
        digest: SHA-256 (hexadecimal) of the data's hashes, of how examples were made of them, and of the seed.
        tokens: Tokens seen after each optimiser step; empty for a run of which the total alone is known.
        total: Tokens seen in all.
    """

    digest: str
    tokens: tuple[int, ...]
    total: int


def check_same_data(folder: Path, record: Mapping[str, Any], rows: Sequence[RunRow]) -> None:
    """Raise if runs that are compared had not the same data in the same order.

    Args:
        folder: The study's.
        record: Its study.json.
        rows: The runs; those that did not succeed are left out.

    Raises:
        StudyError: Names both runs and what differs.
    """
    done = {(row.task, row.arm, row.seed): row for row in rows if row.status == "succeeded"}
    seen = {key: _seen_by(folder, row) for key, row in done.items()}
    for key, row in done.items():
        task, arm, seed = key
        other_key = (task, record["arms"][arm]["compared_with"], seed)
        if other_key not in done:
            continue
        own, other = seen[key], seen[other_key]
        is_declared = bool(_AMOUNTS & set(record["arms"][arm]["differs"]))
        found = _difference(own, other, is_declared=is_declared)
        if found is not None:
            raise StudyError(
                f"The run {row.folder} was trained on {found[0]}, but {done[other_key].folder}, which it is "
                f"compared with, on {found[1]}. They had not the same batches: delete the wrong folder and run "
                f"the study again."
            )


def read_seen(run: Path, arm: str) -> SeenData:
    """Return what a run was trained on.

    Args:
        run: Its folder.
        arm: The arm's name.
    """
    provenance = read_json(run / "provenance.json")
    data = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["data"]
    # Where the files lie changes nothing; what they hold is in the hashes.
    made = {key: value for key, value in data.items() if key != "files" and value is not None}
    whole = [sorted(provenance["data_hashes"].values()), provenance["seed"], made]
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()
    rows = read_jsonl(run / arm / "metrics.jsonl")
    tokens = tuple(row["tokens"] for row in rows if "tokens" in row)
    return SeenData(digest, tokens, tokens[-1] if tokens else 0)


def _seen_by(folder: Path, row: RunRow) -> SeenData:
    run = folder / row.folder
    if (run / "provenance.json").exists():
        return read_seen(run, row.arm)
    # Taken from published rows.
    return SeenData(row.data_digest or "unknown", (), row.tokens or 0)


def _difference(own: SeenData, other: SeenData, *, is_declared: bool) -> tuple[str, str] | None:
    """Return what each of two runs was trained on, where it is not the same."""
    if own.digest != other.digest:
        return f"the data {own.digest[:12]}", f"the data {other.digest[:12]}"
    if is_declared or own.tokens == other.tokens:
        return None
    if not own.tokens or not other.tokens:
        if own.total == other.total:
            return None
        return f"{own.total:,} tokens", f"{other.total:,} tokens"
    if len(own.tokens) != len(other.tokens):
        return f"{len(own.tokens)} steps", f"{len(other.tokens)} steps"
    step = next(
        i for i, pair in enumerate(zip(own.tokens, other.tokens, strict=True)) if len({*pair}) > 1
    )
    texts = [f"{seen.tokens[step]:,} tokens up to step {step + 1}" for seen in (own, other)]
    return texts[0], texts[1]
