"""Floats as cells of equal width and where in its cell each one lies.

Close to zero floats lie close together: the difference of two bit patterns says little there, for
it jumps with every octave. A weight that was trained on moves by about as much whatever it was. So
the line of numbers is cut into cells 2^unit wide (in units of the least float); a cell that holds
one float or less is that float. The difference of two cells is small and has one distribution for
all weights; what is left, the place of the float in its cell, is as good as uniform.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.geometry import Unsigned
from skerry.updater.delta.sides import DEPTHS, code_side
from skerry.updater.delta.values import Coder

__all__ = ["cell_of", "code_places", "near_zero", "places", "units", "widths"]

_Integers = NDArray[np.int32]
_FRACTION, _SIGN = np.int32(23), np.int32(-(1 << 31))
_MOST_UNIT = 253
_LEVEL_OF_UNIT = 3
_NEAR_CELLS = 4


def units(levels: _Integers) -> _Integers:
    """The binary logarithm of each cell's width: an eighth to a quarter of what is expected.

    Args:
        levels: how large a difference is expected, in half octaves.
    """
    unit: _Integers = np.clip((levels >> 1) - _LEVEL_OF_UNIT, 0, _MOST_UNIT)
    return unit


def near_zero(cell: _Integers) -> NDArray[np.bool_]:
    """Which cells are one of the four on either side of zero."""
    found: NDArray[np.bool_] = (cell >= -_NEAR_CELLS) & (cell < _NEAR_CELLS)
    return found


def cell_of(bits: Unsigned, unit: _Integers) -> _Integers:
    """Each float's cell: 0 is the first one above zero, −1 the first one below."""
    pattern = bits.view(np.int32)
    negative = pattern >> 31
    pattern = pattern & ~_SIGN
    exponent = pattern >> _FRACTION
    np.maximum(exponent, 1, out=exponent)
    exponent -= 1
    shift = unit - exponent
    cell = np.where(shift > 0, exponent, unit)
    cell <<= _FRACTION
    np.subtract(pattern, cell, out=cell)
    np.clip(shift, 0, 31, out=shift)
    cell >>= shift
    cell ^= negative
    return cell


def widths(cell: _Integers, unit: _Integers) -> _Integers:
    """How many bits tell the floats of each cell apart, once its depth is known."""
    width = (_FRACTION + 1) - _bit_length(cell)
    np.minimum(width, unit, out=width)
    np.clip(width, 0, _FRACTION, out=width)
    return width


def places(bits: Unsigned, cell: _Integers, unit: _Integers) -> tuple[_Integers, _Integers]:
    """Where in its cell each float lies.

    Returns:
        For the cells next to zero how many octaves below the cell's end, else 0; and the bits that
        remain, as many as `widths` says.
    """
    pattern = bits.view(np.int32) & ~_SIGN
    depth = np.where(_deep(cell, unit), unit - _FRACTION - (pattern >> _FRACTION), 0)
    return depth, pattern & ((np.int32(1) << widths(cell, unit)) - np.int32(1))


def code_places(
    coder: Coder,
    cell: _Integers,
    unit: _Integers,
    apart: NDArray[np.bool_],
    given: Unsigned | None,
) -> Unsigned:
    """Code where in their cells the new floats lie, but for those `apart`.

    Args:
        coder: an `Encoder`, or a `Decoder`.
        cell: of the new floats.
        unit: of each cell.
        apart: which floats are not told like this; what stands for them means nothing.
        given: for an `Encoder`: the bit patterns of the new floats.

    Raises:
        BundleError: a cell or a depth lies beyond the range of floats.
    """
    depth, place = np.zeros_like(cell), None
    if given is not None:
        depth, place = places(given, cell, unit)
    deep = (_deep(cell, unit) & ~apart).nonzero()
    depth[deep] = code_side(coder, DEPTHS, len(deep[0]), None if given is None else depth[deep])
    width = np.where(apart, 0, widths(cell, unit)).ravel()
    found = coder.raw(width, None if place is None else np.where(apart, 0, place).ravel())
    if given is not None:
        return given
    return _float_in(cell, unit, np.where(apart, 0, depth), found.reshape(cell.shape))


def _float_in(cell: _Integers, unit: _Integers, depth: _Integers, place: _Integers) -> Unsigned:
    """The bit patterns of the floats at these places."""
    negative = cell >> 31
    positive = cell ^ negative
    shift = (_FRACTION + 1) - _bit_length(cell)
    np.minimum(shift, unit, out=shift)
    np.maximum(shift, 0, out=shift)
    exponent = unit - shift
    pattern = (positive << shift).view(np.uint32)
    pattern += exponent.view(np.uint32) << np.uint32(_FRACTION)
    deep = (positive == 0).nonzero()
    if len(deep[0]):
        octave = np.where(unit[deep] > _FRACTION, unit[deep] - _FRACTION - depth[deep], 0)
        if ((octave < 0) | (octave > _MOST_UNIT)).any():
            raise BundleError("a float lies deeper than its cell")
        pattern[deep] = octave.astype(np.uint32) << np.uint32(_FRACTION)
    pattern += place.view(np.uint32)
    if (pattern.view(np.int32) < 0).any():
        raise BundleError("a float lies beyond its type's range")
    pattern |= (negative & _SIGN).view(np.uint32)
    return pattern


def _deep(cell: _Integers, unit: _Integers) -> NDArray[np.bool_]:
    """Which cells lie next to zero and hold more than one octave."""
    found: NDArray[np.bool_] = ((cell == 0) | (cell == -1)) & (unit > _FRACTION)
    return found


def _bit_length(cell: _Integers) -> _Integers:
    """Of the distance from zero as far as 2^24; 0 for the cells next to it."""
    positive: _Integers = np.minimum(cell ^ (cell >> 31), 1 << 24).astype(np.float32).view(np.int32)
    positive >>= 23
    positive -= 126
    np.maximum(positive, 0, out=positive)
    return positive
