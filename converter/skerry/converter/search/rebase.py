"""A recipe document moved to another folder: the paths in it follow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["rebased"]

_TABLES = ("source", "data", "step")  # where a recipe names files
_WORDS = {"from": "train"}  # what stands for something else than the file of that name


def rebased(document: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """The document with every path that is relative to `old` relative to `new`.

    A text is a path where there is a file or folder of that name, up to a `:name` behind `.py`.
    """
    old, new = old.resolve(), new.resolve()

    def moved(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: moved(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner, key) for inner in value]
        if not isinstance(value, str) or not value or _WORDS.get(key) == value:
            return value
        path, colon, name = value.rpartition(":") if ".py:" in value else (value, "", "")
        if Path(path).is_absolute() or not (old / path).exists():
            return value
        return os.path.relpath((old / path).resolve(), new) + colon + name

    return {
        name: moved(value, name) if name in _TABLES else value for name, value in document.items()
    }
