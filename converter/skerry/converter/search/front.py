"""The Pareto front, the best of it, and which budget binds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from skerry.converter.search.budget import Budget, Merit, violation

__all__ = ["Verdict", "dominates", "front", "layers", "promoted", "verdict"]


def _costs(merit: Merit) -> tuple[float, float, float]:
    return (merit.bytes, merit.latency_ms, -merit.metric)


def dominates(one: Merit, other: Merit) -> bool:
    """Whether one is at least as good in bytes, latency and metric, and better in one of them."""
    pairs = list(zip(_costs(one), _costs(other), strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def layers(merits: Mapping[int, Merit]) -> list[list[int]]:
    """Trial numbers in layers: those that none dominates, those that only they dominate, …"""
    left, found = dict(merits), []
    while left:
        best = [
            number
            for number, merit in sorted(left.items())
            if not any(dominates(other, merit) for other in left.values())
        ]
        found.append(best)
        left = {number: merit for number, merit in left.items() if number not in best}
    return found


def front(merits: Mapping[int, Merit]) -> tuple[int, ...]:
    """The trials that none dominates, in order of their bytes; of equals, the first."""
    kept: dict[tuple[float, ...], int] = {}
    for number in layers(merits)[0] if merits else ():
        kept.setdefault(_costs(merits[number]), number)
    return tuple(sorted(kept.values(), key=lambda number: (_costs(merits[number]), number)))


def promoted(
    wave: Sequence[int], seen: Mapping[int, Merit], budgets: Sequence[Budget], keep: float
) -> tuple[int, ...]:
    """Which trials of a wave go on to the next rung: successive halving over all seen so far.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning" (ASHA), 2020; here wave by
    wave, so that what goes on does not depend on which worker was first. The front goes before
    what it dominates, and in one layer what is nearer to the budgets goes first.

    Args:
        wave: the trials to choose from, at least one of which goes on.
        seen: merits of all trials at this rung, the wave's among them.
        keep: the share of all that goes on, 0 to 1.
    """
    ranked = [
        number
        for layer in layers(seen)
        for number in sorted(
            layer, key=lambda one: (violation(budgets, seen[one]), -seen[one].metric, one)
        )
    ]
    within = set(ranked[: max(1, round(keep * len(ranked)))])
    chosen = tuple(number for number in wave if number in within)
    return chosen or tuple(number for number in ranked if number in wave)[:1]


class Verdict(msgspec.Struct, frozen=True):
    """What a search came to.

    Attributes:
        best: the trial that is recommended: of those within every budget the most accurate, then
            the smallest, then the fastest; where none is, the one that is nearest.
        met: whether it is within every budget.
        binding: budgets that stand in the way: of a more accurate candidate, or of any at all.
        unmet: budgets that no candidate meets, each by itself.
    """

    best: int
    met: bool
    binding: tuple[str, ...]
    unmet: tuple[str, ...]


def verdict(merits: Mapping[int, Merit], budgets: Sequence[Budget]) -> Verdict:
    """The best of the candidates, and which budget binds.

    Args:
        merits: of finished trials; at least one.
    """

    def order(number: int) -> tuple[float, ...]:
        bytes_, latency, metric = _costs(merits[number])
        return (round(violation(budgets, merits[number]), 9), metric, bytes_, latency, number)

    best = min(merits, key=order)
    met = violation(budgets, merits[best]) == 0
    better = [one for one in merits.values() if one.metric > merits[best].metric]
    binding = tuple(
        budget.text
        for budget in budgets
        if (not met and budget.excess(merits[best]) > 0)
        or (met and any(budget.excess(one) > 0 for one in better))
    )
    unmet = tuple(
        budget.text for budget in budgets if all(budget.excess(one) > 0 for one in merits.values())
    )
    return Verdict(best, met, binding, unmet)
