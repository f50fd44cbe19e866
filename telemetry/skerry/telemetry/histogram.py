"""Latency in exponential buckets, as in OpenTelemetry's data model: mergeable, with a known error.

At scale s the base is 2^(2^-s), and bucket i holds values in (base^i, base^(i+1)].
"""

from __future__ import annotations

import math

import msgspec

from skerry.devices.errors import InputError

__all__ = ["Histogram"]

_SCALE = 4
_LEAST, _MOST = 2.0**-30, 2.0**30
_MOST_BUCKETS = 1024
_MOST_COUNT = 1 << 48
_ROUNDING = 1 + 1e-6
_FINEST = 8


class Histogram(msgspec.Struct):
    """Counts of positive values, such as seconds, by their logarithm.

    Attributes:
        scale: buckets for each doubling are 2^scale.
        count, total: how many values, and their sum.
        low, high: least and greatest value seen; 0 if none was.
        buckets: index to count. Values are held within 2^-30 to 2^30.
    """

    scale: int = _SCALE
    count: int = 0
    total: float = 0.0
    low: float = 0.0
    high: float = 0.0
    buckets: dict[int, int] = {}

    def __post_init__(self) -> None:
        """Refuse what no sequence of `add` could have made; also called on decoding."""
        if not 0 <= self.scale <= _FINEST or len(self.buckets) > _MOST_BUCKETS:
            raise ValueError("histogram scale or size is out of range")
        reach = 30 << self.scale
        for index, count in self.buckets.items():
            if not (-reach - 1 <= index <= reach and 1 <= count <= _MOST_COUNT):
                raise ValueError("histogram bucket is out of range")
        if sum(self.buckets.values()) != self.count:
            raise ValueError("histogram counts do not add up")
        if not (
            0 <= self.total <= self.count * _MOST * _ROUNDING
            and 0 <= self.low <= self.high <= _MOST
        ):
            raise ValueError("histogram bounds are out of range")

    @property
    def relative_error(self) -> float:
        """How far `quantile` may be from the true value, relative to it."""
        base = math.exp2(2.0**-self.scale)
        return (base - 1) / (base + 1)

    @property
    def mean(self) -> float:
        """The mean value; 0 if there is none."""
        return self.total / self.count if self.count else 0.0

    def add(self, value: float, count: int = 1) -> None:
        """Count `value`, `count` times. Values that are not finite are the caller's bug."""
        if not math.isfinite(value):
            raise InputError(f"{value} cannot be counted", where="histogram")
        value = min(max(value, _LEAST), _MOST)
        index = math.ceil(math.log2(value) * (1 << self.scale)) - 1
        self.buckets[index] = self.buckets.get(index, 0) + count
        self.low = value if not self.count else min(self.low, value)
        self.high = max(self.high, value)
        self.count += count
        self.total += value * count

    def merge(self, other: Histogram) -> None:
        """Take in what `other` has counted, at the coarser of the two scales.

        A bucket that is full, at 2^48, stays so.
        """
        if not other.count:
            return
        scale = min(self.scale, other.scale)
        mine, shift = self._at(scale), other.scale - scale
        for index, count in other.buckets.items():
            coarse = index >> shift
            mine[coarse] = min(_MOST_COUNT, mine.get(coarse, 0) + count)
        self.low = other.low if not self.count else min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.scale, self.buckets = scale, mine
        self.count = sum(mine.values())
        self.total = min(self.total + other.total, self.count * _MOST)

    def quantile(self, rank: float) -> float:
        """The value at `rank`, 0 to 1, to within `relative_error`; 0 if nothing was counted."""
        if not 0 <= rank <= 1:
            raise InputError(f"rank {rank} is not within 0 to 1", where="histogram")
        if not self.count:
            return 0.0
        wanted, seen = max(1, math.ceil(rank * self.count)), 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= wanted:
                break
        width = 2.0**-self.scale
        lower, upper = math.exp2(index * width), math.exp2((index + 1) * width)
        return min(max(2 * lower * upper / (lower + upper), self.low), self.high)

    def _at(self, scale: int) -> dict[int, int]:
        shift, result = self.scale - scale, dict[int, int]()
        for index, count in self.buckets.items():
            result[index >> shift] = min(_MOST_COUNT, result.get(index >> shift, 0) + count)
        return result
