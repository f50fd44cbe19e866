"""A recipe document as TOML text. The standard library reads TOML and does not write it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["toml_string", "toml_text"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(document: Mapping[str, Any]) -> str:
    """The document as TOML; read again, it gives the same values.

    Args:
        document: strings, numbers, booleans, lists and tables.
    """
    return "\n".join(_table(document, ())).lstrip("\n") + "\n"


def toml_string(text: str) -> str:
    """A text in quotes. JSON's escapes are TOML's, which asks for one more."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Plain values first, since they would else belong to the table before them."""
    for key, value in table.items():
        if not _is_nested(value):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        name = ".".join(_key(part) for part in (*path, key))
        if isinstance(value, Mapping) and _is_nested(value):
            if any(not _is_nested(inner) for inner in value.values()):
                yield f"\n[{name}]"
            yield from _table(value, (*path, key))
        elif _is_nested(value):
            for entry in value:
                yield f"\n[[{name}]]"
                yield from _table(entry, (*path, key))


def _is_nested(value: Any) -> bool:
    """Whether a value has a table of its own: tables, and lists of tables."""
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else toml_string(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return "[" + ", ".join(_value(inner) for inner in value) + "]"
