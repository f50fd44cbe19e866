"""Percentiles that say how sure they are."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Percentile", "Ratio", "paired_ratio", "percentile"]

_Z95 = 1.959964  # the normal quantile for a two-sided 95% interval
_RESAMPLES = 2000


class Percentile(msgspec.Struct, frozen=True):
    """One percentile of a sample.

    Attributes:
        value: the estimate, in the sample's unit.
        low, high: its 95% confidence bounds; equal to the sample's ends where it is too short.
    """

    value: float
    low: float
    high: float


class Ratio(msgspec.Struct, frozen=True):
    """How many times a takes what b takes, by medians of pairs, with 95% bounds."""

    value: float
    low: float
    high: float


def percentile(sample: NDArray[np.float64], share: float) -> Percentile:
    """The `share` percentile of `sample` with distribution-free bounds.

    The bounds are order statistics: the number of values below the true percentile is binomial
    (Hahn & Meeker, Statistical Intervals, section 5.2), taken here by its normal approximation.

    Args:
        sample: shape [n], n ≥ 1, any order.
        share: between 0 and 1.
    """
    ordered = np.sort(sample)
    n = len(ordered)
    spread = _Z95 * math.sqrt(n * share * (1 - share))
    low = max(0, math.floor(n * share - spread) - 1)
    high = min(n - 1, math.ceil(n * share + spread))
    value = float(np.quantile(ordered, share))
    return Percentile(value, float(ordered[low]), float(ordered[high]))


def paired_ratio(a: NDArray[np.float64], b: NDArray[np.float64], seed: int = 0) -> Ratio:
    """The median of a[i] / b[i], with percentile-bootstrap bounds.

    Pairs measured one right after the other share what the machine was doing, so their ratio holds
    where the times themselves do not.

    Args:
        a, b: shape [n], seconds of interleaved runs.
        seed: of the bootstrap.
    """
    ratios = a / b
    random = np.random.default_rng(seed)
    picks = random.integers(0, len(ratios), size=(_RESAMPLES, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(float(np.median(ratios)), float(low), float(high))
