"""Whether what a model sees now is what it saw when it was built. Pure.

For each feature the reference is cut into bins of equal mass; PSI (population stability index)
and the Jensen-Shannon divergence compare the shares of reference and live values in them, and the
Kolmogorov-Smirnov distance the two distribution functions. They say how large a difference is. A
verdict worse than `ok` needs more: a difference that chance would not show. Unchanged data exceed
`Thresholds.alpha` of the time at most, all features together: every feature is tested twice, at
`alpha` divided by the number of tests (Bonferroni).

- The bins by the likelihood ratio G, whose tail falls like that of chi-square even where bins are
  sparse (Agrawal 2020), which neither PSI's nor Pearson's does.
- The distribution functions by Smirnov's bound (Wei and Dudley 2012), classes, which have no order,
  by their total variation distance, which is above its mean by t in exp(-2t²/(1/n + 1/m)) of the
  cases at most (McDiarmid 1989).

A sketch's error counts as fewer values, and bins are wider than it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skerry.runtime.sketches import Sketch, SketchSet

__all__ = ["DriftReport", "FeatureDrift", "Thresholds", "Verdict", "compare"]

Verdict = Literal["ok", "watch", "drift", "too few"]
_RANK: dict[Verdict, int] = {"too few": 0, "ok": 1, "watch": 2, "drift": 3}
_LEAST_SHARE = 1e-4
_ERROR_SIGMAS = 2.576  # what a sketch's rank error, at 99% confidence, is in standard deviations
_SPARSE = 0.1  # expected values, on the smaller side, below which classes are taken together


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a difference is one.

    Attributes:
        psi_watch, psi_drift: on PSI; 0.1 and 0.25 are the practice of credit scoring.
        ks_watch, ks_drift: on the KS distance, 0 to 1.
        least_count: fewest values, in reference and live alike, that allow a verdict.
        bins: bins of equal reference mass.
        alpha: chance, at most, that one comparison of unchanged data ends in `watch` or `drift`,
            whatever the number of features.
    """

    psi_watch: float = 0.1
    psi_drift: float = 0.25
    ks_watch: float = 0.1
    ks_drift: float = 0.2
    least_count: int = 100
    bins: int = 10
    alpha: float = 1e-4


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """One feature's difference.

    Attributes:
        psi: population stability index, ≥ 0.
        js: Jensen-Shannon divergence in bits, 0 to 1.
        ks: Kolmogorov-Smirnov distance, 0 to 1.
        count: live values it rests on.
    """

    verdict: Verdict
    psi: float
    js: float
    ks: float
    count: int


@dataclass(frozen=True, slots=True)
class DriftReport:
    """The difference of every feature that both sets have; `verdict` is the worst of them."""

    verdict: Verdict
    features: dict[str, FeatureDrift]

    def drifted(self) -> list[str]:
        """The features whose verdict is `drift`, the largest PSI first."""
        names = [name for name, one in self.features.items() if one.verdict == "drift"]
        return sorted(names, key=lambda name: -self.features[name].psi)


def compare(
    reference: SketchSet, live: SketchSet, thresholds: Thresholds | None = None
) -> DriftReport:
    """Compare what was sketched live with the reference: features, confidences and classes."""
    limits = thresholds or Thresholds()
    theirs, found = live.features, dict[str, FeatureDrift]()
    features = [name for name in reference.features if name in theirs]
    classes = [name for name in reference.classes if name in live.classes]
    alpha = limits.alpha / max(1, 2 * (len(features) + len(classes)))
    for name in features:
        found[name] = _of_sketches(reference.features[name], theirs[name], alpha, limits)
    for name in classes:
        counts = reference.classes[name], live.classes[name]
        found[f"{name}/class"] = _of_counts(*counts, alpha, limits)
    verdicts = [one.verdict for one in found.values()]
    worst: Verdict = max(verdicts, key=lambda one: _RANK[one], default="too few")
    return DriftReport(worst, dict(sorted(found.items())))


def _of_sketches(reference: Sketch, live: Sketch, alpha: float, limits: Thresholds) -> FeatureDrift:
    n, m = reference.count, live.count
    if min(n, m) < limits.least_count:
        return FeatureDrift("too few", 0.0, 0.0, 0.0, m)
    grid = np.unique(
        np.concatenate(
            [sketch.quantiles(np.linspace(0, 1, 101).tolist()) for sketch in (reference, live)]
        ).astype(np.float32)
    )
    ks = float(np.max(np.abs(reference.cdf(grid.tolist()) - live.cdf(grid.tolist()))))
    error = reference.rank_error + live.rank_error
    ranks = np.arange(1, limits.bins) / limits.bins
    edges = np.unique(reference.quantiles(ranks.tolist()).astype(np.float32)).tolist()
    p, q = _binned(reference.cdf(edges), live.cdf(edges), 2 * error)
    sizes = _effective(reference, p.size), _effective(live, p.size)
    chance = _smirnov(1 / n + 1 / m, alpha) + error
    return _judged(p, q, _by_chance(p, q, sizes[0], sizes[1], alpha), ks, chance, m, limits)


