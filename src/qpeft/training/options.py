"""Options that a recipe hands on to somebody else's dataclass, checked before that is called."""

import collections.abc
import dataclasses
import enum
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from qpeft.errors import did_you_mean
from qpeft.recipe_text import got


def option_problems(
    options: Mapping[str, Any],
    config_class: type,
    where: str,
    *,
    reserved: Mapping[str, str] | None = None,
) -> list[str]:
    """Return one line for each option whose name or type the dataclass does not take.

    Args:
        options: What the recipe says.
        config_class: A dataclass whose fields are the valid options.
        where: The recipe's key that holds the options, such as `adapter`.
        reserved: Fields that are not for the recipe, and what to use instead.

    Example:
        >>> from peft import LoraConfig
        >>> option_problems({"lora_dropuot": 0.1}, LoraConfig, "adapter")
        ["adapter.lora_dropuot: unknown option of LoraConfig. Did you mean 'lora_dropout'?"]
    """
    reserved = reserved or {}
    types_of = _field_types(config_class)
    defaults = {f.name: f.default for f in dataclasses.fields(config_class)}
    problems = []
    for name, value in options.items():
        if name in reserved:
            problems.append(f"{where}.{name}: cannot be set here; {reserved[name]}")
        elif name not in types_of:
            hint = did_you_mean(name, [n for n in types_of if n not in reserved])
            problems.append(f"{where}.{name}: unknown option of {config_class.__name__}.{hint}")
        elif value != defaults[name] and not _accepts(types_of[name], value):
            # Sorted, because Python keeps the parts of a union in the order first seen anywhere.
            words = sorted(set(_in_words(types_of[name])), key=lambda word: (word == "null", word))
            expected = " or ".join(words)
            problems.append(f"{where}.{name}: expected {expected}, got {got(value)}")
    return problems


def _field_types(config_class: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(config_class)
    except (NameError, TypeError):
        # Annotations that only a type checker can resolve: check the names alone.
        hints = {}
    return {f.name: hints.get(f.name, Any) for f in dataclasses.fields(config_class) if f.init}


def _accepts(annotation: Any, value: Any) -> bool:
    """Whether a value from YAML fits; annotations beyond YAML's own types accept everything."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(_accepts(part, value) for part in args)
    if origin is Literal:
        # PEFT writes a family of names as one literal: 'pissa_niter_[number of iters]'.
        families = [str(name).split("[")[0] for name in args if "[" in str(name)]
        is_family = any(str(value).startswith(family) for family in families)
        return is_family or any(value == name and type(value) is type(name) for name in args)
    kind = origin or annotation
    if kind in (int, float):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    if kind in (bool, str, types.NoneType):
        return isinstance(value, kind)
    if _is_sequence(kind):
        items = [a for a in args if a is not Ellipsis]
        return isinstance(value, list | tuple) and (
            not items or all(any(_accepts(item, v) for item in items) for v in value)
        )
    if kind is dict:
        return isinstance(value, Mapping)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value in [member.value for member in kind] or isinstance(value, kind)
    return True


def _in_words(annotation: Any) -> Iterator[str]:
    origin, args = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if origin in (Union, types.UnionType):
        for part in args:
            yield from _in_words(part)
    elif origin is Literal:
        yield from (got(name) for name in args)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield from (got(member.value) for member in kind)
    elif _is_sequence(kind):
        yield "a list" if not args else f"a list of {_PLURALS.get(args[0], 'values')}"
    else:
        yield _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    types.NoneType: "null",
    dict: "keys with values",
}
_PLURALS: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts"}


def _is_sequence(kind: Any) -> bool:
    return kind in (list, tuple, set, collections.abc.Sequence, collections.abc.Iterable)
