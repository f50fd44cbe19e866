"""Choosing the range of an activation from what calibration saw of it. Pure functions.

A range always holds zero, so that zero (padding, a ReLU's floor) is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.converter.quantize.scheme import Calibrator, Scheme

__all__ = ["ACTIVATION_MAX", "ACTIVATION_MIN", "WIDE", "Affine", "Seen", "affine", "choose", "wide"]

ACTIVATION_MIN = -128
ACTIVATION_MAX = 127
WIDE = 32767  # of a 16-bit activation, both ways
_LEVELS = ACTIVATION_MAX - ACTIVATION_MIN
_COARSE = np.geomspace(1.0, 1 / 32, 56)  # shares of the range seen, to search clipping ends in
_FINE = np.linspace(1.06, 0.94, 25)  # shares of the best of those
_TINY = 1e-12
_SMALLEST_SCALE = 2.0**-60
_Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """What calibration saw of one tensor.

    Attributes:
        low, high: the smallest and largest value.
        average_low, average_high: moving averages of each batch's smallest and largest.
        counts: [bins] int64, how many values fell into each of equal bins over -limit..limit.
        limit: the outer edge of the histogram.
    """

    low: float
    high: float
    average_low: float
    average_high: float
    counts: NDArray[np.int64]
    limit: float

    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, [bins] float64."""
        width = 2 * self.limit / len(self.counts)
        return np.arange(0.5, len(self.counts), 1.0) * np.float64(width) - self.limit


@dataclass(frozen=True, slots=True)
class Affine:
    """A real number is (q - zero_point) * scale, for the integers q of its type."""

    scale: float
    zero_point: int


def affine(low: float, high: float) -> Affine:
    """The int8 parameters whose range covers low..high and holds zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = _scale(high - low, _LEVELS)
    zero_point = ACTIVATION_MIN - round(low / scale)
    return Affine(scale, int(np.clip(zero_point, ACTIVATION_MIN, ACTIVATION_MAX)))


def wide(seen: Seen) -> Affine:
    """The int16 parameters that cover everything seen. The zero point is 0, as TFLite asks."""
    reach = max(abs(seen.low), abs(seen.high))
    return Affine(_scale(reach, WIDE), 0)


def _scale(reach: float, levels: int) -> float:
    """The step of a range. One that is as good as nothing, such as that of a state which is zero
    in calibration, says nothing of the values to come: it is taken for 1, so that no product of
    scales leaves the range of an engine's integers."""
    step = reach / levels
    return float(np.float32(step if step >= _SMALLEST_SCALE else 1.0 / levels))


def choose(seen: Seen, scheme: Scheme) -> Affine:
    """The parameters that the scheme's calibrator gives a tensor."""
    return affine(*_CHOOSERS[scheme.calibrator](seen, scheme))


def _minmax(seen: Seen, _: Scheme) -> _Range:
    return seen.low, seen.high


def _moving_average(seen: Seen, _: Scheme) -> _Range:
    return seen.average_low, seen.average_high


def _percentile(seen: Seen, scheme: Scheme) -> _Range:
    tail = (1 - scheme.percentile / 100) / 2
    total = np.cumsum(seen.counts)
    edges = np.linspace(-seen.limit, seen.limit, len(seen.counts) + 1)
    first = int(np.searchsorted(total, tail * total[-1], side="right"))
    last = int(np.searchsorted(total, (1 - tail) * total[-1], side="left"))
    low = max(seen.low, float(edges[first]))
    high = min(seen.high, float(edges[min(last + 1, len(edges) - 1)]))
    return low, high


def _search(seen: Seen, cost: Callable[[float, float], float]) -> _Range:
    """The clipping range of least cost: each end in turn, coarsely and then finely."""
    low, high = seen.low, seen.high
    for shares, fine in ((_COARSE, False), (_COARSE, False), (_FINE, True)):
        if seen.high > 0:
            ends = np.minimum(shares * (high if fine else seen.high), seen.high)
            high = float(ends[np.argmin([cost(low, float(end)) for end in ends])])
        if seen.low < 0:
            ends = np.maximum(shares * (low if fine else seen.low), seen.low)
            low = float(ends[np.argmin([cost(float(end), high) for end in ends])])
    return low, high


def _mse(seen: Seen, _: Scheme) -> _Range:
    """The range of least squared error."""
    kept = seen.counts > 0
    values, counts = seen.centres()[kept], seen.counts[kept]

    def squared_error(low: float, high: float) -> float:
        chosen = affine(low, high)
        q = np.round(values / chosen.scale) + chosen.zero_point
        q = np.clip(q, ACTIVATION_MIN, ACTIVATION_MAX)
        return float(np.dot(counts, ((q - chosen.zero_point) * chosen.scale - values) ** 2))

    return _search(seen, squared_error)


def _entropy(seen: Seen, _: Scheme) -> _Range:
    """The range of least Kullback-Leibler divergence (Migacz, GTC 2017), each end by itself.

    Zero is exact in every range, so the spike that a ReLU makes there is left out.
    """
    centres, counts = seen.centres(), seen.counts.copy()
    counts[len(counts) // 2] = 0

    def divergence(low: float, high: float) -> float:
        inside = (centres >= low) & (centres <= high)
        if inside.sum() <= _LEVELS:
            return np.inf
        kept = counts[inside].astype(np.float64)
        clipped = kept.copy()
        clipped[0] += counts[centres < low].sum()
        clipped[-1] += counts[centres > high].sum()
        level = ((centres[inside] - low) / (high - low) * _LEVELS).astype(np.int64)
        filled = kept > 0
        mass = np.bincount(level, weights=kept, minlength=_LEVELS)
        width = np.bincount(level, weights=filled.astype(np.float64), minlength=_LEVELS)
        spread = np.where(filled, (mass / np.maximum(width, 1))[level], 0.0)
        return _divergence(clipped, spread)

    best = _search(seen, divergence)
    return best if divergence(*best) < np.inf else (seen.low, seen.high)


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    some = p > 0
    p, q = p / p.sum(), q / max(float(q.sum()), _TINY)
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], _TINY))))


_CHOOSERS: dict[Calibrator, Callable[[Seen, Scheme], _Range]] = {
    "minmax": _minmax,
    "moving_average": _moving_average,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
