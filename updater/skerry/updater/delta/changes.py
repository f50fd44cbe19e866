"""A tensor in both files, and what an encoder makes of it before it decides what to expect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.geometry import Element, Geometry, Unsigned
from skerry.updater.delta.tensors import Guide, referred

__all__ = [
    "ENOUGH",
    "GUIDED",
    "Change",
    "differences",
    "moved",
    "ratios_of",
    "reference_of",
    "sampled",
    "thinned",
]

ENOUGH = 1 << 16
"""How many elements of a tensor are looked at to choose what to expect of it."""

GUIDED = (8, 1 << 14)
"""How many elements a tensor has that may have a guide."""

_LEAST_ROW = 16
_RATIO_COST = 7.0
_LEAST_FLOAT = {Element.FLOAT16: 2.0**-24, Element.BFLOAT16: 2.0**-133, Element.FLOAT32: 2.0**-149}

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


def sampled(change: Change) -> Change:
    """Some planes of a large tensor."""
    step = -(-change.new.size // ENOUGH)
    if step == 1 or len(change.new) == 1:
        return change
    every = slice(None, None, min(step, len(change.new)))
    old, new = (np.ascontiguousarray(bits[every]) for bits in (change.old, change.new))
    return Change(change.geometry, old, new)


def thinned(change: Change) -> tuple[Change, slice]:
    """Some rows of all planes of a large tensor, and which."""
    rows = slice(None, None, -(-change.new.size // ENOUGH))
    old, new = (np.ascontiguousarray(bits[:, rows]) for bits in (change.old, change.new))
    return Change(change.geometry, old, new), rows


def moved(change: Change, reference: Unsigned) -> _Floats:
    """How far the floats lie from their references, in units of the least float."""
    element = change.element
    was, now = (_numbers(element, bits) for bits in (element.patterns(reference), change.new))
    return now - was


def _numbers(element: Element, bits: Unsigned) -> _Floats:
    """Floats in units of the least one; what is not finite as zero."""
    with np.errstate(all="ignore"):
        if element is Element.BFLOAT16:
            values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        else:
            values = bits.view(f"<f{element.bytes}").astype(np.float64)
        values /= _LEAST_FLOAT[element]
    return np.where(np.isfinite(values), values, 0.0)


def reference_of(change: Change, ratios: _Integers | None, guide: Guide | None) -> Unsigned:
    """What the new elements are expected to be, as ordered integers [planes, rows, columns]."""
    planes = []
    for plane, old in enumerate(change.old):
        follow = None if guide is None else (guide[0][plane], guide[1][plane])
        planes.append(referred(change.element, old, ratios, follow)[0])
    return np.stack(planes)


def differences(change: Change, reference: Unsigned) -> _Integers:
    """How much the new elements differ from their references, as ordered integers."""
    return change.element.differences(change.element.ordered(change.new), reference)


def ratios_of(change: Change, guide: Guide | None) -> Iterator[_Integers | None]:
    """No ratios, and those that fit each row best, where a row is long enough to tell."""
    yield None
    element, old, new = change.element, change.old, change.new
    one = 1 << element.ratio_bits
    if one == 1 or old.shape[0] * old.shape[2] < (_LEAST_ROW if guide is None else GUIDED[0]):
        return
    before = reference_of(change, None, guide)
    was, now = (_values(element, bits) for bits in (element.patterns(before), new))
    with np.errstate(all="ignore"):
        fit = (was * now).sum((0, 2)) / (was * was).sum((0, 2)) - 1
    fit = np.where(np.isfinite(fit), np.clip(fit, -0.5, 0.5), 0)
    ratios = np.rint(fit * one).astype(np.int32)
    without, within = (
        np.log2(1.0 + np.abs(differences(change, reference).astype(np.float64))).sum((0, 2))
        for reference in (before, reference_of(change, ratios, guide))
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
