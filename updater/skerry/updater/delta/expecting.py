"""Choose, for one tensor, what differences its coder should expect: the analysis of an encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.geometry import Element, Geometry, Unsigned
from skerry.updater.delta.tables import LEVELS, LOWEST_LEVEL, expected
from skerry.updater.delta.tensors import Expectation, scaled
from skerry.updater.delta.tokens import RAW_BITS, split

__all__ = ["expectation"]

_SIDE_BITS = 2.0
_LEAST_ROW = 16
_RATIO_COST = 7.0
_EVIDENCE = 3.0
_LEAST = 2.0**-9
_SMALL = 4096
_ENOUGH = 1 << 16

_Floats = NDArray[np.float64]


@cache
def _costs() -> NDArray[np.float32]:
    """Bits of each token at each level, as first expected."""
    levels = range(LOWEST_LEVEL, LOWEST_LEVEL + LEVELS)
    parts = np.stack([expected(level) for level in levels]) + 1e-3
    bits: NDArray[np.float32] = (16 - np.log2(parts) + RAW_BITS).astype(np.float32)
    return bits


def expectation(geometry: Geometry, old: Unsigned, new: Unsigned) -> Expectation:
    """The expectation under which the differences of `new` and `old` take the fewest bits.

    Args:
        geometry: of the tensor.
        old, new: its elements [planes, rows, columns].
    """
    element = geometry.element
    old, new = _sampled(old), _sampled(new)
    best, least = None, np.inf
    for ratios in _ratios(element, old, new):
        values = _differences(element, old, new, ratios)
        tokens = split(values.ravel())[0].reshape(values.shape)
        for relative in (False, True) if element.mantissa_bits else (False,):
            lifts = np.zeros(old.shape, np.int64) if relative else element.lifts(old)
            top = int(lifts.max())
            size = np.abs(values) * np.exp2((lifts - top) / 2)
            for plain, side in _candidates(size, top, ratios):
                for candidate in _around(plain, values.size):
                    cost = side + _cost(candidate, tokens, lifts)
                    if cost < least:
                        best, least = replace(candidate, relative=relative), cost
    assert best is not None
    return best


def _sampled(whole: Unsigned) -> Unsigned:
    """Some planes, or some of the columns of one plane, of a large tensor."""
    step = -(-whole.size // _ENOUGH)
    if step == 1 or whole.shape[0] == 1:
        return whole
    return np.ascontiguousarray(whole[:: min(step, whole.shape[0])])


def _around(candidate: Expectation, size: int) -> Iterator[Expectation]:
    """The candidate, and others a little below and above it where that is cheap to try."""
    yield candidate
    if size <= _SMALL:
        for step in (-4, -3, -2, -1, 1, 2, 3, 4):
            yield replace(candidate, level=candidate.level + step)


def _differences(
    element: Element, old: Unsigned, new: Unsigned, ratios: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    reference = element.ordered(old)
    if ratios is not None:
        reference = np.stack([scaled(element, plane, ratios)[0] for plane in old])
    return element.differences(element.ordered(new), reference)


def _ratios(element: Element, old: Unsigned, new: Unsigned) -> Iterator[NDArray[np.int64] | None]:
    """No ratios, and those that fit each row best, where a row is long enough to tell."""
    yield None
    one = 1 << element.ratio_bits
    if one == 1 or old.shape[0] * old.shape[2] < _LEAST_ROW:
        return
    was, now = (_values(element, bits) for bits in (old, new))
    with np.errstate(all="ignore"):
        fit = (was * now).sum((0, 2)) / (was * was).sum((0, 2)) - 1
    fit = np.where(np.isfinite(fit), np.clip(fit, -0.5, 0.5), 0)
    ratios = np.rint(fit * one).astype(np.int64)
    before, after = (
        np.log2(1.0 + np.abs(_differences(element, old, new, tried))).sum((0, 2))
        for tried in (None, ratios)
    )
    ratios[after > before - _RATIO_COST] = 0
    if ratios.any():
        yield ratios


def _values(element: Element, bits: Unsigned) -> _Floats:
    """The elements as numbers; what is not finite, or too large to be squared, as zero."""
    form = np.dtype(np.int8) if element is Element.INT8 else np.dtype(f"<f{element.bytes}")
    with np.errstate(all="ignore"):
        values = bits.view(form).astype(np.float64)
    return np.where(np.abs(values) < 1e100, values, 0.0)


def _candidates(
    size: _Floats, lift: int, ratios: NDArray[np.int64] | None
) -> Iterator[tuple[Expectation, float]]:
    """Expectations with and without rows and columns, and the bits these take themselves."""
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
        across = np.rint(2 * np.log2(ratio)).astype(np.int64)
        side = paid + _SIDE_BITS * (rows + columns)
        yield Expectation(level + lift, added, across, ratios), side
        plain = _shrunk(size.sum((0, 1)), np.full(columns, float(size.size // columns)), mean)
        alone = _levels(plain) - level
        yield Expectation(level + lift, None, alone, ratios), paid + _SIDE_BITS * columns


def _levels(mean: _Floats) -> NDArray[np.int64]:
    """The levels whose two-sided geometric distributions have these mean magnitudes."""
    scale = ((mean - 1) + np.sqrt(mean * mean + 1)) / 2
    levels: NDArray[np.int64] = np.rint(2 * np.log2(scale)).astype(np.int64)
    return levels


def _shrunk(total: _Floats, count: _Floats, mean: float, weight: float | None = None) -> _Floats:
    """Means drawn towards `mean` where there is little evidence."""
    pseudo = _EVIDENCE * max(1.0, 1 / mean if weight is None else weight)
    means: _Floats = np.maximum((total + pseudo * mean) / (count + pseudo), mean / 64)
    return means


def _cost(candidate: Expectation, tokens: NDArray[np.uint8], lifts: NDArray[np.int64]) -> float:
    levels = np.full(tokens.shape, candidate.level - LOWEST_LEVEL, np.int64) - lifts
    if candidate.rows is not None:
        levels += candidate.rows[:, None]
    if candidate.columns is not None:
        levels += candidate.columns
    return float(_costs()[np.clip(levels, 0, LEVELS - 1), tokens].sum(dtype=np.float64))
