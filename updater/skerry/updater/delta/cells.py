"""Floats as cells of equal width and where in its cell each one lies.

Close to zero floats lie close together: the difference of two bit patterns says little there, for
it jumps with every octave. A weight that was trained on moves by about as much whatever it was. So
the line of numbers is cut into cells 2^unit wide (in units of the least float); a cell that holds
one float or less is that float. The difference of two cells is small and has one distribution for
all weights; what is left, the place of the float in its cell, is as good as uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.geometry import Element, Unsigned
from skerry.updater.delta.sides import DEPTHS, code_side
from skerry.updater.delta.values import Coder

__all__ = ["Cells", "Located", "near_zero"]

_Integers = NDArray[np.int32]
_Flags = NDArray[np.bool_]
_LEVEL_OF_UNIT = 3
_NEAR_CELLS = 4
_TINY_OCTAVES = 8


@dataclass(frozen=True, slots=True)
class Located:
    """Where floats lie on the line.

    Attributes:
        cell: 0 is the first one above zero, −1 the first one below.
        exponent: how wide a unit of each float's last place is, as `Cells.unit` is told.
        tiny: which floats are zero, or so close to it that they lie deep in the cell next to it.
    """

    cell: _Integers
    exponent: _Integers
    tiny: _Flags


class Cells:
    """The line of numbers of a float type, cut into cells.

    Attributes:
        unit: the binary logarithm of the width of each element's cells: an eighth to a quarter of
            what is expected.
    """

    def __init__(self, element: Element, levels: _Integers) -> None:
        """Cut the line.

        Args:
            element: the floats' type.
            levels: how large a difference is expected, in half octaves.
        """
        self._element, self._fraction = element, element.mantissa_bits
        self._most_unit = element.exponents - 3
        self._mask = np.int32((1 << 8 * element.bytes - 1) - 1)
        self.unit: _Integers = np.clip((levels >> 1) - _LEVEL_OF_UNIT, 0, self._most_unit)

    def locate(self, bits: Unsigned) -> Located:
        """Where the floats of these bit patterns lie."""
        signed = bits.view(f"<i{self._element.bytes}").astype(np.int32, copy=False)
        pattern = signed & self._mask
        exponent = pattern >> self._fraction
        np.maximum(exponent, 1, out=exponent)
        exponent -= 1
        cell = np.minimum(exponent, self.unit)
        cell <<= self._fraction
        np.subtract(pattern, cell, out=cell)
        shift = self.unit - exponent
        np.maximum(shift, 0, out=shift)
        np.minimum(shift, 31, out=shift)
        cell >>= shift
        cell ^= signed >> 31
        np.subtract(self.unit, self._fraction + _TINY_OCTAVES, out=shift)
        shift <<= self._fraction
        np.maximum(shift, 1, out=shift)
        return Located(cell, exponent, pattern < shift)

    def code_places(
        self,
        coder: Coder,
        cell: _Integers,
        apart: NDArray[np.intp],
        given: Unsigned | None,
        block: int,
    ) -> Unsigned:
        """Code where in their cells the new floats lie, but for those `apart`.

        Args:
            coder: an `Encoder`, or a `Decoder`.
            cell: of the new floats.
            apart: which of the floats, counted through, are not told like this; what stands for
                them means nothing.
            given: for an `Encoder`: the bit patterns of the new floats.
            block: how many depths are coded together at most.

        Raises:
            BundleError: a cell or a depth lies beyond the range of floats.
        """
        distance = cell ^ (cell >> 31)
        shift = (self._fraction + 1) - self._bit_length(distance)
        np.minimum(shift, self.unit, out=shift)
        np.maximum(shift, 0, out=shift)
        width = np.minimum(shift, self._fraction)
        width.ravel()[apart] = 0
        next_to_zero = distance == 0
        next_to_zero.ravel()[apart] = False
        deep = np.flatnonzero(next_to_zero)
        octaves = self.unit.ravel()[deep] - self._fraction
        deep, octaves = deep[octaves > 0], octaves[octaves > 0]
        told = place = None
        if given is not None:
            pattern = given.view(f"<i{self._element.bytes}").astype(np.int32) & self._mask
            told = octaves - (pattern.ravel()[deep] >> self._fraction)
            place = (pattern & ((np.int32(1) << width) - np.int32(1))).ravel()
        depth = code_side(coder, DEPTHS, len(deep), told, block)
        found = coder.raw(width.ravel(), place)
        if given is not None:
            return given
        octave = octaves - depth
        if ((octave < 0) | (octave > self._most_unit)).any():
            raise BundleError("a float lies deeper than its cell")
        made = distance << shift
        np.subtract(self.unit, shift, out=shift)
        shift <<= self._fraction
        made += shift
        made.ravel()[deep] = octave << self._fraction
        made += found.reshape(made.shape)
        if (made & ~self._mask).any():
            raise BundleError("a float lies beyond its type's range")
        made |= (cell >> 31) & ~self._mask
        return made.view(np.uint32).astype(self._element.dtype, copy=False)

    def _bit_length(self, distance: _Integers) -> _Integers:
        """Of the distance from zero as far as the fraction's bits and one; 0 next to zero."""
        near = np.minimum(distance, 1 << self._fraction + 1).astype(np.float32).view(np.int32)
        near >>= 23
        near -= 126
        np.maximum(near, 0, out=near)
        return near


def near_zero(cell: _Integers) -> _Flags:
    """Which cells are one of the four on either side of zero."""
    found: _Flags = (cell >= -_NEAR_CELLS) & (cell < _NEAR_CELLS)
    return found
