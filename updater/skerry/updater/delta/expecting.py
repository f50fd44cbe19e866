"""Choose, for each tensor, what differences its coder should expect: the analysis of an encoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from skerry.updater.delta.changes import (
    ENOUGH,
    GUIDED,
    Change,
    differences,
    moved,
    ratios_of,
    reference_of,
    sampled,
    thinned,
)
from skerry.updater.delta.geometry import Element, Geometry
from skerry.updater.delta.predicting import predicted
from skerry.updater.delta.rans import Encoder
from skerry.updater.delta.shaping import LIFT, cheapest, cost, shapes
from skerry.updater.delta.sides import Expectation
from skerry.updater.delta.tensors import Guide, code_tensors
from skerry.updater.delta.tokens import split

__all__ = ["expectations"]

_GUIDE_COST, _GUIDE_WORTH = 12.0, 0.8
_SMALL = 4096
_CELLED = 1024


def expectations(changes: Sequence[Change]) -> list[Expectation]:
    """The expectations under which the tensors of a segment take the fewest bits."""
    plain = [_best(change, None) for change in changes]
    found = [expected for expected, _ in plain]
    leads: set[int] = set()
    alike = defaultdict(list)
    for i, change in enumerate(changes):
        if change.element is Element.FLOAT32 and GUIDED[0] <= change.new.size <= GUIDED[1]:
            alike[change.geometry.sizes].append(i)
    for group in alike.values():
        for i in group:
            others = [j for j in group if j != i and not found[j].guide]
            if i in leads or not others:
                continue
            at = min(others, key=lambda j: _unlikeness(changes[i], changes[j]))
            guided, bits = _best(changes[i], (changes[at].old, changes[at].new))
            if bits + _GUIDE_COST < _GUIDE_WORTH * plain[i][1]:
                found[i] = replace(guided, guide=i - at)
                leads.add(at)
    return found


def _unlikeness(change: Change, other: Change) -> float:
    """How far `change` is from following `other`."""
    values = differences(change, reference_of(change, None, (other.old, other.new)))
    return float(np.log2(1.0 + np.abs(values - np.median(values))).sum())


def _best(change: Change, guide: Guide | None) -> tuple[Expectation, float]:
    """The best expectation of a tensor, and about how many bits it makes of it."""
    celled = bool(change.element.mantissa_bits) and change.new.size >= _CELLED and guide is None
    plain, bits = _by_differences(change, guide, celled)
    other = _by_cells(change) if celled else plain
    if celled or (change.element is Element.INT8 and guide is None):
        other = predicted(change, other) or other
    if other is plain:
        return plain, bits
    tried = [(_trial(change, expected), expected) for expected in (plain, other)]
    bits, best = min(tried, key=lambda pair: pair[0])
    return best, bits


def _by_differences(change: Change, guide: Guide | None, celled: bool) -> tuple[Expectation, float]:
    """The best expectation of a tensor's differences, and about how many bits it makes of them.

    Args:
        change: the tensor.
        guide: what it follows.
        celled: whether it will be tried as cells, which does for floats that change by as much
            whatever they are.
    """
    change = sampled(change)
    element, old = change.element, change.old
    best, least = Expectation(0), np.inf
    rows = slice(None, None, -(-old.size // ENOUGH) if len(old) == 1 else 1)
    ways = (False, True) if element.mantissa_bits else (False,)
    for ratios in ratios_of(change, guide):
        values = differences(change, reference_of(change, ratios, guide))
        tokens = split(values[:, rows].ravel())[0].reshape(values[:, rows].shape)
        for relative in ways[celled:]:
            lifts = np.zeros(old.shape, np.int32) if relative else element.lifts(old)
            top = int(lifts.max())
            size = np.abs(values.astype(np.float64)) * np.exp2((lifts - top) / 2)
            for plain, side in shapes(size, top, ratios):
                for candidate in _around(plain, values.size):
                    bits = side + cost(candidate, tokens, lifts[:, rows], rows)
                    if bits < least:
                        best, least = replace(candidate, relative=relative), bits
    return best, least


def _by_cells(change: Change) -> Expectation:
    """The best expectation of a tensor as cells."""
    change = sampled(change)
    found = (
        cheapest(np.abs(moved(change, reference_of(change, ratios, None))), LIFT, ratios)
        for ratios in ratios_of(change, None)
    )
    return replace(min(found, key=lambda pair: pair[1])[0], cells=True)


def _trial(change: Change, expected: Expectation) -> float:
    """The bits that the coder really makes of a tensor, or of some of its rows."""
    part, rows = thinned(change)
    shape = Geometry(change.element, (*change.geometry.sizes[:2], *part.new.shape[1:]))
    coder, given = Encoder(), [(expected.of_rows(rows), part.new)]
    for _ in code_tensors(coder, [shape], lambda _: part.old.tobytes(), given):
        pass
    return coder.cost


def _around(candidate: Expectation, size: int) -> Iterator[Expectation]:
    """The candidate, and others a little below and above it where that is cheap to try."""
    yield candidate
    if size <= _SMALL:
        for step in (-4, -3, -2, -1, 1, 2, 3, 4):
            yield replace(candidate, level=candidate.level + step)
