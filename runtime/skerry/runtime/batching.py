"""Several callers' inputs as one batch, and its outputs as several answers. Rules over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from skerry.runtime.engine.base import Arrays

__all__ = ["join", "repeated", "rows_of", "split"]


def rows_of(inputs: Arrays) -> int:
    """The length of axis 0, or 1 where that cannot be told: what came may not be arrays."""
    for array in inputs.values():
        shape = getattr(array, "shape", ())
        return shape[0] if shape else 1
    return 1


def join(calls: Sequence[Arrays]) -> Arrays | None:
    """The inputs of all `calls` end to end on axis 0; None where they do not go together.

    They do if they are arrays of the same names and, name by name, of one dtype and one shape but
    for axis 0. Inputs of one call that differ in length are not joined: whoever refuses them shall
    see them.
    """
    first = calls[0]
    for inputs in calls:
        if inputs.keys() != first.keys() or not all(map(_is_array, inputs.values())):
            return None
        if len({array.shape[:1] for array in inputs.values()}) != 1:
            return None
        for name, array in inputs.items():
            like = first[name]
            if array.ndim < 1 or array.dtype != like.dtype or array.shape[1:] != like.shape[1:]:
                return None
    return {name: np.concatenate([inputs[name] for inputs in calls]) for name in first}


def _is_array(found: object) -> bool:
    return isinstance(found, np.ndarray)


def repeated(default: Arrays, inputs: Arrays, outputs: Sequence[str] | None) -> Arrays:
    """A declared row of each output, once for each row of a call; those of `outputs` alone."""
    rows = rows_of(inputs)
    names = default if outputs is None else outputs
    return {name: np.repeat(default[name][None], rows, axis=0) for name in names}


def split(outputs: Arrays, rows: Sequence[int]) -> list[Arrays]:
    """The outputs of a joined batch, cut where each call's `rows` end.

    Raises:
        ValueError: an output has another length than the calls together.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim < 1 or len(array) != total:
            raise ValueError(f"output {name} is not {total} rows long")
    bounds = np.cumsum([0, *rows])
    return [
        {name: array[start:end] for name, array in outputs.items()}
        for start, end in pairwise(bounds)
    ]
