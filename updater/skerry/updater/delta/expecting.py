"""Choose, for each tensor, what differences its coder should expect: the analysis of an encoder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.geometry import Element, Geometry, Unsigned
from skerry.updater.delta.rans import Encoder
from skerry.updater.delta.sides import Expectation
from skerry.updater.delta.tables import LEVELS, LOWEST_LEVEL, expected
from skerry.updater.delta.tensors import Guide, code_tensors, referred
from skerry.updater.delta.tokens import RAW_BITS, split

__all__ = ["Change", "expectations"]

_SIDE_BITS = 2.0
_LEAST_ROW = 16
_RATIO_COST = 7.0
_GUIDE_COST, _GUIDE_WORTH = 12.0, 0.8
_EVIDENCE = 3.0
_LEAST = 2.0**-9
_SMALL = 4096
_ENOUGH = 1 << 16
_GUIDED = (8, 1 << 14)
_CELLED = 1024
_LEAST_FLOAT = 2.0**-149

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Change:
    """A tensor in both files.

    Attributes:
        geometry: how it lies.
        old, new: its elements [planes, rows, columns].
    """

    geometry: Geometry
    old: Unsigned
    new: Unsigned

    @property
    def element(self) -> Element:
        """The elements' type."""
        return self.geometry.element


def expectations(changes: Sequence[Change]) -> list[Expectation]:
    """The expectations under which the tensors of a segment take the fewest bits."""
    plain = [_best(change, None) for change in changes]
    found = [expected for expected, _ in plain]
    leads: set[int] = set()
    alike = defaultdict(list)
    for i, change in enumerate(changes):
        if change.element is Element.FLOAT32 and _GUIDED[0] <= change.new.size <= _GUIDED[1]:
            alike[change.geometry.sizes].append(i)
    for group in alike.values():
        for i in group:
            others = [j for j in group if j != i and not found[j].guide]
            if i in leads or not others:
                continue
            at = min(others, key=lambda j: _unlikeness(changes[i], changes[j]))
            guided, cost = _best(changes[i], (changes[at].old, changes[at].new))
            if cost + _GUIDE_COST < _GUIDE_WORTH * plain[i][1]:
                found[i] = replace(guided, guide=i - at)
                leads.add(at)
    return found


def _unlikeness(change: Change, other: Change) -> float:
    """How far `change` is from following `other`."""
    reference = _reference(change, None, (other.old, other.new))
    values = _differences(change, reference)
    return float(np.log2(1.0 + np.abs(values - np.median(values))).sum())


