"""What a kernel's planes that are known say of the next one: neighbours in it change alike.

A new element is expected to lie as far from its reference as its neighbours in the kernel do from
theirs, each times a coefficient. Everything is integer arithmetic.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["COEFFICIENT_BITS", "MOST_COEFFICIENT", "MOST_PLANES", "Prediction", "neighbours"]

COEFFICIENT_BITS = 6
MOST_COEFFICIENT = 1 << 10
MOST_PLANES = 1 << 10

_Integers = NDArray[np.int32]


def neighbours(height: int, width: int) -> list[list[int]]:
    """For each plane of a kernel the planes left, above left, above and above right of it."""
    steps = ((0, -1), (-1, -1), (-1, 0), (-1, 1))
    return [
        [
            (y + down) * width + x + right
            for down, right in steps
            if y + down >= 0 and 0 <= x + right < width
        ]
        for y in range(height)
        for x in range(width)
    ]


class Prediction:
    """How far the new elements of a tensor lie from their references, as far as they are known."""

    def __init__(self, sizes: tuple[int, int, int, int], coefficients: _Integers) -> None:
        height, width, rows, columns = sizes
        self._before = neighbours(height, width)
        cuts = np.cumsum([0, *map(len, self._before)])
        self._coefficients = [coefficients[a:b].tolist() for a, b in pairwise(cuts)]
        held = min(height * width, width + 2)  # as far back as a plane's neighbours lie
        self._moved = np.empty((held, rows, columns), np.int16)

    def of(self, plane: int, rows: slice) -> _Integers:
        """How far some rows of a plane are expected to lie from their references, in 2^−10."""
        total = np.zeros(self._moved[0, rows].shape, np.int32)
        for other, coefficient in zip(self._before[plane], self._coefficients[plane], strict=True):
            if coefficient:
                moved = self._moved[other % len(self._moved), rows]
                total += np.multiply(moved, np.int32(coefficient), dtype=np.int32)
        return total

    def keep(self, plane: int, rows: slice, moved: _Integers) -> None:
        """Remember how far the new elements of some rows lie from their references, in 2^−4.

        Args:
            plane, rows: which.
            moved: fits 16 bits.
        """
        self._moved[plane % len(self._moved), rows] = moved
