"""A recipe's data as examples in three parts: from a task, from files or from the hub."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path

from qpeft.errors import DataError
from qpeft.recipe import DataSpec
from qpeft.training.examples import (
    ExactMatch,
    Example,
    Message,
    Splits,
    Text,
    Verifier,
    hash_examples,
)
from qpeft.training.formats import prompt_key, row_examples
from qpeft.training.rows import Row, file_hash, file_rows, folder_files, hub_rows, with_labels
from qpeft.training.tasks import load_task
from qpeft.training.verifiers import chosen_verifier

__all__ = ["ExactMatch", "Example", "Message", "Splits", "Text", "Verifier", "load_splits"]

logger = logging.getLogger(__name__)


def load_splits(spec: DataSpec, tokenizer_has_chat_template: bool) -> Splits:
    """Return the examples of a recipe's data.

    A part without a file or hub split of its own is split off the training rows: `n_validation`
    and `n_test` of them, the same for the same seed. A dialogue stays whole, and training rows
    that begin with the same prompt as a row that is held out are left out.

    Args:
        spec: The `data` of a recipe.
        tokenizer_has_chat_template: Whether dialogues can be shown to the model; alpaca rows
            become dialogues then.

    Raises:
        DataError: Data are missing, empty or not of the form that the recipe says.
        MissingExtraError: A task needs a library that is not installed.
    """
    if spec.task is not None:
        return load_task(spec, tokenizer_has_chat_template)
    rows, hashes = _file_parts(spec) if spec.files is not None else _hub_parts(spec)
    parts = {
        part: row_examples(with_labels(found, spec.labels), spec, tokenizer_has_chat_template)
        for part, found in rows.items()
    }
    sizes = {"validation": spec.n_validation, "test": spec.n_test}
    split_off = {part: n for part, n in sizes.items() if n is not None and part not in parts}
    if split_off:
        parts.update(_split_off(parts["train"], split_off, spec.seed))
    limits = {"train": spec.n_train, **sizes}
    flat = {
        part: [example for row in found[: limits[part]] for example in row]
        for part, found in parts.items()
    }
    train, validation, test = (flat.get(part, []) for part in ("train", "validation", "test"))
    _warn_of_leaks(train, test)
    if spec.hub is not None:
        hashes = {f"{spec.hub}/{part}": hash_examples(found) for part, found in flat.items()}
    verifier = chosen_verifier(spec.verifier, test)
    return Splits(train, validation, test, verifier, hashes)


_Rows = dict[str, list[Row]]


def _file_parts(spec: DataSpec) -> tuple[_Rows, dict[str, str]]:
    files: dict[str, Path] = {part: path for part, path in spec.files or () if path is not None}
    if files["train"].is_dir():
        files = folder_files(files.pop("train")) | files
    rows = {part: file_rows(path, spec.limit) for part, path in files.items()}
    return rows, {str(path): file_hash(path) for path in files.values()}


def _hub_parts(spec: DataSpec) -> tuple[_Rows, dict[str, str]]:
    splits = {part: split for part, split in spec.splits if split is not None}
    return {part: hub_rows(spec, split) for part, split in splits.items()}, {}


_RowExamples = list[list[Example]]


def _split_off(train: _RowExamples, sizes: dict[str, int], seed: int) -> dict[str, _RowExamples]:
    """Return the new parts and what is left to train on."""
    order = list(range(len(train)))
    random.Random(seed).shuffle(order)
    parts: dict[str, _RowExamples] = {}
    held_out: set[str] = set()
    for part in reversed(sizes):  # the test part first: it does not move with n_validation
        chosen: list[int] = []
        for i in list(order):
            if len(chosen) < sizes[part] and _key(train[i]) not in held_out:
                chosen.append(i)
        held_out |= {_key(train[i]) for i in chosen}
        order = [i for i in order if _key(train[i]) not in held_out]
        parts[part] = [train[i] for i in chosen]
        if len(chosen) < sizes[part] or not order:
            wanted = " and ".join(f"n_{name} {n}" for name, n in sizes.items())
            raise DataError(
                f"data: {len(train)} rows are too few to split off {wanted}; lower them or give "
                "the part a file of its own"
            )
    return {**parts, "train": [train[i] for i in sorted(order)]}


def _key(row: Sequence[Example]) -> str:
    return prompt_key(row[0].prompt)


def _warn_of_leaks(train: list[Example], test: list[Example]) -> None:
    known = {prompt_key(example.prompt) for example in train}
    n_known = sum(prompt_key(example.prompt) in known for example in test)
    if n_known:
        logger.warning(
            "%d of the %d test prompts also occur in the training data", n_known, len(test)
        )
