"""Tensors against tensors: what encoder and decoder do alike, step by step.

Both walk the same tensors in the same order and meet the same contexts; at each step a coder is
either given a block of tokens or gives it back. docs/delta-format.md tells the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.geometry import Element, Geometry, Unsigned
from skerry.updater.delta.tables import BINS, LEVELS, LOWEST_LEVEL
from skerry.updater.delta.tokens import FIRST_LARGE, RAW_BITS, split, value_of, with_raw

__all__ = ["Coder", "Expectation", "code_tensors", "scaled"]

_Integers = NDArray[np.int64]

_BLOCK = 1 << 16
_SIDE_BLOCK = 256
_ROWS, _COLUMNS, _RATIOS, _RELATIVE = 1, 2, 4, 8
_UNKNOWN = BINS - 1
_BIN_STARTS = (2, 6, 11, 19, 31, 51)
_BIN = np.searchsorted(_BIN_STARTS, np.arange(512), "right").astype(np.int64)
_NEAR_BITS = 20
_NEAR = np.array(  # 8 · 2^(_NEAR_BITS − level / 2), rounded
    [(isqrt(1 << 108 - (level + LOWEST_LEVEL)) >> 30) + 1 >> 1 for level in range(LEVELS)],
    np.int64,
)
_MOST_NEAR = 1 << 28
_MOST_LEVEL = 4096
_START_LEVEL = {
    Element.INT8: 0,
    Element.INT16: 0,
    Element.INT32: 20,
    Element.FLOAT16: 30,
    Element.BFLOAT16: 240,
    Element.FLOAT32: 260,
}


class Coder(Protocol):
    """One direction: `Encoder` takes what is given, `Decoder` finds it."""

    def tokens(
        self, contexts: _Integers, given: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """One token for each context."""

    def raw(self, widths: _Integers, given: _Integers | None = None) -> _Integers:
        """One integer for each width in bits."""


@dataclass(frozen=True)
class Expectation:
    """How large the differences of one tensor are expected to be, in half octaves.

    Attributes:
        level: of the whole tensor.
        rows, columns: what each row and column adds to it.
        ratios: for each row, what the old elements are multiplied by before they are subtracted,
            as 1 + ratio / 2^ratio_bits of the element. Only where that is not 0.
        relative: whether the differences of floats go with the floats themselves; they are else
            expected to be as large whatever the float.
    """

    level: int
    rows: _Integers | None = None
    columns: _Integers | None = None
    ratios: _Integers | None = None
    relative: bool = False

    @property
    def mode(self) -> int:
        """Which of these there are, as bits."""
        parts = ((self.rows, _ROWS), (self.columns, _COLUMNS), (self.ratios, _RATIOS))
        bits = sum(flag for part, flag in parts if part is not None)
        return bits + (_RELATIVE if self.relative else 0)


def code_tensors(
    coder: Coder,
    geometries: Sequence[Geometry],
    old: Callable[[int], bytes],
    given: Sequence[tuple[Expectation, Unsigned]] | None = None,
) -> Iterator[bytes]:
    """Code every tensor, and yield each as it lies in the new file.

    Args:
        coder: an `Encoder`, or a `Decoder`.
        geometries: of the tensors, in order.
        old: i → the old bytes of tensor i.
        given: for an `Encoder`: what to expect, and the new elements [planes, rows, columns].
    """
    expectations = _code_expectations(
        coder, geometries, None if given is None else [expected for expected, _ in given]
    )
    for i, geometry in enumerate(geometries):
        base = geometry.canonical(old(i))
        yield geometry.laid_out(
            _code_tensor(
                coder, geometry, expectations[i], base, None if given is None else given[i][1]
            )
        )


def _code_expectations(
    coder: Coder, geometries: Sequence[Geometry], given: Sequence[Expectation] | None
) -> list[Expectation]:
    """First the modes of all tensors, then all levels, rows, columns and ratios."""
    count = len(geometries)
    modes = _side(coder, 0, count, None if given is None else [e.mode for e in given])
    levels = _code_levels(coder, geometries, None if given is None else [e.level for e in given])
    if ((modes < 0) | (modes > 15)).any():
        raise BundleError("a tensor's mode is beyond its range")

    def parts(which: int, flag: int, size: Callable[[Geometry], int]) -> list[_Integers | None]:
        sizes = [size(g) if mode & flag else 0 for g, mode in zip(geometries, modes, strict=True)]
        joined = None
        if given is not None:
            chosen = [(e.rows, e.columns, e.ratios)[which - 2] for e in given]
            joined = np.concatenate([np.zeros(0, np.int64), *(c for c in chosen if c is not None)])
        values = _side(coder, which, sum(sizes), joined)
        cuts = np.split(values, np.cumsum(sizes)[:-1])
        return [cut if n else None for cut, n in zip(cuts, sizes, strict=True)]

    rows = parts(2, _ROWS, lambda g: g.sizes[2])
    columns = parts(3, _COLUMNS, lambda g: g.sizes[3])
    ratios = parts(4, _RATIOS, lambda g: g.sizes[2])
    return [
        Expectation(levels[i], rows[i], columns[i], ratios[i], bool(modes[i] & _RELATIVE))
        for i in range(count)
    ]


def _code_levels(
    coder: Coder, geometries: Sequence[Geometry], given: Sequence[int] | None
) -> list[int]:
    """Each tensor's level as its difference from the last one of the same element type."""
    before = [
        next((j for j in range(i - 1, -1, -1) if geometries[j].element is g.element), None)
        for i, g in enumerate(geometries)
    ]
    steps = None
    if given is not None:
        steps = [
            level - (_START_LEVEL[g.element] if last is None else given[last])
            for level, last, g in zip(given, before, geometries, strict=True)
        ]
    levels: list[int] = []
    found = _side(coder, 1, len(geometries), steps)
    for step, last, geometry in zip(found.tolist(), before, geometries, strict=True):
        levels.append(step + (_START_LEVEL[geometry.element] if last is None else levels[last]))
    if any(abs(level) > _MOST_LEVEL for level in levels):
        raise BundleError("a tensor's level is beyond its range")
    return levels


