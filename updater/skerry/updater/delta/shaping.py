"""Fit how large a tensor's differences are: a level for the whole, for rows and for columns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.sides import Expectation
from skerry.updater.delta.tables import LEVELS, LOWEST_LEVEL, expected
from skerry.updater.delta.tokens import RAW_BITS

__all__ = ["LIFT", "bits_of", "cheapest", "cost", "shapes", "spread"]

LIFT = 2
"""What is added to the levels of cells."""

_SIDE_BITS = 2.0
_EVIDENCE = 3.0
_LEAST = 2.0**-9
_FEW = 16
_ROUNDS = 2
_LEAST_SHARE = 2.0**-40

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int32]


def shapes(
    size: _Floats, lift: int, ratios: _Integers | None
) -> Iterator[tuple[Expectation, float]]:
    """Expectations with and without rows and columns, and the bits these take themselves.

    Args:
        size: how large each difference is [planes, rows, columns].
        lift: what is added to each level.
        ratios: of the expectations.
    """
    _, rows, columns = size.shape
    paid = 0.0
    if ratios is not None:
        paid = float(len(ratios) + 2 * np.log2(1 + np.abs(ratios)).sum())
    mean = max(float(size.mean()), _LEAST)
    level = int(_levels(np.array([mean]))[0])
    yield Expectation(level + lift, ratios=ratios), paid
    by_row = _shrunk(size.sum((0, 2)), np.full(rows, float(size.size // rows)), mean)
    added = _levels(by_row) - level
    if rows > 1 and size.size // rows > 1:
        yield Expectation(level + lift, rows=added, ratios=ratios), paid + _SIDE_BITS * rows
    if columns > 1 and rows > 1:
        over = (size / by_row[:, None]).sum((0, 1))
        ratio = _shrunk(over, np.full(columns, float(size.size // columns)), 1.0, 1 / mean)
        across = np.rint(2 * np.log2(ratio)).astype(np.int32)
        side = paid + _SIDE_BITS * (rows + columns)
        yield Expectation(level + lift, added, across, ratios), side
        plain = _shrunk(size.sum((0, 1)), np.full(columns, float(size.size // columns)), mean)
        alone = _levels(plain) - level
        yield Expectation(level + lift, None, alone, ratios), paid + _SIDE_BITS * columns
    if mean > 1 and rows > 1 and size.size >= _FEW * rows:
        yield from _of_evidence(size, level, lift, ratios, paid)


def _of_evidence(
    size: _Floats, level: int, lift: int, ratios: _Integers | None, paid: float
) -> Iterator[tuple[Expectation, float]]:
    """As what was seen says alone: there are rows a millionth as lively as others."""
    _, rows, columns = size.shape
    least = max(float(size.mean()), 1e-300) * _LEAST_SHARE
    by_row = np.maximum(size.mean((0, 2)), least)
    side = paid + (_SIDE_BITS + 1) * rows
    yield Expectation(level + lift, rows=_levels(by_row) - level, ratios=ratios), side
    if columns > 1 and size.size >= _FEW * columns:
        for _ in range(_ROUNDS):
            ratio = np.maximum((size / by_row[:, None]).mean((0, 1)), _LEAST_SHARE)
            ratio /= np.exp(np.log(ratio).mean())
            by_row = np.maximum((size / ratio).mean((0, 2)), least)
        across = np.rint(2 * np.log2(ratio)).astype(np.int32)
        side += (_SIDE_BITS + 1) * columns
        yield Expectation(level + lift, _levels(by_row) - level, across, ratios), side


def cheapest(size: _Floats, lift: int, ratios: _Integers | None) -> tuple[Expectation, float]:
    """Of the `shapes` the one under which differences without steps take the fewest bits.

    Returns:
        It, and the bits but for what is the same of all.
    """
    found = [
        (shape, side + bits_of(size, spread(shape, size.shape, lift)))
        for shape, side in shapes(size, lift, ratios)
    ]
    return min(found, key=lambda pair: pair[1])


def bits_of(size: _Floats, mean: _Floats) -> float:
    """Bits of exponential magnitudes of these means, but for what is the same of all means."""
    return float(np.log2(mean).sum() + (size / mean).sum() / np.log(2))


def spread(expected: Expectation, shape: tuple[int, ...], lift: int) -> _Floats:
    """How large each difference is expected to be, given what was added to the levels."""
    return np.exp2((_of_each(expected, shape) - lift) / 2)


@cache
def _costs() -> NDArray[np.float32]:
    """Bits of each token at each level, as first expected."""
    parts = expected() + 1e-3
    bits: NDArray[np.float32] = (16 - np.log2(parts) + RAW_BITS).astype(np.float32)
    return bits


def cost(candidate: Expectation, tokens: NDArray[np.uint8], lifts: _Integers, rows: slice) -> float:
    """About how many bits a tensor's tokens take, as first expected.

    Args:
        candidate: what is expected.
        tokens: of some rows [planes, rows, columns].
        lifts: what is taken from the level of each.
        rows: which rows these are.
    """
    levels = _of_each(candidate.of_rows(rows), tokens.shape) - (lifts + LOWEST_LEVEL)
    bits = float(_costs()[np.clip(levels, 0, LEVELS - 1), tokens].sum(dtype=np.float64))
    return bits * (rows.step or 1)


def _of_each(expected: Expectation, shape: tuple[int, ...]) -> _Integers:
    """The level of each element [planes, rows, columns]."""
    levels = np.full(shape, expected.level, np.int32)
    if expected.planes is not None:
        levels += expected.planes[:, None, None]
    if expected.rows is not None:
        levels += expected.rows[:, None]
    if expected.columns is not None:
        levels += expected.columns
    return levels


def _levels(mean: _Floats) -> _Integers:
    """The levels whose two-sided geometric distributions have these mean magnitudes."""
    scale = ((mean - 1) + np.sqrt(mean * mean + 1)) / 2
    levels: _Integers = np.rint(2 * np.log2(scale)).astype(np.int32)
    return levels


def _shrunk(total: _Floats, count: _Floats, mean: float, weight: float | None = None) -> _Floats:
    """Means drawn towards `mean` where there is little evidence."""
    pseudo = _EVIDENCE * max(1.0, 1 / mean if weight is None else weight)
    means: _Floats = np.maximum((total + pseudo * mean) / (count + pseudo), mean / 64)
    return means
