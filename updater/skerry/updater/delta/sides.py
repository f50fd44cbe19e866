"""What goes beside the tensors: how large their differences are expected to be, and from what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.geometry import Element, Geometry
from skerry.updater.delta.prediction import MOST_COEFFICIENT, MOST_PLANES, neighbours
from skerry.updater.delta.tables import BINS, LEVELS
from skerry.updater.delta.values import Coder, code_values

__all__ = ["DEPTHS", "SIDE_BLOCK", "Expectation", "code_expectations", "code_side"]

_Integers = NDArray[np.int32]

SIDE_BLOCK = 256
_ROWS, _COLUMNS, _RATIOS, _RELATIVE, _FIRST_CELLS, _GUIDED, _CELLS, _PREDICTED = (
    1 << bit for bit in range(8)
)
_MODES, _LEVELS, _GUIDES, _PLANES, _COEFFICIENTS = 0, 1, 5, 7, 8
DEPTHS = 6
_MOST_MODE = 255
_MOST_LEVEL = 4096
_START_LEVEL = {
    Element.INT8: 0,
    Element.INT16: 0,
    Element.INT32: 20,
    Element.FLOAT16: 30,
    Element.BFLOAT16: 240,
    Element.FLOAT32: 260,
}


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
        cells: whether floats are told as cells.
        guide: how many tensors before this one (negative: after it) lies one that changed as this
            one does, element by element, and is not guided itself; 0 for none. Only of FLOAT32.
        planes: what each plane adds to the level, where planes are predicted from those before.
        coefficients: for each plane and each of its `neighbours`, in 2^−COEFFICIENT_BITS. Only of
            INT8 and cells, and only with `planes`.
        first_cells: whether the cells are told as version 2 told them at first. Nothing is written
            like that any more.
    """

    level: int
    rows: _Integers | None = None
    columns: _Integers | None = None
    ratios: _Integers | None = None
    relative: bool = False
    cells: bool = False
    guide: int = 0
    planes: _Integers | None = None
    coefficients: _Integers | None = None
    first_cells: bool = False

    @property
    def mode(self) -> int:
        """Which of these there are, as bits."""
        parts = (
            (self.rows is not None, _ROWS),
            (self.columns is not None, _COLUMNS),
            (self.ratios is not None, _RATIOS),
            (self.relative, _RELATIVE),
            (self.cells and self.first_cells, _FIRST_CELLS),
            (self.guide != 0, _GUIDED),
            (self.cells and not self.first_cells, _CELLS),
            (self.coefficients is not None, _PREDICTED),
        )
        return sum(flag for there, flag in parts if there)

    def of_rows(self, rows: slice) -> Expectation:
        """What is expected of some of the tensor's rows."""
        parts = [None if part is None else part[rows] for part in (self.rows, self.ratios)]
        return replace(self, rows=parts[0], ratios=parts[1])


