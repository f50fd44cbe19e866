"""Signed integers as tokens: small ones exactly, large ones by sign, length and two leading bits.

A value v with |v| ≤ 15 is the token v + 15. A larger one, whose magnitude m has n bits (5 to 32),
is the token 31 + 8 (n − 5) + 2 t + s, where t are the two bits below the leading one of m and s is
1 for a negative value; the other n − 3 bits of m go beside it as they are. Values are 32 bits wide.
Token 255 stands before a token that the current table holds to be impossible.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ESCAPE",
    "FIRST_LARGE",
    "RAW_BITS",
    "TOKENS",
    "bounds",
    "split",
    "value_of",
    "with_raw",
]

_EXACT = 15
TOKENS = 256
ESCAPE = 255
FIRST_LARGE = 2 * _EXACT + 1

_token = np.arange(TOKENS, dtype=np.int64)
_large = np.maximum(_token - FIRST_LARGE, 0)
_lengths = _large // 8 + 5
_is_large = (_token >= FIRST_LARGE) & (_token != ESCAPE)

_widths = np.where(_is_large, _lengths - 3, 0)
RAW_BITS: NDArray[np.int32] = _widths.astype(np.int32)
_FLOOR = np.where(
    _is_large,
    (4 + _large // 2 % 4) << np.where(_is_large, _lengths - 3, 0),
    np.abs(_token - _EXACT),
)
_FLOOR[ESCAPE] = 0
_NEGATIVE = np.where(_is_large, _large % 2 == 1, _token < _EXACT)
_SIGNED = np.where(_NEGATIVE, -_FLOOR, _FLOOR).astype(np.int32)  # 2^31 and more wrap
_SIGN = np.where(_NEGATIVE, -1, 1).astype(np.int32)


def split(values: NDArray[np.int32]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Values → their tokens and the raw bits that go with them, as 32-bit patterns."""
    magnitude = np.abs(values).view(np.uint32)  # of −2³¹ too
    large = magnitude > _EXACT
    tokens = (values + np.int32(_EXACT)).astype(np.uint8)
    raw = np.zeros(len(values), np.int32)
    count = int(np.count_nonzero(large))
    if 2 * count > len(values):
        some, bits = _split_large(magnitude, values < 0)
        np.copyto(tokens, some, where=large)
        np.copyto(raw, bits, where=large)
    elif count:
        at = large.nonzero()[0]
        tokens[at], raw[at] = _split_large(magnitude[at], values[at] < 0)
    return tokens, raw


def _split_large(
    magnitude: NDArray[np.uint32], negative: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """`split` as if every value were a large one; what it gives for others means nothing."""
    if magnitude.max() < 1 << 24:  # a binary32 holds it exactly
        length = (magnitude.astype(np.float32).view(np.int32) >> 23) - 126
    else:
        length = ((magnitude.astype(np.float64).view(np.int64) >> 52) - 1022).astype(np.int32)
    shift = np.maximum(length - 3, 0).view(np.uint32)
    top = magnitude >> shift
    raw = (magnitude - (top << shift)).view(np.int32)
    tokens = 8 * length + 2 * top.view(np.int32) + (FIRST_LARGE - 8 * 5 - 2 * 4)
    tokens += negative
    return tokens.astype(np.uint8), raw


def value_of(tokens: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The values of exact tokens; what it gives for large ones means nothing."""
    values = tokens.astype(np.int32)
    values -= _EXACT
    return values


def with_raw(tokens: NDArray[np.intp], raw: NDArray[np.int32]) -> NDArray[np.int32]:
    """The values of tokens with their raw bits."""
    found = _SIGN.take(tokens)
    found *= raw
    found += _SIGNED.take(tokens)
    return found


def bounds(token: int) -> tuple[int, int, bool]:
    """The magnitudes that a token stands for, from and below, and whether they are negative."""
    low = int(_FLOOR[token])
    return low, low + (1 << int(RAW_BITS[token])), bool(_NEGATIVE[token])
