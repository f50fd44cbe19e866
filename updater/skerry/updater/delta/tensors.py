"""Tensors against tensors: what encoder and decoder do alike, step by step.

Both walk the same tensors in the same order and meet the same contexts; at each step a coder is
either given a block of tokens or gives it back. docs/delta-format.md tells the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.cells import cell_of, code_places, near_zero, units
from skerry.updater.delta.geometry import Element, Geometry, Unsigned
from skerry.updater.delta.sides import Expectation, code_expectations
from skerry.updater.delta.tables import BINS, LEVELS, LOWEST_LEVEL
from skerry.updater.delta.values import Coder, code_values

__all__ = ["Guide", "code_tensors", "referred"]

_Integers = NDArray[np.int32]
Guide = tuple[Unsigned, Unsigned]
"""The old and the new elements of a tensor that another one follows."""

_BLOCK = 1 << 16
_UNKNOWN = BINS - 1
_BIN_STARTS = (2, 6, 11, 19, 31, 51)
_BIN = np.searchsorted(_BIN_STARTS, np.arange(512), "right")
_NEAR_BITS = 20
_NEAR = np.array(  # 8 · 2^(_NEAR_BITS − level / 2), rounded
    [(isqrt(1 << 108 - (level + LOWEST_LEVEL)) >> 30) + 1 >> 1 for level in range(LEVELS)],
    np.int64,
)
_NEAR_AS_FLOATS = _NEAR / (1 << _NEAR_BITS)
_EXACT = 128


def _near(index: _Integers, values: _Integers) -> NDArray[np.int8]:
    """How far off values lie, in eighths of what is expected of them, rounded down.

    A binary64 holds every product exactly that is not confined.
    """
    far = values * _NEAR_AS_FLOATS.take(index.astype(np.intp))
    np.floor(far, out=far)
    np.clip(far, -127, 127, out=far)
    confined: NDArray[np.int8] = far.astype(np.int8)
    return confined


def _scale(index: _Integers) -> NDArray[np.int64]:
    return _NEAR.take(index.astype(np.intp))


_SMALL_NEAR = np.stack(
    [
        _near(np.arange(LEVELS, dtype=np.int32), np.full(LEVELS, value, np.int32))
        for value in range(-_EXACT, _EXACT + 1)
    ],
    1,
)


def code_tensors(
    coder: Coder,
    geometries: Sequence[Geometry],
    old: Callable[[int], bytes],
    given: Sequence[tuple[Expectation, Unsigned]] | None = None,
) -> Iterator[tuple[int, Unsigned]]:
    """Code every tensor, those without a guide first, and yield each one.

    Args:
        coder: an `Encoder`, or a `Decoder`.
        geometries: of the tensors, in order.
        old: i → the old bytes of tensor i.
        given: for an `Encoder`: what to expect, and the new elements [planes, rows, columns].

    Yields:
        The number of a tensor, and its new elements [planes, rows, columns].
    """
    expectations = code_expectations(
        coder, geometries, None if given is None else [expected for expected, _ in given]
    )
    leading = {i - e.guide for i, e in enumerate(expectations) if e.guide}
    guides: dict[int, Guide] = {}
    for i in sorted(range(len(geometries)), key=lambda i: expectations[i].guide != 0):
        expected, base = expectations[i], geometries[i].canonical(old(i))
        now = None if given is None else given[i][1]
        guide = guides[i - expected.guide] if expected.guide else None
        made = _code_tensor(coder, geometries[i], expected, base, guide, now)
        if i in leading:
            guides[i] = base, made
        yield i, made


def referred(
    element: Element, old: Unsigned, ratios: _Integers | None, guide: Guide | None
) -> tuple[Unsigned, NDArray[np.int64] | None]:
    """What the new elements are expected to be.

    Args:
        element: the elements' type.
        old: [rows, columns].
        ratios: [rows], or none.
        guide: what the elements follow, or none; the same shape.

    Returns:
        Ordered integers, and for INT8 with ratios how far each lies below the exact product, in
        2^−ratio_bits.
    """
    bits = element.ratio_bits
    if guide is None and (ratios is None or not bits):
        return element.ordered(old), None
    if element is Element.INT8:
        assert ratios is not None
        exact = old.view(np.int8).astype(np.int64) * (
            (1 << bits) + ratios[:, None].astype(np.int64)
        )
        near = (exact + (1 << bits - 1)) >> bits
        return np.clip(near, -128, 127).astype(np.uint8), exact - (near << bits)
    form = np.dtype(f"<f{element.bytes}")
    with np.errstate(all="ignore"):
        product = old.view(form).astype(np.float64)
        if guide is not None:
            was, now = (elements.view(form).astype(np.float64) for elements in guide)
            product *= now / was
        if ratios is not None:
            product *= 1 + ratios[:, None] / (1 << bits)
        rounded = product.astype(form)
    finite = np.isfinite(rounded) & np.isfinite(old.view(form))
    return element.ordered(np.where(finite, rounded.view(element.dtype), old)), None


@dataclass(frozen=True, slots=True)
class _Block:
    """Some rows of a plane: what encoder and decoder know of them.

    Attributes:
        old: the old elements.
        reference: what the new ones are expected to be, as ordered integers.
        rest: how far the references of INT8 lie below the exact ones.
        levels: how large the differences are expected to be.
        beside: where the neighbours in earlier planes lie, if there are any.
        given: for an `Encoder`: the new elements.
    """

    old: Unsigned
    reference: Unsigned
    rest: NDArray[np.int64] | None
    levels: _Integers
    beside: _Integers | None
    given: Unsigned | None


def _code_tensor(
    coder: Coder,
    geometry: Geometry,
    expected: Expectation,
    base: Unsigned,
    guide: Guide | None,
    given: Unsigned | None,
) -> Unsigned:
    """The new elements [planes, rows, columns], plane after plane, in blocks of whole rows."""
    element, width = geometry.element, geometry.sizes[1]
    planes, rows, columns = base.shape
    made = np.empty_like(base) if given is None else given
    near = np.zeros(base.shape if planes > 1 else (0, rows, columns), np.int8)
    step = max(1, _BLOCK // columns)
    for plane in range(planes):
        beside = [plane - 1] * bool(plane % width) + [plane - width] * (plane >= width)
        for top in range(0, rows, step):
            part = slice(top, min(top + step, rows))
            old = base[plane, part]
            ratios = None if expected.ratios is None else expected.ratios[part]
            follow = None if guide is None else (guide[0][plane, part], guide[1][plane, part])
            block = _Block(
                old,
                *referred(element, old, ratios, follow),
                _levels(expected, old.shape, part),
                _sum([near[other, part] for other in beside]),
                None if given is None else given[plane, part],
            )
            code = _code_cells if expected.cells else _code_differences
            elements, found, index = code(coder, element, expected, block)
            if given is None:
                made[plane, part] = elements
            if plane + 1 < planes:
                near[plane, part] = _nearness(index, found)
    return made


def _nearness(index: _Integers, found: _Integers) -> NDArray[np.int8]:
    """`_near`, by a table for small values."""
    start = index * (2 * _EXACT + 1)
    start += _EXACT
    if int(found.min()) >= -_EXACT and int(found.max()) <= _EXACT:
        start += found
        return _SMALL_NEAR.take(start.astype(np.intp))
    key = np.clip(found, -_EXACT, _EXACT)
    large = key != found
    count = int(np.count_nonzero(large))
    if 2 * count > found.size:
        return _near(index, found)
    start += key
    near = _SMALL_NEAR.take(start.astype(np.intp))
    if count:
        at = large.nonzero()
        near[at] = _near(index[at], found[at])
    return near


def _levels(expected: Expectation, shape: tuple[int, ...], part: slice) -> _Integers:
    """How large each difference is expected to be, in half octaves."""
    levels = np.full(shape, expected.level, np.int32)
    if expected.rows is not None:
        levels += expected.rows[part, None]
    if expected.columns is not None:
        levels += expected.columns
    return levels


def _code_differences(
    coder: Coder, element: Element, expected: Expectation, block: _Block
) -> tuple[Unsigned, _Integers, _Integers]:
    """The new elements, by how much they differ from their references; these, and their levels."""
    index = block.levels - LOWEST_LEVEL
    if not expected.relative and element.mantissa_bits:
        index -= element.lifts(block.old)
    np.clip(index, 0, LEVELS - 1, out=index)
    pull = block.beside
    if block.rest is not None:
        rest = block.rest * _scale(index) >> _NEAR_BITS + element.ratio_bits
        pull = rest.astype(np.int32) if pull is None else pull + rest.astype(np.int32)
    values = None
    if block.given is not None:
        values = element.differences(element.ordered(block.given), block.reference).ravel()
    found = code_values(coder, *_contexts(index, pull), values).reshape(index.shape)
    if block.given is not None:
        return block.given, found, index
    made = element.patterns(block.reference + found.astype(element.dtype))
    return made, found, index


def _code_cells(
    coder: Coder, element: Element, _: Expectation, block: _Block
) -> tuple[Unsigned, _Integers, _Integers]:
    """The new floats, by how many cells they lie from their references and by their places there.

    Floats whose references lie next to zero are told as differences all the same.
    """
    unit = units(block.levels)
    bits = element.patterns(block.reference)
    start = cell_of(bits, unit)
    close = near_zero(start)
    index = np.where(close, block.levels - element.lifts(block.old), block.levels - 2 - 2 * unit)
    index = np.clip(index - LOWEST_LEVEL, 0, LEVELS - 1)
    values = None
    if block.given is not None:
        plain = element.differences(element.ordered(block.given), block.reference)
        values = np.where(close, plain, cell_of(block.given, unit) - start).ravel()
    found = code_values(coder, *_contexts(index, block.beside), values).reshape(index.shape)
    cell = np.where(close, start, start + found)
    made = code_places(coder, cell, unit, close, block.given)
    if block.given is not None:
        return block.given, found, index
    plain_made = element.patterns(block.reference + found.astype(element.dtype))
    return np.where(close, plain_made, made), found, index


def _sum(parts: Sequence[NDArray[np.int8]]) -> _Integers | None:
    total: _Integers | None = None
    for part in parts:
        total = part.astype(np.int32) if total is None else total + part
    return total


def _contexts(
    index: _Integers, pull: _Integers | None
) -> tuple[NDArray[np.int64], _Integers | None]:
    """The context of each element, and −1 where its sign is turned so that the pull is upward."""
    contexts = index.ravel().astype(np.int64)
    contexts *= BINS
    if pull is None:
        contexts += _UNKNOWN
        return contexts, None
    pull = pull.ravel()
    contexts += _BIN.take(np.abs(pull).astype(np.intp), mode="clip")
    return contexts, pull >> 31