def code_expectations(
    coder: Coder, geometries: Sequence[Geometry], given: Sequence[Expectation] | None
) -> list[Expectation]:
    """First the modes of all tensors, then all levels, rows, columns and so on.

    Raises:
        BundleError: a mode, level or guide is beyond its range.
    """
    count = len(geometries)
    modes = code_side(coder, _MODES, count, None if given is None else [e.mode for e in given])
    if ((modes < 0) | (modes > _MOST_MODE)).any():
        raise BundleError("a tensor's mode is beyond its range", remedy="update skerry")
    for mode, geometry in zip(modes.tolist(), geometries, strict=True):
        _check_mode(mode, geometry)
    levels = _code_levels(coder, geometries, None if given is None else [e.level for e in given])

    def parts(
        which: int,
        flag: int,
        size: Callable[[Geometry], int],
        of: Callable[[Expectation], _Integers | None],
    ) -> list[_Integers | None]:
        sizes = [size(g) if mode & flag else 0 for g, mode in zip(geometries, modes, strict=True)]
        joined = None
        if given is not None:
            there = (part for part in map(of, given) if part is not None)
            joined = np.concatenate([np.zeros(0, np.int32), *there])
        values = code_side(coder, which, sum(sizes), joined)
        cuts = np.split(values, np.cumsum(sizes)[:-1])
        return [cut if n else None for cut, n in zip(cuts, sizes, strict=True)]

    rows = parts(2, _ROWS, lambda g: g.sizes[2], lambda e: e.rows)
    columns = parts(3, _COLUMNS, lambda g: g.sizes[3], lambda e: e.columns)
    ratios = parts(4, _RATIOS, lambda g: g.sizes[2], lambda e: e.ratios)
    guides = parts(_GUIDES, _GUIDED, lambda _: 1, _guide)
    planes = parts(_PLANES, _PREDICTED, lambda g: g.planes, lambda e: e.planes)
    coefficients = parts(_COEFFICIENTS, _PREDICTED, _coefficients, lambda e: e.coefficients)
    found = [
        Expectation(
            levels[i],
            rows[i],
            columns[i],
            ratios[i],
            relative=bool(mode & _RELATIVE),
            cells=bool(mode & (_CELLS | _FIRST_CELLS)),
            guide=0 if guide is None else int(guide[0]),
            planes=planes[i],
            coefficients=coefficients[i],
            first_cells=bool(mode & _FIRST_CELLS),
        )
        for i, (mode, guide) in enumerate(zip(modes.tolist(), guides, strict=True))
    ]
    _check(geometries, found)
    return found


def _coefficients(geometry: Geometry) -> int:
    return sum(map(len, neighbours(*geometry.sizes[:2])))


def _guide(expected: Expectation) -> _Integers | None:
    return np.array([expected.guide], np.int32) if expected.guide else None


def _check_mode(mode: int, geometry: Geometry) -> None:
    """Raise unless a tensor can be told like this."""
    element = geometry.element
    celled = mode & (_CELLS | _FIRST_CELLS)
    wrong = (
        (mode & (_FIRST_CELLS | _GUIDED) and element is not Element.FLOAT32)
        or (celled and not element.mantissa_bits)
        or celled == _CELLS | _FIRST_CELLS
    )
    if mode & _PREDICTED:
        able = mode & _CELLS or element is Element.INT8
        wrong = wrong or not able or not 1 < geometry.planes <= MOST_PLANES
    if wrong:
        raise BundleError("a tensor's mode does not go with its type")


def _check(geometries: Sequence[Geometry], found: Sequence[Expectation]) -> None:
    """Raise unless each guide can be one, and no coefficient is beyond its range."""
    for i, expected in enumerate(found):
        if expected.guide:
            at = i - expected.guide
            if not 0 <= at < len(found) or found[at].guide:
                raise BundleError("a tensor's guide is none")
            if (geometries[at].element, geometries[at].sizes) != (
                geometries[i].element,
                geometries[i].sizes,
            ):
                raise BundleError("a tensor's guide has another shape")
        for part, most in (
            (expected.planes, _MOST_LEVEL),
            (expected.coefficients, MOST_COEFFICIENT),
        ):
            if part is not None and (np.abs(part) > most).any():
                raise BundleError("what predicts a tensor is beyond its range")


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
    found = code_side(coder, _LEVELS, len(geometries), steps)
    for step, last, geometry in zip(found.tolist(), before, geometries, strict=True):
        levels.append(step + (_START_LEVEL[geometry.element] if last is None else levels[last]))
    if any(abs(level) > _MOST_LEVEL for level in levels):
        raise BundleError("a tensor's level is beyond its range")
    return levels


def code_side(
    coder: Coder,
    which: int,
    count: int,
    given: Sequence[int] | _Integers | None,
    block: int = SIDE_BLOCK,
) -> _Integers:
    """Integers beside the tensors, each kind in a context of its own, so many at a time."""
    values = None if given is None else np.asarray(given, np.int32)
    context = (LEVELS + which) * BINS
    found = [np.zeros(0, np.int32)]
    for begin in range(0, count, block):
        end = min(begin + block, count)
        part = None if values is None else values[begin:end]
        found.append(code_values(coder, np.full(end - begin, context), None, part))
    return np.concatenate(found)
