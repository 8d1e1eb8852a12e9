"""Rows of a data set: from JSONL, JSON, CSV, TSV and Parquet files and from the hub.

Files are read directly, not through `datasets`, so that an error can name the line, nothing is
cached outside the project, and a changed file is never mistaken for its older self.
"""

import csv
import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from qpeft.errors import DataError
from qpeft.recipe import DataSpec
from qpeft.recipe_text import got


@dataclass(frozen=True)
class Row:
    """One row and where it stands, as it should be named in a message.

    Args:
        place: Such as `train.jsonl, line 3`.
        values: Column to value.
    """

    place: str
    values: dict[str, Any]


def file_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Return the rows of a data file, chosen by its ending.

    Args:
        path: A .jsonl, .json, .csv, .tsv or .parquet file.
        limit: How many rows to read at most.

    Raises:
        DataError: The file is missing, empty, of another kind or not well-formed.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected a file ending in {', '.join(_READERS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such data file.{nearest_file(path)}")
    try:
        rows = list(islice(reader(path), limit))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not rows:
        raise DataError(f"{path}: the file has no rows")
    return rows


def folder_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder that are called `train`, `validation` and `test`, by part.

    Args:
        folder: A folder with `train.jsonl`, `train.csv` or the like; the other parts may be missing.

    Raises:
        DataError: There is no training file, or one part has two files.
    """
    found: dict[str, Path] = {}
    for part in ("train", "validation", "test"):
        files = sorted(path for kind in _READERS for path in folder.glob(f"{part}{kind}"))
        if len(files) > 1:
            names = " and ".join(path.name for path in files)
            raise DataError(f"{folder}: two files for the {part} part, {names}; name one of them")
        if files:
            found[part] = files[0]
    if "train" not in found:
        raise DataError(f"{folder}: expected a file train.jsonl (or {', '.join(_READERS)}) in it")
    return found


def with_labels(rows: Sequence[Row], labels: Mapping[str, Mapping[str, str]]) -> list[Row]:
    """Return the rows with a word in place of each value that `data.labels` names.

    Args:
        rows: Rows of one part.
        labels: For a column, the word of each of its values.

    Raises:
        DataError: A row lacks the column, or its value has no word.
    """
    return [_labelled(row, labels) for row in rows] if labels else list(rows)


def _labelled(row: Row, labels: Mapping[str, Mapping[str, str]]) -> Row:
    values = dict(row.values)
    for column, words in labels.items():
        value = str(values.get(column))
        if value not in words:
            raise DataError(
                f"{row.place}: the field '{column}' is {got(values.get(column))}, but data.labels "
                f"names {', '.join(words)}"
            )
        values[column] = words[value]
    return Row(row.place, values)


def file_hash(path: Path) -> str:
    """Return the SHA-256 (hexadecimal) of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hub_rows(spec: DataSpec, split: str) -> list[Row]:
    """Return the rows of one split of a hub data set, from the local cache if it is there.

    Raises:
        DataError: The data set, its configuration or its split does not exist, or the hub cannot
            be reached.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    name = f"{spec.hub}/{spec.name}" if spec.name else str(spec.hub)
    try:
        data = load_dataset(spec.hub, spec.name, split=split, revision=spec.revision)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        # RuntimeError: the data set is a script, which `datasets` has not run since version 4.
        reason = " ".join(str(error).split())
        raise DataError(f"hub data set {name}, split '{split}': {reason}") from error
    if spec.limit is not None:
        data = data.select(range(min(spec.limit, len(data))))
    if len(data) == 0:
        raise DataError(f"hub data set {name}, split '{split}': it has no rows")
    return [Row(f"{name} {split}, row {i}", dict(row)) for i, row in enumerate(data, 1)]


def nearest_file(path: Path) -> str:
    """Return " Did you mean 'x'?" for a similar name in the folder, or that there is no folder."""
    folder = path.parent
    if not folder.is_dir():
        return f" The folder '{folder}' does not exist."
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _row(f"{path}, line {number}", _parse(line, f"{path}, line {number}"))


def _json(path: Path) -> Iterator[Row]:
    data = _parse(path.read_text(encoding="utf-8-sig"), str(path))
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        data = data["data"]
    if not isinstance(data, list):
        raise DataError(f"{path}: expected a JSON list of rows; one row a line belongs in a .jsonl")
    for number, values in enumerate(data, 1):
        yield _row(f"{path}, row {number}", values)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}"
        raise DataError(f"{place}: not valid JSON at {at}: {error.msg}") from error


def _row(place: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise DataError(f'{place}: expected an object with columns, such as {{"prompt": ...}}')
    return Row(place, values)


def _csv(path: Path, delimiter: str = ",") -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter, strict=True)
        number = 0
        try:
            for number, values in enumerate(reader, 1):
                if None in values:
                    n_columns = len(reader.fieldnames or [])
                    raise DataError(
                        f"{path}, row {number}: more than the header's {n_columns} fields"
                    )
                yield Row(f"{path}, row {number}", values)
        except csv.Error as error:
            raise DataError(f"{path}, row {number + 1}: not well-formed CSV: {error}") from error


def _tsv(path: Path) -> Iterator[Row]:
    return _csv(path, delimiter="\t")


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", values)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file ({error})") from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