def _best(change: Change, guide: Guide | None) -> tuple[Expectation, float]:
    """The best expectation of a tensor, and about how many bits it makes of it."""
    change = _sampled(change)
    element, old = change.element, change.old
    best, least = Expectation(0), np.inf
    celled: tuple[Expectation, float] | None = None
    for ratios in _ratios(change, guide):
        reference = _reference(change, ratios, guide)
        values = _differences(change, reference)
        rows = slice(None, None, -(-old.size // _ENOUGH) if len(old) == 1 else 1)
        tokens = split(values[:, rows].ravel())[0].reshape(values[:, rows].shape)
        for relative in (False, True) if element.mantissa_bits else (False,):
            lifts = np.zeros(old.shape, np.int32) if relative else element.lifts(old)
            top = int(lifts.max())
            size = np.abs(values.astype(np.float64)) * np.exp2((lifts - top) / 2)
            for plain, side in _candidates(size, top, ratios):
                for candidate in _around(plain, values.size):
                    cost = side + _cost(candidate, tokens, lifts[:, rows], rows)
                    if cost < least:
                        best, least = replace(candidate, relative=relative), cost
        if element is Element.FLOAT32 and old.size >= _CELLED and guide is None:
            celled = min(
                [*([celled] if celled else []), _as_cells(change, reference, ratios)],
                key=lambda pair: pair[1],
            )
    if celled is not None and _trial(change, celled[0]) < _trial(change, best):
        best = celled[0]
    return best, least


def _as_cells(
    change: Change, reference: Unsigned, ratios: _Integers | None
) -> tuple[Expectation, float]:
    """The best expectation of a tensor as cells, and a figure to compare it with another one."""
    with np.errstate(all="ignore"):
        was = change.element.patterns(reference).view(np.float32).astype(np.float64)
        size = np.abs(change.new.view(np.float32) - was) / _LEAST_FLOAT
    size = np.where(size < 1e300, size, 0.0)
    found = []
    for plain, side in _candidates(size, 2, ratios):
        means = np.exp2(_expected_levels(plain, size.shape) / 2)
        cost = side + float(np.log2(means).sum() + (size / means).sum() / np.log(2))
        found.append((replace(plain, cells=True), cost))
    return min(found, key=lambda pair: pair[1])


def _expected_levels(expected: Expectation, shape: tuple[int, ...]) -> _Floats:
    levels = np.full(shape, expected.level, np.float64)
    if expected.rows is not None:
        levels += expected.rows[:, None]
    if expected.columns is not None:
        levels += expected.columns
    return levels


def _trial(change: Change, expected: Expectation) -> float:
    """The bits that the coder really makes of a tensor, or of some of its rows."""
    every = -(-change.new.size // _ENOUGH)
    rows = slice(None, None, every)
    old, new = (np.ascontiguousarray(bits[:, rows]) for bits in (change.old, change.new))
    shape = Geometry(change.element, (1, *new.shape))
    parts = [None if part is None else part[rows] for part in (expected.rows, expected.ratios)]
    some, coder = replace(expected, rows=parts[0], ratios=parts[1]), Encoder()
    for _ in code_tensors(coder, [shape], lambda _: old.tobytes(), [(some, new)]):
        pass
    return coder.cost


def _sampled(change: Change) -> Change:
    """Some planes of a large tensor."""
    step = -(-change.new.size // _ENOUGH)
    if step == 1 or len(change.new) == 1:
        return change
    every = slice(None, None, min(step, len(change.new)))
    old, new = (np.ascontiguousarray(bits[every]) for bits in (change.old, change.new))
    return Change(change.geometry, old, new)


def _around(candidate: Expectation, size: int) -> Iterator[Expectation]:
    """The candidate, and others a little below and above it where that is cheap to try."""
    yield candidate
    if size <= _SMALL:
        for step in (-4, -3, -2, -1, 1, 2, 3, 4):
            yield replace(candidate, level=candidate.level + step)


def _reference(change: Change, ratios: _Integers | None, guide: Guide | None) -> Unsigned:
    planes = []
    for plane, old in enumerate(change.old):
        follow = None if guide is None else (guide[0][plane], guide[1][plane])
        planes.append(referred(change.element, old, ratios, follow)[0])
    return np.stack(planes)


def _differences(change: Change, reference: Unsigned) -> _Integers:
    return change.element.differences(change.element.ordered(change.new), reference)


def _ratios(change: Change, guide: Guide | None) -> Iterator[_Integers | None]:
    """No ratios, and those that fit each row best, where a row is long enough to tell."""
    yield None
    element, old, new = change.element, change.old, change.new
    one = 1 << element.ratio_bits
    if one == 1 or old.shape[0] * old.shape[2] < (_LEAST_ROW if guide is None else _GUIDED[0]):
        return
    before = _reference(change, None, guide)
    was, now = (_values(element, bits) for bits in (element.patterns(before), new))
    with np.errstate(all="ignore"):
        fit = (was * now).sum((0, 2)) / (was * was).sum((0, 2)) - 1
    fit = np.where(np.isfinite(fit), np.clip(fit, -0.5, 0.5), 0)
    ratios = np.rint(fit * one).astype(np.int32)
    without, within = (
        np.log2(1.0 + np.abs(_differences(change, reference).astype(np.float64))).sum((0, 2))
        for reference in (before, _reference(change, ratios, guide))
    )
    ratios[within > without - _RATIO_COST] = 0
    if ratios.any():
        yield ratios


def _values(element: Element, bits: Unsigned) -> _Floats:
    """The elements as numbers; what is not finite, or too large to be squared, as zero."""
    form = np.dtype(np.int8) if element is Element.INT8 else np.dtype(f"<f{element.bytes}")
    with np.errstate(all="ignore"):
        values = bits.view(form).astype(np.float64)
    return np.where(np.abs(values) < 1e100, values, 0.0)


def _candidates(
    size: _Floats, lift: int, ratios: _Integers | None
) -> Iterator[tuple[Expectation, float]]:
    """Expectations with and without rows and columns, and the bits these take themselves."""
    _, rows, columns = size.shape
    paid = 0.0
    if ratios is not None:
        paid = float(len(ratios) + 2 * np.log2(1 + np.abs(ratios)).sum())
    mean = max(float(size.mean()), _LEAST)
    level = int(_levels(np.array([mean]))[0])
    yield Expectation(level + lift, ratios=ratios), paid
    by_row = _shrunk(size.sum((0, 2)), np.full(rows, float(size.size // rows)), mean)
    added = _levels(by_row) - level
    if rows > 1 and size.size // rows > 1:
        yield Expectation(level + lift, rows=added, ratios=ratios), paid + _SIDE_BITS * rows
    if columns > 1 and rows > 1:
        over = (size / by_row[:, None]).sum((0, 1))
        ratio = _shrunk(over, np.full(columns, float(size.size // columns)), 1.0, 1 / mean)
        across = np.rint(2 * np.log2(ratio)).astype(np.int32)
        side = paid + _SIDE_BITS * (rows + columns)
        yield Expectation(level + lift, added, across, ratios), side
        plain = _shrunk(size.sum((0, 1)), np.full(columns, float(size.size // columns)), mean)
        alone = _levels(plain) - level
        yield Expectation(level + lift, None, alone, ratios), paid + _SIDE_BITS * columns


def _levels(mean: _Floats) -> _Integers:
    """The levels whose two-sided geometric distributions have these mean magnitudes."""
    scale = ((mean - 1) + np.sqrt(mean * mean + 1)) / 2
    levels: _Integers = np.rint(2 * np.log2(scale)).astype(np.int32)
    return levels


def _shrunk(total: _Floats, count: _Floats, mean: float, weight: float | None = None) -> _Floats:
    """Means drawn towards `mean` where there is little evidence."""
    pseudo = _EVIDENCE * max(1.0, 1 / mean if weight is None else weight)
    means: _Floats = np.maximum((total + pseudo * mean) / (count + pseudo), mean / 64)
    return means


@cache
def _costs() -> NDArray[np.float32]:
    """Bits of each token at each level, as first expected."""
    parts = expected() + 1e-3
    bits: NDArray[np.float32] = (16 - np.log2(parts) + RAW_BITS).astype(np.float32)
    return bits


def _cost(
    candidate: Expectation, tokens: NDArray[np.uint8], lifts: _Integers, rows: slice
) -> float:
    """About how many bits a tensor's tokens take, of which some rows are given."""
    levels = np.full(tokens.shape, candidate.level - LOWEST_LEVEL, np.int32) - lifts
    if candidate.rows is not None:
        levels += candidate.rows[rows, None]
    if candidate.columns is not None:
        levels += candidate.columns
    cost = float(_costs()[np.clip(levels, 0, LEVELS - 1), tokens].sum(dtype=np.float64))
    return cost * (rows.step or 1)
