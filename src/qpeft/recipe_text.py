"""The recipe as text: reading YAML, writing it, applying overrides, and mistakes in plain words.

`recipe` says what a recipe holds; this module knows no key of it by heart.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from qpeft.errors import RecipeError, did_you_mean

Key = tuple[int | str, ...]


def read_yaml(
    path: Path, kind: str = "recipe", start: str = "'qpeft init' writes one to start from"
) -> dict[str, Any]:
    """Return the keys and values of a recipe file, or of another kind of file.

    Args:
        path: The YAML file.
        kind: What it should be, for messages.
        start: How to come by one, for the message about an empty file.

    Raises:
        RecipeError: The file is missing, empty, not text, not YAML or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent
        there = [p.name for p in folder.glob("*.y*ml")] if folder.is_dir() else []
        hint = did_you_mean(path.name, there) if there else ""
        raise RecipeError([f"{path}: no such {kind} file.{hint}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{path}: cannot be read as a text file ({error})"]) from error
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError([f"{path}{_yaml_problem(error)}"]) from error
    if raw is None:
        raise RecipeError([f"{path}: the {kind} is empty; {start}"])
    if not isinstance(raw, dict):
        raise RecipeError([f"{path}: expected keys such as 'model:' and 'data:', got {got(raw)}"])
    return raw


def write_yaml(data: Mapping[str, Any]) -> str:
    """Return the mapping as YAML, in its own order, texts of several lines in quotes."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def apply_overrides(
    raw: dict[str, Any], overrides: Sequence[str], short_forms: Mapping[str, str]
) -> tuple[dict[Key, str], list[str]]:
    """Write `key.path=value` overrides into `raw`.

    Args:
        raw: The recipe's keys and values; changed in place.
        overrides: What stands after `--set`.
        short_forms: For a key that may hold a name alone, the key of that name in the long form.

    Returns:
        Which override each key came from, and one line for each override that cannot be read.
    """
    sources: dict[Key, str] = {}
    problems: list[str] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", name.strip()):
            problems.append(f"--set {override}: expected key=value, for example training.steps=50")
            continue
        key: Key = tuple(int(p) if p.isdigit() else p for p in name.strip().split("."))
        try:
            key = _put(raw, key, yaml.load(text, Loader=_Loader), short_forms)
        except yaml.YAMLError as error:
            problems.append(f"--set {override}{_yaml_problem(error)}")
        except LookupError as error:
            problems.append(f"--set {override}: {error.args[0]}")
        sources[key] = f"--set {override}"
    return sources, problems


def place(path: Path, key: Key, sources: Mapping[Key, str]) -> str:
    """Return where a value stands: the override it came from, else the file and its key."""
    for i in range(len(key), 0, -1):
        if key[:i] in sources:
            return sources[key[:i]]
    return f"{path}: {dotted(key)}" if key else str(path)


def dotted(key: Key) -> str:
    """Return a key as it is typed: `training.steps`."""
    return ".".join(map(str, key))


def got(value: Any) -> str:
    """Return a value as it stands in an error message, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain_words(error: Mapping[str, Any], root: type[BaseModel]) -> tuple[Key, str]:
    """Return the key and the plain words for one of pydantic's errors.

    Args:
        error: One entry of `ValidationError.errors()`.
        root: The class that was validated, for the names of its keys.
    """
    key, kind, given = error["loc"], error["type"], error["input"]
    bounds = error.get("ctx", {})
    if kind == "extra_forbidden":
        return key, f"unknown key.{_nearest_key(key, root)}"
    if kind == "missing":
        return key, "missing"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", bounds["expected"])
        near = difflib.get_close_matches(str(given), names, n=1)
        hint = f". Did you mean '{near[0]}'?" if near else ""
        return key, f"expected one of {', '.join(names)}, got {got(given)}{hint}"
    if kind == "greater_than":
        expected = f"a number above {bounds['gt']:g}"
    elif kind == "greater_than_equal":
        expected = f"a number not below {bounds['ge']:g}"
    elif kind == "too_short" and bounds["min_length"] > 1:
        expected = f"a list of at least {bounds['min_length']}"
    else:
        expected = next((w for k, w in _EXPECTED.items() if kind.startswith(k)), error["msg"])
    return key, f"expected {expected}, got {got(given)}"


# What pydantic's kinds of error, by the start of their names, mean.
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string_too_short": "a text that is not empty",
    "string_pattern_mismatch": "a name of letters, digits, '.', '_', '+' or '-'",
    "string": "a text",
    "path": "the name of a file or folder",
    "list": "a list",
    "too_short": "a list that is not empty",
    "dict": "keys with values",
    "model": "keys with values",
}


def _nearest_key(key: Key, root: type[BaseModel]) -> str:
    # A key of exactly that name in another part is a likelier slip than a similar name here.
    name = str(key[-1])
    for part in root.model_fields:
        if name in _fields((part,), root):
            return f" Did you mean '{part}.{name}'?"
    return did_you_mean(name, _fields(key[:-1], root))


def _fields(key: Key, root: type[BaseModel]) -> list[str]:
    spec: type[BaseModel] | None = root
    for part in key:
        if isinstance(part, str) and spec is not None:
            spec = _spec_in(spec.model_fields[part].annotation)
    return list(spec.model_fields) if spec is not None else []


def _spec_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_spec_in, get_args(annotation))), None)


def _put(raw: dict[str, Any], key: Key, value: Any, short_forms: Mapping[str, str]) -> Key:
    """Set the value at `key`, making mappings on the way; return the first key that was new."""
    node: Any = raw
    first_new: Key | None = None
    for i, part in enumerate(key):
        is_list = isinstance(node, list)
        if is_list and not (isinstance(part, int) and part < len(node)):
            places = f"has the places 0 to {len(node) - 1}" if node else "is an empty list"
            raise LookupError(f"'{dotted(key[:i])}' {places}")
        if i == len(key) - 1:
            node[part] = value
            return first_new or key
        below = node[part] if is_list else node.get(part)
        if not isinstance(below, dict | list):
            long_key = short_forms.get(dotted(key[: i + 1]))
            is_short = long_key is not None and below is not None
            node[part] = {long_key: below} if is_short else {}
            first_new = first_new or (None if is_short else key[: i + 1])
        node = node[part]
    raise LookupError("an override needs a key")


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f", line {mark.line + 1}, column {mark.column + 1}: not valid YAML: {error.problem}"
    return f": not valid YAML: {' '.join(str(error).split())}"


class _Loader(yaml.SafeLoader):
    """YAML with `1e-3` as a number and with repeated keys refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands here a second time", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML speaks, wants a dot in a number with an exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    [*"-+.0123456789"],
)


class _Dumper(yaml.SafeDumper):
    """YAML whose texts of several lines stand in double quotes, with visible line ends."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