def _side(
    coder: Coder, which: int, count: int, given: Sequence[int] | _Integers | None
) -> _Integers:
    """Integers beside the tensors, each kind in a context of its own."""
    values = None if given is None else np.asarray(given, np.int64)
    context = (LEVELS + which) * BINS
    found = [np.zeros(0, np.int64)]
    for begin in range(0, count, _SIDE_BLOCK):
        end = min(begin + _SIDE_BLOCK, count)
        part = None if values is None else values[begin:end]
        found.append(_values(coder, np.full(end - begin, context), None, part))
    return np.concatenate(found)


def _values(
    coder: Coder, contexts: _Integers, flipped: NDArray[np.bool_] | None, given: _Integers | None
) -> _Integers:
    """One signed integer for each context; where `flipped`, its negative is what is coded."""
    tokens = raw = None
    if given is not None:
        tokens, raw = split(given if flipped is None else np.where(flipped, -given, given))
    tokens = coder.tokens(contexts, tokens)
    found = value_of(tokens)
    large = (tokens >= FIRST_LARGE).nonzero()[0]
    if len(large):
        widths = RAW_BITS[tokens[large]]
        bits = coder.raw(widths, None if raw is None else raw[large])
        found[large] = with_raw(tokens[large], bits)
    return found if flipped is None else np.where(flipped, -found, found)


def scaled(element: Element, old: Unsigned, ratios: _Integers) -> tuple[Unsigned, _Integers | None]:
    """Rows times their ratios: the nearest elements as ordered integers, and what is left.

    Args:
        element: the elements' type.
        old: [rows, columns].
        ratios: [rows].

    Returns:
        The products, and for INT8 how far each lies below the exact one, in 2^−ratio_bits.
    """
    bits = element.ratio_bits
    if element is Element.INT8:
        exact = old.view(np.int8).astype(np.int64) * ((1 << bits) + ratios[:, None])
        near = (exact + (1 << bits - 1)) >> bits
        return np.clip(near, -128, 127).astype(np.uint8), exact - (near << bits)
    form = np.dtype(f"<f{element.bytes}")
    with np.errstate(all="ignore"):
        factors = 1 + ratios[:, None] / (1 << bits)
        product = (old.view(form).astype(np.float64) * factors).astype(form)
    finite = np.isfinite(product) & np.isfinite(old.view(form))
    return element.ordered(np.where(finite, product.view(element.dtype), old)), None


def _code_tensor(
    coder: Coder,
    geometry: Geometry,
    expected: Expectation,
    base: Unsigned,
    given: Unsigned | None,
) -> Unsigned:
    """The new elements [planes, rows, columns], plane after plane, in blocks of whole rows."""
    element, width = geometry.element, geometry.sizes[1]
    planes, rows, columns = base.shape
    made = np.empty_like(base)
    near = np.zeros(base.shape if planes > 1 else (0, rows, columns), np.int8)
    step = max(1, _BLOCK // columns)
    for plane in range(planes):
        for top in range(0, rows, step):
            part = slice(top, min(top + step, rows))
            old = base[plane, part]
            levels = _levels(element, expected, old, part)
            reference, pull = _prediction(element, expected, old, part, levels)
            for beside in (plane - 1,) * bool(plane % width) + (plane - width,) * (plane >= width):
                pull = near[beside, part].astype(np.int64) + (0 if pull is None else pull)
            contexts, flipped = _contexts(levels, pull)
            values = None
            if given is not None:
                new = element.ordered(given[plane, part])
                values = element.differences(new, reference).ravel()
            found = _values(coder, contexts, flipped, values).reshape(old.shape)
            made[plane, part] = element.patterns(reference + found.astype(element.dtype))
            if planes > 1:
                small = np.clip(found, -_MOST_NEAR, _MOST_NEAR)
                near[plane, part] = np.clip(small * _NEAR[levels] >> _NEAR_BITS, -127, 127)
    return made


def _levels(element: Element, expected: Expectation, old: Unsigned, part: slice) -> _Integers:
    """The index of each element's level."""
    level = np.full(old.shape, expected.level - LOWEST_LEVEL, np.int64)
    if expected.rows is not None:
        level += expected.rows[part, None]
    if expected.columns is not None:
        level += expected.columns
    if not expected.relative:
        level -= element.lifts(old)
    return np.clip(level, 0, LEVELS - 1)


def _prediction(
    element: Element, expected: Expectation, old: Unsigned, part: slice, levels: _Integers
) -> tuple[Unsigned, _Integers | None]:
    """What is subtracted from the new elements, and how far they are likely to lie from it."""
    if expected.ratios is None or not element.ratio_bits:
        return element.ordered(old), None
    reference, rest = scaled(element, old, expected.ratios[part])
    if rest is None:
        return reference, None
    return reference, rest * _NEAR[levels] >> _NEAR_BITS + element.ratio_bits


def _contexts(
    levels: _Integers, pull: _Integers | None
) -> tuple[_Integers, NDArray[np.bool_] | None]:
    """The context of each element, and where its sign is turned so that the pull is upward."""
    contexts = levels * BINS
    if pull is None:
        return (contexts + _UNKNOWN).ravel(), None
    contexts += _BIN[np.minimum(np.abs(pull), len(_BIN) - 1)]
    return contexts.ravel(), (pull < 0).ravel()
