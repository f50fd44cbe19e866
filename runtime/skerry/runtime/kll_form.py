"""Whether bytes are a KLL sketch of floats, before the library that reads them may.

DataSketches trusts the table of levels in a serialized sketch, and reads wherever it points.

Its form (datasketches-cpp, kll_sketch_impl.hpp): one byte each of preamble length in 4-byte words,
version, family and flags; k (u16), m (u8), a spare byte. An empty sketch ends there; one value
follows by itself; else n (u64), least k (u16), levels (u8), a spare byte, where each level begins
(u32 each), least and greatest value, and the values of all levels, float32. All little-endian.
"""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np

from skerry.devices.errors import InputError

__all__ = ["check_kll"]

_FAMILY, _M = 15, 8
_EMPTY, _SINGLE = 1, 4
_HEAD, _FULL_HEAD = 8, 20
_MOST_LEVELS = 60
_TWO_STEPS = 30


def check_kll(data: bytes, k: int) -> None:
    """Raise InputError unless `data` is a whole, consistent sketch of finite values.

    Args:
        k: the only one that is allowed.
    """
    if len(data) < _HEAD or data[2] != _FAMILY or data[6] != _M:
        raise _damaged("not a KLL sketch")
    if int.from_bytes(data[4:6], "little") != k:
        raise InputError(f"not a KLL sketch of k = {k}", where="sketch")
    preamble, version, flags = data[0], data[1], data[3]
    if flags & _EMPTY:
        form, values = (2, 1), (_HEAD, 0)
    elif flags & _SINGLE:
        form, values = (2, 2), (_HEAD, 1)
    else:
        form, values = (5, 1), _values(data, k)
    begin, count = values
    if (preamble, version) != form or len(data) != begin + 4 * count:
        raise _damaged("its length is not what it says")
    if not np.isfinite(np.frombuffer(data, "<f4", offset=begin)).all():
        raise _damaged("it holds values that are not finite")


def _values(data: bytes, k: int) -> tuple[int, int]:
    """Where the values of a full sketch begin, and how many there are; its levels add up."""
    if len(data) < _FULL_HEAD:
        raise _damaged("it is cut short")
    count, least_k, levels = struct.unpack_from("<QHB", data, 8)
    if not 1 <= levels <= _MOST_LEVELS or len(data) < _FULL_HEAD + 4 * levels:
        raise _damaged("its levels are out of range")
    if not _M <= least_k <= k:
        raise _damaged("its least k is out of range")
    capacity = sum(_capacity(k, levels - level - 1) for level in range(levels))
    begins: list[int] = [*struct.unpack_from(f"<{levels}I", data, _FULL_HEAD), capacity]
    sizes = [end - begin for begin, end in pairwise(begins)]
    if min(sizes) < 0 or sum(size << level for level, size in enumerate(sizes)) != count:
        raise _damaged("its levels do not add up")
    return _FULL_HEAD + 4 * levels, 2 + sum(sizes)


def _capacity(k: int, depth: int) -> int:
    """How many values a level holds that lies `depth` below the top: about k (2/3)^depth."""
    if depth > _TWO_STEPS:
        k, depth = _shrunk(k, depth // 2), depth - depth // 2
    return max(_M, _shrunk(k, depth))


def _shrunk(k: int, depth: int) -> int:
    thirds: int = 3**depth
    return ((2 * k << depth) // thirds + 1) >> 1


def _damaged(problem: str) -> InputError:
    return InputError(f"damaged KLL sketch: {problem}", where="sketch")
