"""What is wrong with a recipe's form, in one line that names the key and a remedy."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from skerry.converter.recipe import Input, OutputTensor, Recipe
from skerry.devices.errors import RecipeError

__all__ = ["explained", "types_at"]

_ENTRIES: dict[str, type] = {"input": Input, "output": OutputTensor}


def explained(
    path: Path, document: Mapping[str, Any], error: msgspec.ValidationError
) -> RecipeError:
    """One line out of msgspec's message, with the remedy that the recipe's form suggests."""
    problem, _, place = str(error).partition(" - at ")
    key = place.strip("`").removeprefix("$").removeprefix(".")
    if "[...]" in key:  # msgspec does not say which of the tables a person named
        key = key.replace("[...]", f".{_culprit(document, key.partition('[')[0])}")
    unknown = re.search(r"unknown field `(.*?)`", problem)
    missing = re.search(r"missing required field `(.*?)`", problem)
    if unknown:
        name = unknown[1]
        known = _keys_of(key)
        near = difflib.get_close_matches(name, known, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"the keys are: {', '.join(known)}"
        return RecipeError("unknown key", where=f"{path}: {_join(key, name)}", remedy=remedy)
    if missing:
        return RecipeError(
            "missing",
            where=f"{path}: {_join(key, missing[1])}",
            remedy="add this key to the recipe",
        )
    choices = _choices_of(key)
    remedy = f"the choices are: {', '.join(choices)}" if choices else "see `skerry convert --help`"
    problem = problem.replace("Object", "table").replace("`", "")
    return RecipeError(problem[0].lower() + problem[1:], where=f"{path}: {key}", remedy=remedy)


def _culprit(document: Mapping[str, Any], table: str) -> str:
    """The first entry of a table of tables that is not what it should be."""
    for name, value in document[table].items():
        try:
            msgspec.convert(value, _ENTRIES[table])
        except msgspec.ValidationError:
            return str(name)
    return "?"


def _join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def types_at(key: str) -> list[Any]:
    """The types that the recipe's form has at `key`, unions taken apart."""
    found: list[Any] = [Recipe]
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", key):
        found = [inner for kind in found for inner in _inside(kind, part)]
    return found


def _inside(kind: Any, part: str) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        return _apart(fields[part]) if part in fields else []
    arguments = typing.get_args(kind)
    return (
        _apart(arguments[-1] if typing.get_origin(kind) is dict else arguments[0])
        if arguments
        else []
    )


def _apart(kind: Any) -> list[Any]:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return _apart(typing.get_args(kind)[0])
    if origin in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(kind) for one in _apart(part)]
    return [kind]


def _keys_of(key: str) -> list[str]:
    structs = [kind for kind in types_at(key) if isinstance(kind, type)]
    names = {
        field.encode_name
        for kind in structs
        if issubclass(kind, msgspec.Struct)
        for field in msgspec.structs.fields(kind)
    }
    return sorted(names)


def _choices_of(key: str) -> list[str]:
    table, _, last = key.rpartition(".")
    tags = [getattr(kind, "__struct_config__", None) for kind in types_at(table)]
    if named := [str(tag.tag) for tag in tags if tag is not None and tag.tag_field == last]:
        return named
    found = [kind for kind in types_at(key) if typing.get_origin(kind) is typing.Literal]
    return [str(choice) for kind in found for choice in typing.get_args(kind)]
