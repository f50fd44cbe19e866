"""Contexts: how large a value to expect, and what neighbours and fractions suggest of it."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.tables import BINS, LEVELS, LOWEST_LEVEL

__all__ = ["REST_BITS", "contexts", "contexts_of_rests", "nearness", "pull_of", "sum_of"]

_Integers = NDArray[np.int32]

REST_BITS = 10
_UNKNOWN = BINS - 1
_BIN_STARTS = (2, 6, 11, 19, 31, 51)
_BIN = np.searchsorted(_BIN_STARTS, np.arange(512), "right")
_NEAR_BITS = 20
_NEAR = np.array(  # 8 · 2^(_NEAR_BITS − level / 2), rounded
    [(isqrt(1 << 108 - (level + LOWEST_LEVEL)) >> 30) + 1 >> 1 for level in range(LEVELS)],
    np.int64,
)
_NEAR_AS_FLOATS = _NEAR / (1 << _NEAR_BITS)
_EXACT = 128


def _near(index: _Integers, values: _Integers) -> NDArray[np.int8]:
    """How far off values lie, in eighths of what is expected of them, rounded down.

    A binary64 holds every product exactly that is not confined.
    """
    far = values * _NEAR_AS_FLOATS.take(index.astype(np.intp))
    np.floor(far, out=far)
    np.clip(far, -127, 127, out=far)
    confined: NDArray[np.int8] = far.astype(np.int8)
    return confined


_SMALL_NEAR = np.stack(
    [
        _near(np.arange(LEVELS, dtype=np.int32), np.full(LEVELS, value, np.int32))
        for value in range(-_EXACT, _EXACT + 1)
    ],
    1,
)


def nearness(index: _Integers, found: _Integers) -> NDArray[np.int8]:
    """How far off coded values lie, in eighths of what was expected: by a table where small."""
    start = index * (2 * _EXACT + 1)
    start += _EXACT
    if int(found.min()) >= -_EXACT and int(found.max()) <= _EXACT:
        start += found
        return _SMALL_NEAR.take(start.astype(np.intp))
    key = np.clip(found, -_EXACT, _EXACT)
    large = key != found
    count = int(np.count_nonzero(large))
    if 2 * count > found.size:
        return _near(index, found)
    start += key
    near = _SMALL_NEAR.take(start.astype(np.intp))
    if count:
        at = large.nonzero()
        near[at] = _near(index[at], found[at])
    return near


def pull_of(rest: _Integers, index: _Integers) -> _Integers:
    """How far what is left of a prediction pulls, in eighths of what is expected, rounded down.

    Args:
        rest: in 2^−REST_BITS, at most a half. A binary64 holds every product exactly.
        index: the level index of each.
    """
    far = rest * (_NEAR_AS_FLOATS / (1 << REST_BITS)).take(index.astype(np.intp))
    np.floor(far, out=far)
    pull: _Integers = far.astype(np.int32)
    return pull


_RESTS = (1 << REST_BITS) + 1
_PULLS = pull_of(
    np.arange(_RESTS, dtype=np.int32) - _RESTS // 2,
    np.arange(LEVELS, dtype=np.int32)[:, None],
)
_CONTEXT_OF_REST = BINS * np.arange(LEVELS)[:, None] + _BIN.take(np.abs(_PULLS), mode="clip")


def contexts_of_rests(index: _Integers, rest: _Integers) -> tuple[NDArray[np.int64], _Integers]:
    """`contexts` where nothing but these rests pulls."""
    key = index * _RESTS
    key += rest
    key += _RESTS // 2
    found = _CONTEXT_OF_REST.take(key.ravel().astype(np.intp)).astype(np.int64)
    return found, rest.ravel() >> 31


def sum_of(parts: Sequence[NDArray[np.int8]]) -> _Integers | None:
    """Element by element; none of nothing."""
    total: _Integers | None = None
    for part in parts:
        total = part.astype(np.int32) if total is None else total + part
    return total


def contexts(
    index: _Integers, pull: _Integers | None
) -> tuple[NDArray[np.int64], _Integers | None]:
    """The context of each element, and −1 where its sign is turned so that the pull is upward."""
    found = index.ravel().astype(np.int64)
    found *= BINS
    if pull is None:
        found += _UNKNOWN
        return found, None
    pull = pull.ravel()
    found += _BIN.take(np.abs(pull).astype(np.intp), mode="clip")
    return found, pull >> 31
