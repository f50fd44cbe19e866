"""Reading a recipe. Every mistake is refused in one line that names file, key and remedy.

Paths in a recipe are relative to its folder. What needs no torch is checked here, before anything
heavy is loaded; whether shapes fit is checked once the model is there (`fit`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from skerry.converter.recipe import Recipe
from skerry.converter.recipe_checks import check_recipe
from skerry.converter.recipe_form import explained, types_at
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import RecipeError

__all__ = ["RecipeFile", "check_document", "load_recipe", "read_document"]

_LARGEST_BYTES = 1 << 20
_MODEL_SUFFIXES = {".onnx", ".pt2", ".keras", ".h5"}
_PATH_KEYS = {
    "source.model",
    "source.weights",
    "data.train",
    "data.evaluation",
    "data.validation",
    "data.calibration.from",
}
_PYTHON_REMEDY = "give file.py:function"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe and where it lies."""

    path: Path
    recipe: Recipe

    @property
    def folder(self) -> Path:
        """What paths in the recipe are relative to."""
        return self.path.resolve().parent

    def wrong(self, key: str, problem: str, remedy: str) -> RecipeError:
        """The error that says so."""
        return RecipeError(problem, where=f"{self.path}: {key}", remedy=remedy)

    def function(self, key: str, text: str) -> UserFunction:
        """The `file.py:name` under `key`.

        Raises:
            RecipeError: it has another form, or is not there.
        """
        found = UserFunction.parse(text, self.folder)
        if found is None:
            raise self.wrong(key, f"{text!r} does not name a Python function", _PYTHON_REMEDY)
        if problem := found.problem():
            raise self.wrong(key, *problem)
        return found

    def model_path(self) -> Path:
        """The model file or folder under `source.model`.

        Raises:
            RecipeError: it is not there, or no model.
        """
        path = (self.folder / self.recipe.source.model).resolve()
        if not path.exists():
            raise self.wrong("source.model", f"there is no {path}", "check the path")
        if not _is_model(path):
            raise self.wrong(
                "source.model",
                f"{path.name} is no model that can be read",
                "give file.py:factory, .onnx, .pt2, .keras, .h5 or a SavedModel folder",
            )
        return path

    def file(self, key: str, text: str) -> Path:
        """The existing file under `key`.

        Raises:
            RecipeError: there is none.
        """
        path = (self.folder / text).resolve()
        if not path.is_file():
            raise self.wrong(key, f"there is no file {path}", "check the path, or make the file")
        return path


def _is_model(path: Path) -> bool:
    saved = (path / "saved_model.pb").is_file()
    return saved or (path.suffix in _MODEL_SUFFIXES and path.is_file())


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> RecipeFile:
    """Read and check a recipe.

    Args:
        path: the TOML file.
        overrides: `key=value` texts, keys dotted; relative paths in them are the caller's.

    Raises:
        RecipeError: anything is wrong with it.
    """
    return check_document(path, read_document(path, overrides))


def read_document(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The recipe as TOML gives it, overridden but not checked yet.

    Raises:
        RecipeError: it cannot be read, or an override has another form.
    """
    document = _read(path)
    for override in overrides:
        _override(path, document, override)
    return document


def check_document(path: Path, document: Mapping[str, Any]) -> RecipeFile:
    """Check a recipe that is read already.

    Args:
        path: where it lies; paths in it are relative to its folder.

    Raises:
        RecipeError: anything is wrong with it.
    """
    try:
        recipe = msgspec.convert(document, Recipe)
    except msgspec.ValidationError as error:
        raise explained(path, document, error) from error
    found = RecipeFile(path, recipe)
    check_recipe(found)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise RecipeError(f"more than {_LARGEST_BYTES} bytes", where=path)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise RecipeError(
            f"cannot read the recipe: {reason}", where=path, remedy="check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"not TOML: {error}", where=path, remedy="correct that line") from error


def _override(path: Path, document: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", key):
        raise RecipeError(
            f"{text!r} sets nothing", where=f"{path}: --set", remedy="give KEY=VALUE, keys dotted"
        )
    *tables, last = key.split(".")
    table = document
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise RecipeError(
                f"{name!r} is no table",
                where=f"{path}: {key}",
                remedy="set one of its keys in the file",
            )
    if key in _PATH_KEYS:
        table[last] = value if value == "train" else str(Path(value).absolute())
        return
    table[last] = value
    if value[:1] in "\"'" or str not in types_at(key):
        with suppress(tomllib.TOMLDecodeError):
            table[last] = tomllib.loads(f"value = {value}")["value"]
