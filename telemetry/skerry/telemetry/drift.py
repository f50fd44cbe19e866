"""Whether what a model sees now is what it saw when it was built. Pure.

For each feature the reference is cut into bins of equal mass; PSI (population stability index)
and the Jensen-Shannon divergence compare the shares of reference and live values in them, and the
Kolmogorov-Smirnov distance the two distribution functions. Thresholds are raised to what chance
and the sketches' own error would show of unchanged data: for B bins and n reference, m live
values, PSI has mean (B-1)(1/n + 1/m) and standard deviation sqrt(2(B-1))(1/n + 1/m) (Yurdakul and
Naranjo 2020), and KS exceeds c(α)·sqrt((n+m)/(nm)) with probability α (Smirnov 1939).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skerry.runtime.sketches import Sketch, SketchSet

__all__ = ["DriftReport", "FeatureDrift", "Thresholds", "Verdict", "compare"]

Verdict = Literal["ok", "watch", "drift", "too few"]
_RANK: dict[Verdict, int] = {"too few": 0, "ok": 1, "watch": 2, "drift": 3}
_LEAST_SHARE = 1e-4


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a difference is one.

    Attributes:
        psi_watch, psi_drift: on PSI; 0.1 and 0.25 are the practice of credit scoring.
        ks_watch, ks_drift: on the KS distance, 0 to 1.
        least_count: fewest values, in reference and live alike, that allow a verdict.
        bins: bins of equal reference mass.
        sigmas: how many standard deviations of chance the thresholds stay above its mean.
        alpha: chance that unchanged data exceed the KS threshold.
    """

    psi_watch: float = 0.1
    psi_drift: float = 0.25
    ks_watch: float = 0.1
    ks_drift: float = 0.2
    least_count: int = 100
    bins: int = 10
    sigmas: float = 4.0
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
    for name, sketch in reference.features.items():
        if name in theirs:
            found[name] = _of_sketches(sketch, theirs[name], limits)
    for name, counts in reference.classes.items():
        if name in live.classes:
            found[f"{name}/class"] = _of_counts(counts, live.classes[name], limits)
    verdicts = [one.verdict for one in found.values()]
    worst: Verdict = max(verdicts, key=lambda one: _RANK[one], default="too few")
    return DriftReport(worst, dict(sorted(found.items())))


def _of_sketches(reference: Sketch, live: Sketch, limits: Thresholds) -> FeatureDrift:
    if min(reference.count, live.count) < limits.least_count:
        return FeatureDrift("too few", 0.0, 0.0, 0.0, live.count)
    ranks = np.arange(1, limits.bins) / limits.bins
    edges = np.unique(reference.quantiles(ranks.tolist()).astype(np.float32))
    grid = np.unique(
        np.concatenate(
            [sketch.quantiles(np.linspace(0, 1, 101).tolist()) for sketch in (reference, live)]
        ).astype(np.float32)
    )
    ks = float(np.max(np.abs(reference.cdf(grid.tolist()) - live.cdf(grid.tolist()))))
    error = reference.rank_error + live.rank_error
    shares = [_shares(sketch.cdf(edges.tolist())) for sketch in (reference, live)]
    return _judged(shares[0], shares[1], ks, (reference.count, live.count), error, limits)


def _of_counts(reference: Sequence[int], live: Sequence[int], limits: Thresholds) -> FeatureDrift:
    """Classes have no order, so KS gives way to the total variation distance, its largest value."""
    size = max(len(reference), len(live))
    p, q = np.zeros(size), np.zeros(size)
    p[: len(reference)], q[: len(live)] = reference, live
    n, m = int(p.sum()), int(q.sum())
    if min(n, m) < limits.least_count:
        return FeatureDrift("too few", 0.0, 0.0, 0.0, m)
    used = (p + q) > 0
    p, q = p[used] / n, q[used] / m
    distance = float(np.abs(p - q).sum() / 2)
    chance = float(np.sqrt(p * (1 / n + 1 / m)).sum() / 2)
    return _judged(p, q, max(0.0, distance - chance), (n, m), 0.0, limits)


def _judged(
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    ks: float,
    counts: tuple[int, int],
    error: float,
    limits: Thresholds,
) -> FeatureDrift:
    n, m = counts
    spread = 1 / n + 1 / m
    psi, js = _psi(p, q, least=max(_LEAST_SHARE, 0.5 / m)), _js(p, q)
    bins = max(2, p.size)
    psi_chance = ((bins - 1) + limits.sigmas * math.sqrt(2 * (bins - 1))) * spread
    psi_error = 2 * bins * bins * error * error
    ks_chance = math.sqrt(-math.log(limits.alpha / 2) / 2 * spread) + error
    psi_floor = psi_chance + psi_error
    verdict: Verdict = "ok"
    if psi > max(limits.psi_drift, psi_floor) or ks > max(limits.ks_drift, ks_chance):
        verdict = "drift"
    elif psi > max(limits.psi_watch, psi_floor) or ks > max(limits.ks_watch, ks_chance):
        verdict = "watch"
    return FeatureDrift(verdict, psi, js, ks, m)


def _shares(cdf: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.diff(np.concatenate([[0.0], cdf, [1.0]])).clip(0.0, 1.0)


def _psi(p: NDArray[np.float64], q: NDArray[np.float64], *, least: float) -> float:
    p, q = np.maximum(p, least), np.maximum(q, least)
    return float(np.sum((p - q) * np.log(p / q)))


def _js(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / middle), 0.0).sum() for x in (p, q)]
    return float(np.clip(sum(terms) / 2, 0.0, 1.0))
