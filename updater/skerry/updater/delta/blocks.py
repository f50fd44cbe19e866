"""Some rows of a plane, by differences or by cells: what encoder and decoder do alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.cells import Cells, near_zero
from skerry.updater.delta.geometry import Element, Unsigned
from skerry.updater.delta.pulls import REST_BITS, contexts, contexts_of_rests, pull_of
from skerry.updater.delta.sides import SIDE_BLOCK, Expectation
from skerry.updater.delta.tables import LEVELS, LOWEST_LEVEL
from skerry.updater.delta.values import Coder, code_values

__all__ = ["BLOCK", "Block", "Coded", "code_cells", "code_differences"]

BLOCK = 1 << 16
_MOVED_BITS = 4
_HALF = 1 << REST_BITS - 1
_MOST_CELLS, _MOST_WIDE, _MOST_MOVED = 1 << 11, 15, (1 << 15) - 1

_Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a plane: what encoder and decoder know of them.

    Attributes:
        old: the old elements.
        reference: what the new ones are expected to be, as ordered integers.
        rest: how far the references of INT8 lie below the exact ones, in 2^−REST_BITS.
        levels: how large the differences are expected to be, but for what the plane adds to it.
        added: that.
        cells: how the line of numbers is cut, of what is told as cells.
        beside: where the neighbours in earlier planes lie, if there are any.
        ahead: how far the new elements are predicted to lie from their references, in
            2^−REST_BITS, in a tensor that is predicted.
        given: for an `Encoder`: the new elements.
    """

    old: Unsigned
    reference: Unsigned
    rest: _Integers | None
    levels: _Integers
    added: int
    cells: Cells | None
    beside: _Integers | None
    ahead: _Integers | None
    given: Unsigned | None


@dataclass(frozen=True, slots=True)
class Coded:
    """What was coded of a block.

    Attributes:
        made: the new elements.
        values: the coded ones.
        index: the level index of each.
        moved: how far the new elements lie from their references, in 2^−4, where it was predicted.
    """

    made: Unsigned
    values: _Integers
    index: _Integers
    moved: _Integers | None


def code_differences(coder: Coder, element: Element, expected: Expectation, block: Block) -> Coded:
    """The new elements, by how much they differ from what is expected of them."""
    index = block.levels + (block.added - LOWEST_LEVEL)
    if not expected.relative and element.mantissa_bits:
        index -= element.lifts(block.old)
    np.clip(index, 0, LEVELS - 1, out=index)
    ahead, rest = None, block.rest
    if block.ahead is not None:
        exact = block.ahead if rest is None else block.ahead + rest
        ahead = exact + _HALF >> REST_BITS
        rest = exact - (ahead << REST_BITS)
    if rest is None:
        where = contexts(index, block.beside)
    elif block.beside is None:
        where = contexts_of_rests(index, rest)
    else:
        where = contexts(index, block.beside + pull_of(rest, index))
    values = None
    if block.given is not None:
        values = element.differences(element.ordered(block.given), block.reference)
        values = (values if ahead is None else values - ahead).ravel()
    found = code_values(coder, *where, values).reshape(index.shape)
    total = found if ahead is None else found + ahead
    made = block.given
    if made is None:
        made = element.patterns(block.reference + total.astype(element.dtype))
    if ahead is None:
        return Coded(made, found, index, None)
    moved = total << _MOVED_BITS
    if block.rest is not None:
        moved -= block.rest >> REST_BITS - _MOVED_BITS
    return Coded(made, found, index, moved)


def code_cells(coder: Coder, element: Element, expected: Expectation, block: Block) -> Coded:
    """The new floats, by how many cells they lie from what is expected and by their places there.

    Floats whose references lie next to zero are told as differences all the same.
    """
    cells = block.cells
    assert cells is not None
    at = cells.locate(element.patterns(block.reference))
    if expected.first_cells:
        apart, together, width = near_zero(at.cell), SIDE_BLOCK, cells.unit
        index = np.where(
            apart, block.levels - element.lifts(block.old), block.levels - 2 - 2 * width
        )
        index -= LOWEST_LEVEL
        few = np.flatnonzero(apart)
    else:
        apart, together, width = at.tiny, BLOCK, np.maximum(at.exponent, cells.unit)
        few = np.flatnonzero(apart)
        width.ravel()[few] = at.exponent.ravel()[few]
        index = block.levels + (block.added - 2 - LOWEST_LEVEL)
        index -= width
        index -= width
    np.clip(index, 0, LEVELS - 1, out=index)
    start = at.cell
    if block.ahead is not None:
        wide = np.clip(width - cells.unit, 0, _MOST_WIDE)
        wide = wide if wide.any() else wide[:1, :1]
        ahead = block.ahead + (_HALF << wide) >> REST_BITS + wide
        ahead.ravel()[few] = 0
        start = start + ahead
    values = None
    if block.given is not None:
        values = (cells.locate(block.given).cell - start).ravel()
        given, reference = block.given.ravel()[few], block.reference.ravel()[few]
        values[few] = element.differences(element.ordered(given), reference)
    found = code_values(coder, *contexts(index, block.beside), values).reshape(index.shape)
    cell = start + found
    cell.ravel()[few] = at.cell.ravel()[few]
    made = cells.code_places(coder, cell, few, block.given, together)
    if block.given is None:
        plain = block.reference.ravel()[few] + found.ravel()[few].astype(element.dtype)
        made.ravel()[few] = element.patterns(plain)
    if block.ahead is None:
        return Coded(made, found, index, None)
    moved = np.clip(cell - at.cell, -_MOST_CELLS, _MOST_CELLS) << _MOVED_BITS + wide
    return Coded(made, found, index, np.clip(moved, -_MOST_MOVED, _MOST_MOVED))
