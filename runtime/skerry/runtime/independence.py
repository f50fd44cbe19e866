"""Whether the rows of one batch leave each other's answers alone, found by trying.

Most models answer each row by itself. Some do not: where activations are quantized as they come
(ONNX `DynamicQuantizeLinear`), one scale holds for the whole tensor, and a large row takes the
precision of the others. Where the precision's name does not say so, a run may.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import SkerryError
from skerry.runtime.bundle.card import Tolerance
from skerry.runtime.engine.base import Arrays
from skerry.runtime.golden import compare
from skerry.runtime.session import Session

__all__ = ["rows_are_independent"]

_LOUDER = 1000.0
_ROWS = 4


def rows_are_independent(session: Session, rows: Arrays, tolerance: Tolerance) -> bool:
    """Whether strangers' rows may share a batch.

    The first and the last of `rows` are run twice, beside each other and beside much louder rows.
    Both batches have one shape, so the engine computes both alike: their answers must be the same
    to the last bit. The first is run alone too. That may take another path through the engine, so
    there the artifact's own tolerance decides.

    Args:
        rows: by input name, one or more on axis 0, as callers send them.
        tolerance: what counts as the same answer.

    Returns:
        False also where it cannot be told: the engine refuses such a batch, or an output has no
        row for each of its rows.
    """
    try:
        alone = session.predict({name: array[:1] for name, array in rows.items()})
        quiet = session.predict({name: _quiet(array) for name, array in rows.items()})
        loud = session.predict({name: _loud(array) for name, array in rows.items()})
    except SkerryError:
        return False
    return all(_agree(alone[name], quiet[name], loud[name], tolerance) for name in quiet)


def _quiet(array: NDArray[Any]) -> NDArray[Any]:
    """The first row and the last, twice."""
    return np.ascontiguousarray(array[[0, -1, 0, -1]])


def _loud(array: NDArray[Any]) -> NDArray[Any]:
    """The first row and the last, and two unlike them: a thousand times as large where the values
    are floats, at both ends of the range where they are bytes, such as pixels, else made of values
    that the first has, so that each is one the model knows."""
    first = np.asarray(array[0])
    backwards = np.flip(first)
    if array.dtype.kind in "iu" and array.dtype.itemsize == 1:
        ends = np.iinfo(array.dtype)
        beside = [np.full_like(first, ends.max), np.full_like(first, ends.min)]
    elif array.dtype.kind != "f":
        beside = [backwards, np.resize(first.reshape(-1)[:1], first.shape)]
    else:
        largest = float(np.finfo(array.dtype).max)
        beside = [
            np.clip(row.astype(np.float64) * _LOUDER, -largest, largest).astype(array.dtype)
            for row in (np.where(first == 0, 1, first), -backwards)
        ]
    return np.ascontiguousarray(np.stack([first, array[-1], *beside]))


def _agree(
    alone: NDArray[Any], quiet: NDArray[Any], loud: NDArray[Any], tolerance: Tolerance
) -> bool:
    if quiet.shape[:1] != (_ROWS,) or quiet.shape != loud.shape or quiet[:1].shape != alone.shape:
        return False
    found = compare(alone, quiet[:1])
    near = found.argmax == 1.0 if alone.dtype.kind in "iu" else found.largest <= tolerance.atol
    left, right = quiet[:2], loud[:2]
    return near and bool(((left == right) | ((left != left) & (right != right))).all())
