"""Labels held against what the model gives, before anything is judged or trained by them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.data.base import Dataset
from skerry.converter.metric import METRICS
from skerry.converter.recipe_file import RecipeFile
from skerry.devices.errors import RecipeError

__all__ = ["class_count", "for_metric", "for_training", "numbered"]

_NO_CLASS = -100  # what cross-entropy passes over
_Row = tuple[int, ...]


def class_count(file: RecipeFile, row: tuple[int, ...]) -> int | None:
    """How many classes our metrics tell apart, or None where the metric is the user's.

    Args:
        row: one row of the first output.

    Raises:
        RecipeError: the output has no scores by class, or `model.labels` names more or fewer.
    """
    recipe = file.recipe
    if recipe.data.metric not in METRICS:
        return None
    if not row:
        raise file.wrong(
            "data.metric",
            f"{recipe.data.metric} compares scores by class, the first output has the shape [N]",
            "name a metric of your own, file.py:function(outputs, labels)",
        )
    if recipe.model.labels and len(recipe.model.labels) != row[-1]:
        raise file.wrong(
            "model.labels",
            f"{len(recipe.model.labels)} labels for {row[-1]} classes",
            "give one label per class",
        )
    return row[-1]


def numbered(file: RecipeFile, key: str, rows: Dataset, classes: int | None) -> Dataset:
    """Rows whose class folders have the numbers of their names in `model.labels`, if it says any.

    Args:
        key: of the recipe, that names the rows.
        classes: how many the model has, if it is known.

    Raises:
        RecipeError: a folder is not among them, or there are more than classes.
    """
    names = file.recipe.model.labels
    if not rows.classes:
        return rows
    if not names:
        if classes is not None and len(rows.classes) > classes:
            raise file.wrong(
                key,
                f"{len(rows.classes)} class folders for {classes} classes",
                "take those away that the model does not know",
            )
        return rows
    if strange := [one for one in rows.classes if one not in names]:
        raise file.wrong(
            key,
            f"its class folder {strange[0]!r} is not in model.labels",
            "name each folder as model.labels names the class, or leave model.labels out to "
            "number the folders by name",
        )
    places = np.array([names.index(one) for one in rows.classes], np.int64)
    return replace(rows, labels=places[rows.labels], classes=names)


def for_metric(file: RecipeFile, key: str, rows: Dataset, row: _Row) -> Dataset:
    """Rows whose labels are one class number for each row of scores, as top1 and top5 take them.

    Args:
        key: of the recipe, that names the rows.
        row: one row of the scores, [..., classes].

    Raises:
        RecipeError: they have another shape.
    """
    fitting = _shaped(rows.labels, row[:-1])
    if fitting is None:
        raise _unlike(
            file,
            key,
            rows.labels,
            row,
            f"give one class number per row of scores, {_text(row[:-1])}, the classes being the "
            "last axis of the scores; or a data.metric of your own",
        )
    return replace(rows, labels=fitting)


def for_training(file: RecipeFile, key: str, rows: Dataset, row: _Row) -> Dataset:
    """Rows whose labels a step can learn from: class numbers, or float targets like the scores.

    Class numbers have the scores' shape without the axis of the classes: the last, or else the
    first of a row, as `torch.nn.functional.cross_entropy` has it.

    Args:
        key: of the recipe, that names the rows.
        row: one row of the scores.

    Raises:
        RecipeError: they have another shape, are out of range, or are neither.
    """
    labels = rows.labels
    if labels.dtype.kind == "f":
        fitting = _shaped(labels, row, missing=True)
        remedy = f"give targets of the scores' shape, {_text(row)}"
        if fitting is None:
            raise _unlike(file, key, labels, row, f"{remedy}; or a step.loss of your own")
        return replace(rows, labels=fitting)
    if labels.dtype.kind not in "iub":
        raise file.wrong(
            key, f"labels are {labels.dtype}", "give class numbers, or targets as floats"
        )
    for axis in (-1, 0) if row else ():
        fitting = _shaped(labels, row[:-1] if axis else row[1:])
        if fitting is not None:
            _check_range(file, key, labels, row[axis])
            return replace(rows, labels=fitting)
    raise _unlike(
        file,
        key,
        labels,
        row,
        f"give one class number per row of scores, {_text(row[:-1])}, or targets as floats of "
        f"shape {_text(row)}; or a step.loss of your own",
    )


def _shaped(labels: NDArray[Any], wanted: _Row, *, missing: bool = False) -> NDArray[Any] | None:
    """Labels as [N, *wanted] where at most a last axis of length 1 is too much (or missing)."""
    given = labels.shape[1:]
    if given in (wanted, (*wanted, 1)) or (missing and (*given, 1) == wanted):
        return labels.reshape(len(labels), *wanted)
    return None


def _check_range(file: RecipeFile, key: str, labels: NDArray[Any], classes: int) -> None:
    out = (labels >= classes) | ((labels < 0) & (labels != _NO_CLASS))
    if out.any():
        raise file.wrong(
            key,
            f"the label {labels[out].flat[0]} is out of range, the model has {classes} classes",
            f"number the classes from 0 to {classes - 1}; targets that are no classes as floats",
        )


def _unlike(
    file: RecipeFile, key: str, labels: NDArray[Any], row: _Row, remedy: str
) -> RecipeError:
    shapes = (
        f"labels of shape {_text(labels.shape[1:])} ({labels.dtype}) for scores of {_text(row)}"
    )
    return file.wrong(key, shapes, remedy)


def _text(row: _Row) -> str:
    return f"[{', '.join(['N', *map(str, row)])}]"