def _of_counts(
    reference: Sequence[int], live: Sequence[int], alpha: float, limits: Thresholds
) -> FeatureDrift:
    """Classes have no order, so KS gives way to the total variation distance, its largest value."""
    size = max(len(reference), len(live))
    p, q = np.zeros(size), np.zeros(size)
    p[: len(reference)], q[: len(live)] = reference, live
    n, m = int(p.sum()), int(q.sum())
    if min(n, m) < limits.least_count:
        return FeatureDrift("too few", 0.0, 0.0, 0.0, m)
    used = (p + q) > 0
    pooled, p, q = (p + q)[used] / (n + m), p[used] / n, q[used] / m
    spread = 1 / n + 1 / m
    distance = float(np.abs(p - q).sum() / 2)
    mean = float(np.sqrt(pooled * (1 - pooled) * spread).sum() / 2)
    ks, chance = max(0.0, distance - mean), _smirnov(spread, alpha)
    sparse = pooled * min(n, m) < _SPARSE
    if sparse.any():
        p, q = (np.append(x[~sparse], x[sparse].sum()) for x in (p, q))
    return _judged(p, q, _by_chance(p, q, n, m, alpha), ks, chance, m, limits)


def _judged(
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    by_chance: bool,
    ks: float,
    ks_chance: float,
    m: int,
    limits: Thresholds,
) -> FeatureDrift:
    psi, js = _psi(p, q, least=max(_LEAST_SHARE, 0.5 / m)), _js(p, q)
    shown = 0.0 if by_chance else psi
    verdict: Verdict = "ok"
    if shown > limits.psi_drift or ks > max(limits.ks_drift, ks_chance):
        verdict = "drift"
    elif shown > limits.psi_watch or ks > max(limits.ks_watch, ks_chance):
        verdict = "watch"
    return FeatureDrift(verdict, psi, js, ks, m)


def _by_chance(
    p: NDArray[np.float64], q: NDArray[np.float64], n: float, m: float, alpha: float
) -> bool:
    """Whether shares `p` of n and `q` of m values may be those of the same data.

    The mean of G is 1 + (1/a + 1/b)/6 a bin where a and b values are expected, and at most 2 ln 2;
    the bound taken here, with 4 for 6, holds for sparse bins too.
    """
    pooled = (n * p + m * q) / (n + m)
    p, q, pooled = p[pooled > 0], q[pooled > 0], pooled[pooled > 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(x > 0, x * np.log(x / pooled), 0.0).sum() for x in (p, q)]
    deviance = 2 * (n * parts[0] + m * parts[1])
    means = np.minimum(2 * math.log(2), 1 + (1 / n + 1 / m) / (4 * pooled))
    return bool(deviance <= _chi_square(max(1.0, float(means.sum()) - 1), alpha))


def _chi_square(degrees: float, alpha: float) -> float:
    """What chi-square exceeds with probability `alpha`, for degrees ≥ 1 (Wilson, Hilferty 1931)."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part - NormalDist().inv_cdf(alpha) * math.sqrt(part)) ** 3)


def _smirnov(spread: float, alpha: float) -> float:
    """What the KS distance exceeds with probability `alpha` at most; `spread` is 1/n + 1/m."""
    return math.sqrt(math.log(math.e / alpha) / 2 * spread)


def _effective(sketch: Sketch, bins: int) -> float:
    """How many values would show shares of 1/`bins` as exactly as the sketch of all of them."""
    sigma = sketch.rank_error / _ERROR_SIGMAS
    return 1 / (1 / sketch.count + 2 * bins * sigma * sigma)


def _binned(
    reference: NDArray[np.float64], live: NDArray[np.float64], least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The shares between edges, given the CDFs there; a bin has more than `least` in either."""
    kept = [(0.0, 0.0)]
    for at in zip(reference.tolist(), live.tolist(), strict=True):
        below = max(at[0] - kept[-1][0], at[1] - kept[-1][1])
        if min(below, max(1 - at[0], 1 - at[1])) > least:
            kept.append(at)
    p, q = np.diff(np.array([*kept, (1.0, 1.0)]), axis=0).T.clip(0.0, 1.0)
    return p, q


def _psi(p: NDArray[np.float64], q: NDArray[np.float64], *, least: float) -> float:
    p, q = np.maximum(p, least), np.maximum(q, least)
    return float(np.sum((p - q) * np.log(p / q)))


def _js(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / middle), 0.0).sum() for x in (p, q)]
    return float(np.clip(sum(terms) / 2, 0.0, 1.0))
