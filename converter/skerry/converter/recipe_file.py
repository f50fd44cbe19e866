"""Reading a recipe. Every mistake is refused in one line that names file, key and remedy.

Paths in a recipe are relative to its folder. What needs no torch is checked here, before anything
heavy is loaded; whether shapes fit is checked once the model is there (`fit`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from skerry.converter.emit.support import supported_levels, unsupported, unsupported_level
from skerry.converter.metric import METRICS
from skerry.converter.recipe import Input, OutputTensor, Recipe
from skerry.converter.steps.config import Distill, Prune, Qat
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError, RecipeError
from skerry.devices.ids import ModelName
from skerry.devices.targets import TARGETS

__all__ = ["RecipeFile", "check_document", "load_recipe", "read_document"]

_LARGEST_BYTES = 1 << 20
_MODEL_SUFFIXES = {".onnx", ".pt2", ".keras", ".h5"}
_ENTRIES: dict[str, type] = {"input": Input, "output": OutputTensor}
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
        raise _explain(path, document, error) from error
    found = RecipeFile(path, recipe)
    _check_names(found)
    _check_inputs(found)
    _check_sources(found)
    _check_steps(found)
    _check_targets(found)
    _check_levels(found)
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
    if value[:1] in "\"'" or str not in _types_at(key):
        with suppress(tomllib.TOMLDecodeError):
            table[last] = tomllib.loads(f"value = {value}")["value"]


def _explain(
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


def _types_at(key: str) -> list[Any]:
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
    structs = [kind for kind in _types_at(key) if isinstance(kind, type)]
    names = {
        field.encode_name
        for kind in structs
        if issubclass(kind, msgspec.Struct)
        for field in msgspec.structs.fields(kind)
    }
    return sorted(names)


def _choices_of(key: str) -> list[str]:
    table, _, last = key.rpartition(".")
    tags = [getattr(kind, "__struct_config__", None) for kind in _types_at(table)]
    if named := [str(tag.tag) for tag in tags if tag is not None and tag.tag_field == last]:
        return named
    found = [kind for kind in _types_at(key) if typing.get_origin(kind) is typing.Literal]
    return [str(choice) for kind in found for choice in typing.get_args(kind)]


def _check_names(file: RecipeFile) -> None:
    try:
        ModelName(file.recipe.model.name)
    except InputError as error:
        raise file.wrong("model.name", error.problem, error.remedy or "") from error
    if not file.recipe.input:
        raise file.wrong("input", "no input is declared", "add a table such as [input.image]")
    for kind, names in (("input", file.recipe.input), ("output", file.recipe.output)):
        for name in names:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", name):
                raise file.wrong(
                    f"{kind}.{name}", "not a tensor name", "use letters, digits and _ alone"
                )
    if both := set(file.recipe.input) & set(file.recipe.output):
        raise file.wrong(
            f"output.{min(both)}", "an input has that name too", "give the output another name"
        )


def _check_inputs(file: RecipeFile) -> None:
    for name, spec in file.recipe.input.items():
        if spec.layout != "same" and len(spec.shape) < 2:
            raise file.wrong(
                f"input.{name}.layout",
                f"the shape {list(spec.shape)} has no channels to move",
                "write shape as [channels, height, width], or leave layout out",
            )
        if spec.resize_from is not None and len(spec.shape) != 3:
            raise file.wrong(
                f"input.{name}.resize_from",
                f"the shape {list(spec.shape)} is no picture",
                "write shape as [channels, height, width], or leave resize_from out",
            )
        _check_per_channel(file, name, "mean", spec, spec.mean)
        _check_per_channel(file, name, "std", spec, spec.std)


def _check_per_channel(
    file: RecipeFile, name: str, key: str, spec: Input, values: tuple[float, ...]
) -> None:
    if len(values) not in {0, 1, spec.channel_count}:
        raise file.wrong(
            f"input.{name}.{key}",
            f"{len(values)} numbers for {spec.channel_count} channels",
            "give one number per channel, or one for all",
        )


def _check_sources(file: RecipeFile) -> None:
    recipe = file.recipe
    if ".py:" in recipe.source.model:
        file.function("source.model", recipe.source.model)
    else:
        file.model_path()
        if recipe.source.weights:
            raise file.wrong(
                "source.weights", "a model file has its own weights", "leave this key out"
            )
    if recipe.source.weights:
        file.file("source.weights", recipe.source.weights)
    data: Mapping[str, str] = {
        "data.evaluation": recipe.data.evaluation,
        "data.validation": recipe.data.validation,
        "data.train": recipe.data.train,
        "data.calibration.from": recipe.data.calibration.source,
    }
    for key, text in data.items():
        if text and not (key.endswith(".from") and text == "train"):
            _check_data(file, key, text)
    if recipe.data.validation == recipe.data.evaluation:
        raise file.wrong(
            "data.validation", "the same rows choose and judge", "name others, or leave it out"
        )
    needed = "int8" in recipe.quantize.precisions and recipe.data.calibration.source == "train"
    if needed and not recipe.data.train:
        raise file.wrong(
            "data.calibration.from",
            "there is no training set to take calibration rows from",
            "add data.train, or name other data here",
        )
    if recipe.data.metric not in METRICS:
        if ".py:" not in recipe.data.metric:
            raise file.wrong(
                "data.metric",
                f"there is no metric {recipe.data.metric!r}",
                f"the metrics are: {', '.join(METRICS)}, or file.py:function",
            )
        file.function("data.metric", recipe.data.metric)


def _check_data(file: RecipeFile, key: str, text: str) -> None:
    if ".py:" in text:
        file.function(key, text)
    elif not text.endswith((".npz", ".parquet", ".tar")) and not (file.folder / text).is_dir():
        raise file.wrong(
            key,
            f"{text!r} is no data set",
            "give .npz, .parquet, a tar or folder of class folders, or file.py:function",
        )
    elif not (file.folder / text).is_dir():
        file.file(key, text)


def _check_steps(file: RecipeFile) -> None:
    for number, step in enumerate(file.recipe.step):
        key = f"step[{number}]"
        if not file.recipe.data.train and not (isinstance(step, Distill) and step.rows):
            raise file.wrong(key, "there is nothing to train on", "add data.train")
        if step.loss:
            file.function(f"{key}.loss", step.loss)
        if step.augment and next(iter(file.recipe.input.values())).picture is None:
            raise file.wrong(
                f"{key}.augment", "the first input is no picture", "leave this key out"
            )
        if isinstance(step, Distill):
            _check_distill(file, key, step)
        if isinstance(step, Prune) and not (step.ratio or step.ratios or step.depth < 1):
            raise file.wrong(
                f"{key}.ratio", "nothing says what to remove", "add this key, ratios or depth"
            )
        if isinstance(step, Qat):
            _check_qat(file, number)


def _check_distill(file: RecipeFile, key: str, step: Distill) -> None:
    if step.student:
        file.function(f"{key}.student", step.student)
    if step.start:
        file.file(f"{key}.start", step.start)
        if not step.student:
            raise file.wrong(
                f"{key}.start", "there is no student to begin with them", "name its factory"
            )
    if step.rows:
        _check_data(file, f"{key}.rows", step.rows)
        if step.hard_share > 0:
            raise file.wrong(f"{key}.hard_share", "the step's rows have no labels", "set it to 0")
    given = (step.weights,) if isinstance(step.weights, str) else step.weights
    if len([one for one in given if one]) > len(step.teachers):
        raise file.wrong(
            f"{key}.weights",
            f"{len(given)} files for {len(step.teachers)} teachers",
            "name one teacher per file",
        )
    for factory, weights in step.teachers:
        file.function(f"{key}.teacher", factory)
        if weights:
            file.file(f"{key}.weights", weights)


def _check_qat(file: RecipeFile, number: int) -> None:
    if number + 1 < len(file.recipe.step):
        raise file.wrong(f"step[{number}]", "qat is not the last step", "move it behind all others")
    step = file.recipe.step[number]
    if isinstance(step, Qat) and step.start:
        file.file(f"step[{number}].start", step.start)
    if "int8" not in file.recipe.quantize.precisions:
        raise file.wrong(
            f"step[{number}]", "nothing is quantized to int8", "add int8 to quantize.precisions"
        )


def _check_targets(file: RecipeFile) -> None:
    recipe = file.recipe
    for key, values in (
        ("target.formats", recipe.target.formats),
        ("quantize.precisions", recipe.quantize.precisions),
    ):
        if len(set(values)) != len(values):
            raise file.wrong(key, "one is given twice", "name each once")
    profile = recipe.target.profile
    if profile not in TARGETS:
        raise file.wrong(
            "target.profile",
            f"there is no profile {profile!r}",
            f"the profiles are: {', '.join(TARGETS)}",
        )
    if "int8-dynamic" in recipe.quantize.precisions and not TARGETS[profile].per_channel:
        raise file.wrong(
            "quantize.precisions",
            f"int8-dynamic has a scale for each channel, {profile} takes one for a weight",
            "leave it out, or name another target.profile",
        )
    for form in recipe.target.formats:
        for precision in recipe.quantize.precisions:
            if reason := unsupported(form, precision):
                raise file.wrong(
                    "quantize.precisions",
                    f"{precision} for {form}: {reason}",
                    "leave one of them out",
                )


def _check_levels(file: RecipeFile) -> None:
    """Levels of single layers: what every format has, and a gate to hold them against."""
    recipe = file.recipe
    mixed, formats = recipe.quantize.mixed, recipe.target.formats
    asked = {f"quantize.layers.{name}": level for name, level in recipe.quantize.layers.items()}
    if mixed is not None:
        asked |= {f"quantize.mixed.levels: {level}": level for level in mixed.levels}
    for key, level in asked.items():
        for form in formats:
            if reason := unsupported_level(form, level):
                able = ", ".join(supported_levels(formats))
                raise file.wrong(key, f"not for {form}: {reason}", f"choose from: {able}")
    if (asked or mixed is not None) and "int8" not in recipe.quantize.precisions:
        raise file.wrong(
            "quantize.precisions", "only int8 has layers to raise", "add it, or leave those out"
        )
    gate = recipe.gate
    if mixed is not None and (gate.accuracy_drop, gate.agreement, gate.snr_db) == (None,) * 3:
        raise file.wrong(
            "quantize.mixed",
            "there is no gate to raise layers for",
            "set gate.accuracy_drop, gate.agreement or gate.snr_db",
        )
