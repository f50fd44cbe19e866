"""Tensors against tensors: what encoder and decoder do alike, step by step.

Both walk the same tensors in the same order and meet the same contexts; at each step a coder is
either given a block of tokens or gives it back. docs/delta-format.md tells the same in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.blocks import BLOCK, Block, code_cells, code_differences
from skerry.updater.delta.cells import Cells
from skerry.updater.delta.geometry import Element, Geometry, Unsigned
from skerry.updater.delta.prediction import Prediction
from skerry.updater.delta.pulls import nearness, sum_of
from skerry.updater.delta.sides import Expectation, code_expectations
from skerry.updater.delta.values import Coder

__all__ = ["Guide", "code_tensors", "referred"]

_KEPT = 1 << 19

_Integers = NDArray[np.int32]
Guide = tuple[Unsigned, Unsigned]
"""The old and the new elements of a tensor that another one follows."""


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
) -> tuple[Unsigned, _Integers | None]:
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
        return np.clip(near, -128, 127).astype(np.uint8), (exact - (near << bits)).astype(np.int32)
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
    prediction = None
    if expected.coefficients is not None:
        prediction = Prediction(geometry.sizes, expected.coefficients)
    code = code_cells if expected.cells else code_differences
    step = max(1, BLOCK // columns)
    parts = [slice(top, min(top + step, rows)) for top in range(0, rows, step)]
    frames = _Frames(element, expected, columns, keep=planes > 1 and rows * columns <= _KEPT)
    for plane in range(planes):
        beside = [plane - 1] * bool(plane % width) + [plane - width] * (plane >= width)
        for part in parts:
            levels, cells = frames.of(part)
            ratios = None if expected.ratios is None else expected.ratios[part]
            follow = None if guide is None else (guide[0][plane, part], guide[1][plane, part])
            block = Block(
                base[plane, part],
                *referred(element, base[plane, part], ratios, follow),
                levels,
                0 if expected.planes is None else int(expected.planes[plane]),
                cells,
                None if prediction else sum_of([near[other, part] for other in beside]),
                prediction.of(plane, part) if prediction else None,
                None if given is None else given[plane, part],
            )
            coded = code(coder, element, expected, block)
            if given is None:
                made[plane, part] = coded.made
            if prediction:
                assert coded.moved is not None
                prediction.keep(plane, part, coded.moved)
            elif plane + 1 < planes:
                near[plane, part] = nearness(coded.index, coded.values)
    return made


class _Frames:
    """How large each difference is expected to be, the same of each plane.

    Args:
        element, expected: of the tensor.
        columns: of each row.
        keep: whether to remember it from plane to plane.
    """

    def __init__(
        self, element: Element, expected: Expectation, columns: int, *, keep: bool
    ) -> None:
        self._element, self._expected, self._columns = element, expected, columns
        self._kept: dict[int, tuple[_Integers, Cells | None]] | None = {} if keep else None

    def of(self, part: slice) -> tuple[_Integers, Cells | None]:
        """The levels of some rows in half octaves, and the cells of what is told as cells."""
        if self._kept is not None and part.start in self._kept:
            return self._kept[part.start]
        expected = self._expected
        levels = np.full((part.stop - part.start, self._columns), expected.level, np.int32)
        if expected.rows is not None:
            levels += expected.rows[part, None]
        if expected.columns is not None:
            levels += expected.columns
        found = levels, Cells(self._element, levels) if expected.cells else None
        if self._kept is not None:
            self._kept[part.start] = found
        return found
