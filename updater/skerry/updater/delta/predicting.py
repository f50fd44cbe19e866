"""Fit how each plane of a kernel follows the planes before it: the analysis of an encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.changes import Change, differences, moved, reference_of, thinned
from skerry.updater.delta.prediction import (
    COEFFICIENT_BITS,
    MOST_COEFFICIENT,
    MOST_PLANES,
    neighbours,
)
from skerry.updater.delta.shaping import LIFT, bits_of, cost, shapes, spread
from skerry.updater.delta.sides import Expectation
from skerry.updater.delta.tokens import split

__all__ = ["predicted"]

_FAR = 8.0
_RIDGE = 1e-6
_LEAST = 1e-6
_COEFFICIENT_COST, _PLANE_COST = 6.0, 3.0
_LEAST_PLANE = 64
_AROUND = (-2, -1, 0, 1)

_Floats = NDArray[np.float64]
_Integers = NDArray[np.int32]


class _Fit:
    """What predicts a tensor, and what is left of it.

    Attributes:
        coefficients: as of an `Expectation`.
        left: how far the elements lie from what is predicted [planes, rows, columns].
        planes: what each plane adds to the level.
        saved: about how many bits fewer the elements take, less those of the coefficients.
    """

    def __init__(self, far: _Floats, width: _Floats, kernel: tuple[int, int]) -> None:
        """Fit what predicts a tensor.

        Args:
            far: how far elements lie from their references [planes, rows, columns].
            width: how far each is expected to.
            kernel: height, width; their product is the number of planes.
        """
        scaled = far / width
        flat = np.clip(scaled, -_FAR, _FAR).reshape(len(far), -1)
        gram = flat @ flat.T
        gram[np.diag_indices_from(gram)] += _RIDGE * flat.shape[1]
        self.left, told = far.copy(), [np.zeros(0, np.int32)]
        for plane, before in enumerate(neighbours(*kernel)):
            exact = np.linalg.solve(gram[np.ix_(before, before)], gram[before, plane])
            whole = np.rint(exact * (1 << COEFFICIENT_BITS))
            told.append(np.clip(whole, -MOST_COEFFICIENT, MOST_COEFFICIENT).astype(np.int32))
            for other, coefficient in zip(before, told[-1].tolist(), strict=True):
                self.left[plane] -= far[other] * (coefficient / (1 << COEFFICIENT_BITS))
        self.coefficients = np.concatenate(told)
        was, now = (
            np.maximum(np.abs(values).mean((1, 2)), _LEAST)
            for values in (scaled, self.left / width)
        )
        self.planes: _Integers = np.rint(2 * np.log2(now)).astype(np.int32)
        self.saved = float(np.log2(was / now).sum()) * flat.shape[1]
        self.saved -= _COEFFICIENT_COST * len(self.coefficients) + _PLANE_COST * len(far)

    def under(self, expected: Expectation, by: int = 0) -> Expectation:
        """`expected` with this prediction, and its level so much higher."""
        middle = int(np.rint(self.planes.mean()))
        return replace(
            expected,
            level=expected.level + middle + by,
            planes=self.planes - middle,
            coefficients=self.coefficients,
        )


def predicted(change: Change, expected: Expectation) -> Expectation | None:
    """`expected` with planes predicted from planes, or none where that does not pay.

    Args:
        change: of INT8, or of floats that are told as cells.
        expected: what is best without.
    """
    planes = len(change.old)
    if not 1 < planes <= MOST_PLANES or change.old.size < _LEAST_PLANE * planes:
        return None
    part, rows = thinned(change)
    some = expected.of_rows(rows)
    reference = reference_of(part, some.ratios, None)
    if expected.cells:
        lift, least, far = LIFT, 0.0, moved(part, reference)
    else:
        lift, least, far = 0, 1.0, differences(part, reference).astype(np.float64)
    width = np.maximum(spread(some, far.shape, lift), least)
    fit = _Fit(far, width, change.geometry.sizes[:2])
    if fit.saved <= 0:
        return None
    size = np.abs(fit.left)
    options = [(expected, 0.0)]
    if part.new.size == change.new.size:
        level = size / np.exp2(fit.planes / 2)[:, None, None]
        options = [
            (replace(option, cells=expected.cells), side)
            for option, side in shapes(level, lift, expected.ratios)
        ]
    if expected.cells:
        return min(
            ((fit.under(option), side) for option, side in options),
            key=lambda pair: (
                pair[1] + bits_of(size, spread(pair[0].of_rows(rows), size.shape, lift))
            ),
        )[0]
    tokens = split(np.rint(fit.left).astype(np.int32).ravel())[0].reshape(size.shape)
    none = np.zeros(size.shape, np.int32)
    return min(
        ((fit.under(option, by), side) for option, side in options for by in _AROUND),
        key=lambda pair: pair[1] + cost(pair[0].of_rows(rows), tokens, none, slice(None)),
    )[0]
