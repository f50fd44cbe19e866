"""A call's arrays in a few numbers for each row.

A tabular input ([N] or [N, d], d ≤ 64) gives each column; any other input its mean and standard
deviation, and an image of 2 to 4 channels ([N, H, W, C] or [N, C, H, W]) the mean of each. Of a row
with more than 4096 positions an even sample is looked at. An output of scores ([N, C]) gives the
confidence (largest probability, after softmax where rows are not probabilities) and the count of
each argmax; any other output its value, or its mean and standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.runtime.engine.base import Arrays

__all__ = ["FeatureLimits", "Features", "features"]

Features = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class FeatureLimits:
    """What is looked at singly.

    Attributes:
        columns: widest tabular input looked at column by column.
        classes: longest row of scores whose argmax is counted.
        positions: most positions of one row (pixels, say) that moments are taken of, evenly spread.
    """

    columns: int = 64
    classes: int = 4096
    positions: int = 4096


_LIMITS = FeatureLimits()


def features(
    inputs: Arrays, outputs: Arrays, limits: FeatureLimits = _LIMITS
) -> tuple[Features, dict[str, NDArray[np.int64]]]:
    """One call in a few numbers a row.

    Returns:
        Feature name to its finite values, float32 [≤ N]; output name to the count of each argmax,
        int64 [C]. Arrays that are not numeric, empty, or without a batch axis are passed over.
    """
    found: Features = {}
    classes: dict[str, NDArray[np.int64]] = {}
    for name, array in inputs.items():
        if _numeric(array):
            _of_input(f"input/{name}", array, limits, found)
    for name, array in outputs.items():
        if _numeric(array):
            _of_output(f"output/{name}", array, limits, found, classes)
    return {name: _finite(values) for name, values in found.items()}, classes


def _of_input(name: str, array: NDArray[Any], limits: FeatureLimits, found: Features) -> None:
    if array.ndim == 1:
        found[f"{name}/value"] = array.astype(np.float32)
    elif array.ndim == 2 and array.shape[1] <= limits.columns:
        columns = np.ascontiguousarray(array.T, np.float32)
        for index, column in enumerate(columns):
            found[f"{name}/column/{index}"] = column
    else:
        _of_samples(name, array, limits, found)


def _of_samples(name: str, array: NDArray[Any], limits: FeatureLimits, found: Features) -> None:
    """Moments of each row of [N, …], and of each channel of images, on a regular sample of it."""
    rows, shape = array.shape[0], array.shape[1:]
    if len(shape) == 3 and 2 <= shape[2] <= 4:
        grid, width = array.reshape(rows, -1, shape[2]).transpose(0, 2, 1), shape[1]
    elif len(shape) == 3 and 2 <= shape[0] <= 4:
        grid, width = array.reshape(rows, shape[0], -1), shape[2]
    else:
        grid = array.reshape(rows, 1, -1)
        width = next((length for length in reversed(shape) if length > 1), 1)
    step = _step(grid.shape[2], width if len(shape) > 1 else 1, limits.positions)
    sample = grid[:, :, ::step].astype(np.float32)
    _moments(name, sample, found)
    if grid.shape[1] > 1:
        means = sample.mean(axis=2)
        for channel in range(grid.shape[1]):
            found[f"{name}/channel/{channel}"] = np.ascontiguousarray(means[:, channel])


def _step(positions: int, width: int, most: int) -> int:
    """A stride that leaves at most `most` positions and shares no factor with the row's width."""
    step = -(-positions // most)
    while step > 1 and math.gcd(step, width) > 1:
        step += 1
    return step


def _of_output(
    name: str,
    array: NDArray[Any],
    limits: FeatureLimits,
    found: Features,
    classes: dict[str, NDArray[np.int64]],
) -> None:
    if array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1):
        found[f"{name}/value"] = array.reshape(-1).astype(np.float32)
    elif array.ndim == 2 and array.shape[1] <= limits.classes:
        scores = array.astype(np.float32, copy=False)
        found[f"{name}/confidence"] = _confidence(scores)
        known = np.isfinite(scores).all(axis=1)
        chosen = scores[known].argmax(axis=1)
        classes[name] = np.bincount(chosen, minlength=scores.shape[1])
    else:
        _of_samples(name, array, limits, found)


def _confidence(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest probability of each row of [N, C]; softmax unless the row already sums to 1."""
    top = scores.max(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        softmax = 1.0 / np.exp(scores - top[:, None]).sum(axis=1)
        is_probability = (scores.min(axis=1) >= 0) & (np.abs(scores.sum(axis=1) - 1) < 1e-2)
    chosen: NDArray[np.float32] = np.where(is_probability, top, softmax).astype(np.float32)
    return chosen


def _moments(name: str, array: NDArray[Any], found: Features) -> None:
    flat = array.reshape(array.shape[0], -1).astype(np.float32, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        found[f"{name}/mean"] = flat.mean(axis=1)
        found[f"{name}/std"] = flat.std(axis=1)


def _numeric(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "fiub" and array.ndim >= 1 and array.size > 0


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    keep = np.isfinite(values)
    return values if keep.all() else values[keep]
