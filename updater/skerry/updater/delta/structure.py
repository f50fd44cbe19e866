"""What lies between the tensors: aligned byte by byte, as bsdiff does (Percival, 2003)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import bsdiff4.core
import numpy as np

from skerry.updater.delta.codec import pack
from skerry.updater.delta.program import Kind, Operation

__all__ = ["Gaps", "align"]

_SORTED_BYTES = 24 << 20
_QUICK_BYTES = 1 << 18
_REPETITIVE = 0.02


class Gaps:
    """The parts of a file that no matched tensor takes, as one run of bytes.

    Args:
        data: the file.
        taken: (offset, length) of what is not part of it, in order.
    """

    def __init__(self, data: memoryview, taken: Sequence[tuple[int, int]]) -> None:
        self._offsets: list[int] = []
        lengths: list[int] = []
        at = 0
        for offset, length in [*taken, (len(data), 0)]:
            if offset > at:
                self._offsets.append(at)
                lengths.append(offset - at)
            at = max(at, offset + length)
        self._begins = [0, *accumulate(lengths)]
        self.data = b"".join(
            bytes(data[o : o + n]) for o, n in zip(self._offsets, lengths, strict=True)
        )

    def extents(self, at: int, length: int) -> Iterator[tuple[int, int]]:
        """Where `length` bytes from `at` of the run lie in the file: (offset, length) each."""
        piece = bisect_right(self._begins, at) - 1
        while length:
            inside = at - self._begins[piece]
            take = min(length, self._begins[piece + 1] - at)
            yield self._offsets[piece] + inside, take
            at, length, piece = at + take, length - take, piece + 1


def align(old: Gaps, new: Gaps) -> Iterator[tuple[int, Operation]]:
    """How the new file's gaps come from the old one's: (offset in the new file, operation)."""
    at = was = 0
    for added, literal, seek in _controls(old.data, new.data):
        end = at + added
        while at < end:
            base, most = next(old.extents(was, end - at))
            offset, length = next(new.extents(at, most))
            same = new.data[at : at + length] == old.data[was : was + length]
            yield offset, Operation(Kind.COPY if same else Kind.ADD, length, base)
            at, was = at + length, was + length
        for offset, length in new.extents(at, literal):
            yield offset, Operation(Kind.LITERAL, length)
        at, was = at + literal, was + seek


def _controls(old: bytes, new: bytes) -> Sequence[Sequence[int]]:
    """bsdiff's triples: how much to add, how much is literal, how far to seek in the old."""
    if not old or not new:
        return [(0, len(new), 0)]
    if old == new:
        return [(len(new), 0, 0)]
    if len(old) == len(new) and _nearly(old, new):
        return [(len(new), 0, 0)]
    if max(len(old), len(new)) > _SORTED_BYTES or _repetitive(old) or _repetitive(new):
        return [(0, len(new), 0)]
    control = bsdiff4.core.diff(old, new)[0]
    magnitudes = np.frombuffer(control, "<u8")
    signs = np.where(magnitudes >> 63, -1, 1)
    triples = signs * (magnitudes & ~np.uint64(1 << 63)).astype(np.int64)
    return [tuple(row) for row in triples.reshape(-1, 3).tolist()]


def _nearly(old: bytes, new: bytes) -> bool:
    """Whether so few bytes differ, in place, that there is nothing to align."""
    was, now = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    return int(np.count_nonzero(was != now)) * 100 < len(now)


def _repetitive(data: bytes) -> bool:
    """Whether sorting the suffixes of `data` would take for ever."""
    quick = len(data) <= _QUICK_BYTES
    return not quick and len(pack(data, thorough=False, level=1)) < _REPETITIVE * len(data)
