"""Raw results as a broken wire or disk would leave them, and words that look like a key."""

import copy
import json
import os
import re
from collections.abc import Iterator
from typing import Any

MAX_PLACES = 40  # of a raw result that are damaged one at a time

_SECRET_NAME = re.compile(r"token|secret|passw|api_?key|authori[sz]ation|credential", re.IGNORECASE)


def damages(raw: Any) -> Iterator[tuple[str, Any]]:
    """Yield what was done to a raw result, and the result: a part lost, a number changed, nothing left.

    Args:
        raw: JSON data.
    """
    without: tuple[Any, ...] = (None, {}, [], "", 0)
    for nothing in without:
        yield f"{json.dumps(nothing)} in its place", nothing
    for path in _places(raw)[:MAX_PLACES]:
        for what, change in (("a part lost", _lose), ("a number changed", _change)):
            damaged = copy.deepcopy(raw)
            if change(damaged, path):
                yield f"{what} at {'.'.join(map(str, path)) or 'its top'}", damaged


def secrets_in(text: str) -> list[str]:
    """Return what looks like a secret in a text: values of secret environment variables, names of keys in JSON.

    Args:
        text: A payload or a repr.
    """
    values = {
        name: value
        for name, value in os.environ.items()
        if (_SECRET_NAME.search(name) or name.upper().endswith("KEY")) and len(value) >= 8
    }
    found = [f"the value of {name}" for name, value in values.items() if value in text]
    names = re.findall(r'"([^"]+)"\s*:', text)
    return found + [f"the field '{name}'" for name in names if _SECRET_NAME.search(name)]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every list and dict in JSON data, the outer ones first."""
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [path, *(place for key, part in inner for place in _places(part, (*path, key)))]


def _lose(raw: Any, path: tuple[Any, ...]) -> bool:
    """Take the last part out of a list or dict; say whether there was one."""
    holder = _at(raw, path)
    if not holder:
        return False
    if isinstance(holder, dict):
        holder.popitem()
    else:
        holder.pop()
    return True


def _change(raw: Any, path: tuple[Any, ...]) -> bool:
    """Add one to the first whole number of a list or dict; say whether there was one."""
    holder = _at(raw, path)
    keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        if isinstance(holder[key], int) and not isinstance(holder[key], bool):
            holder[key] += 1
            return True
    return False


def _at(raw: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw
