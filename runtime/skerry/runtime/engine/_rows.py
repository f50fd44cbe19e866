"""Batches of any length on an artifact whose batch axis is fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays

Once = Callable[[Arrays], dict[str, NDArray[Any]]]


def fixed_batch(inputs: tuple[TensorSpec, ...]) -> int | None:
    """The length that axis 0 of every input must have; None where it is free."""
    lengths = {spec.shape[0] for spec in inputs if spec.shape}
    return lengths.pop() if len(lengths) == 1 and lengths != {-1} else None


def run_in_chunks(once: Once, inputs: Arrays, length: int) -> dict[str, NDArray[Any]]:
    """Run `once` on each `length` rows and join the outputs. The last chunk is filled with its own
    last row, and what that gives is cut off."""
    rows = len(next(iter(inputs.values())))
    parts = []
    for start in range(0, rows, length):
        chunk = {name: array[start : start + length] for name, array in inputs.items()}
        missing = start + length - rows
        if missing > 0:
            chunk = {
                name: np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
                for name, array in chunk.items()
            }
        parts.append(once(chunk))
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
