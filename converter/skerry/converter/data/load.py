"""Data sets by what a recipe calls them.

`.npz`, `.parquet` and `file.py:function` give one array per input under the input's name, and
`label`; the function may also yield them in batches. A folder or a tar holds pictures in class
folders.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.data.base import Dataset
from skerry.converter.data.images import read_images
from skerry.converter.data.tables import read_parquet
from skerry.converter.recipe import Input
from skerry.converter.userfile import UserFunction
from skerry.devices.errors import InputError

__all__ = ["load_dataset", "load_rows"]

_LABEL = "label"
_FORM = "return a dict of arrays by name, or yield such batches"


def load_dataset(
    text: str, folder: Path, inputs: Mapping[str, Input], classes: int | None = None
) -> Dataset:
    """Load and check one data set.

    Args:
        text: what the recipe calls it; relative paths are below `folder`.
        inputs: what each input must look like.
        classes: how many there are; labels must then be integers in [0, classes). Those of class
            folders are places among their names, which may yet be numbered otherwise.

    Raises:
        InputError: it cannot be read, is empty, lacks an array, or its shapes, dtypes or labels
            do not fit.
    """
    where, arrays, names = _read(text, folder, inputs)
    _check_named(where, arrays, [*inputs, _LABEL])
    labels = arrays[_LABEL]
    if labels.ndim == 0 or len(labels) == 0:
        raise InputError("the data set is empty", where=where, remedy="give at least one row")
    taken = {name: _fitting(where, name, arrays[name], spec) for name, spec in inputs.items()}
    for name, array in taken.items():
        if len(array) != len(labels):
            raise InputError(
                f"{len(array)} rows of {name!r} but {len(labels)} labels",
                where=where,
                remedy="give one label per row",
            )
    if classes is not None and not names:
        _check_labels(where, labels, classes)
    return Dataset(where, taken, labels, names)


def load_rows(text: str, folder: Path, inputs: Mapping[str, Input]) -> Dataset:
    """Load and check rows whose labels, if there are any, are not looked at.

    Returns:
        The rows, with labels that are all 0.

    Raises:
        InputError: as `load_dataset`, but for labels.
    """
    where, arrays, _ = _read(text, folder, inputs)
    _check_named(where, arrays, list(inputs))
    taken = {name: _fitting(where, name, arrays[name], spec) for name, spec in inputs.items()}
    counts = {len(array) for array in taken.values()}
    if len(counts) != 1 or counts == {0}:
        raise InputError(
            "the inputs have no rows, or not equally many",
            where=where,
            remedy="give one row of each input per sample",
        )
    return Dataset(where, taken, np.zeros(counts.pop(), np.int64))


def _read(
    text: str, folder: Path, inputs: Mapping[str, Input]
) -> tuple[str, dict[str, NDArray[Any]], tuple[str, ...]]:
    """What to call it in messages, its arrays, and class names where it has some."""
    function = UserFunction.parse(text, folder)
    path = (folder / text).resolve()
    names: tuple[str, ...] = ()
    if function:
        arrays = _called(function)
    elif text.endswith(".npz"):
        arrays = _npz(path)
    elif text.endswith(".parquet"):
        arrays = read_parquet(path, inputs, _LABEL)
    else:
        arrays, names = _pictures(path, inputs)
    return str(function or text), arrays, names


def _check_named(where: str, arrays: Mapping[str, Any], wanted: list[str]) -> None:
    for name in wanted:
        if name not in arrays:
            raise InputError(
                f"there is no array {name!r}",
                where=where,
                remedy=f"give arrays named {', '.join(wanted)}; it has {_names(arrays)}",
            )


def _names(arrays: Mapping[str, Any]) -> str:
    return ", ".join(sorted(arrays)) or "none"


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"cannot be read as .npz: {error}",
            where=path,
            remedy="write it with numpy.savez, without objects",
        ) from error


def _pictures(
    path: Path, inputs: Mapping[str, Input]
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    if len(inputs) != 1:
        raise InputError(
            f"pictures are one input, the recipe has {len(inputs)}",
            where=path,
            remedy="give .npz, .parquet or file.py:function",
        )
    ((name, spec),) = inputs.items()
    rows, labels, classes = read_images(path, spec)
    return {name: rows, _LABEL: labels}, classes


def _called(function: UserFunction) -> dict[str, NDArray[Any]]:
    """What the function returns at once, or yields batch by batch, joined."""
    given = function.call()
    batches = [given] if isinstance(given, Mapping) else _drawn(function, given)
    names = [str(name) for name in batches[0]] if batches else []
    if any(list(map(str, batch)) != names for batch in batches):
        raise InputError(
            "its batches have different arrays",
            where=function,
            remedy=f"give {', '.join(names)} in each, in that order",
        )
    try:
        return {
            name: np.concatenate([np.asarray(batch[name]) for batch in batches])
            if len(batches) > 1
            else np.asarray(batches[0][name])
            for name in names
        }
    except ValueError as error:
        raise InputError(
            f"its batches do not join: {error}",
            where=function,
            remedy="let arrays of one name differ in their first axis alone",
        ) from error


def _drawn(function: UserFunction, given: Any) -> list[Mapping[str, Any]]:
    """The batches of a generator, or of another iterable."""
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | np.ndarray):
        raise InputError(f"gave {type(given).__name__}", where=function, remedy=_FORM)
    try:
        batches = list(given)
    except Exception as error:
        raise InputError(
            f"{function.name} raised {type(error).__name__}: {error}",
            where=function.file,
            remedy="correct the function",
        ) from error
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise InputError(f"yielded {type(batch).__name__}", where=function, remedy=_FORM)
    if not batches:
        raise InputError("yielded no batch", where=function, remedy="give at least one row")
    return batches


def _fitting(where: str, name: str, array: NDArray[Any], spec: Input) -> NDArray[Any]:
    """The array, C-contiguous, if its rows are what the recipe declares."""
    if array.shape[1:] != spec.caller_shape:
        raise InputError(
            f"rows of {name!r} have the shape {list(array.shape[1:])}, the recipe's input.{name} "
            f"says {list(spec.caller_shape)} ({spec.layout})",
            where=where,
            remedy=f"correct input.{name}.shape or input.{name}.layout, or the data",
        )
    if array.dtype != np.dtype(spec.dtype):
        raise InputError(
            f"{name!r} is {array.dtype}, the recipe's input.{name}.dtype says {spec.dtype}",
            where=where,
            remedy="correct the dtype on either side",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(
            f"{name!r} holds values that are not finite", where=where, remedy="clean the data"
        )
    return np.ascontiguousarray(array)


def _check_labels(where: str, labels: NDArray[Any], classes: int) -> None:
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype}", where=where, remedy="give class numbers as integers"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise InputError(
            f"the label {wrong} is out of range, the model has {classes} classes",
            where=where,
            remedy=f"number the classes from 0 to {classes - 1}",
        )
