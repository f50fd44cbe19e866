"""Which tensor of the old file each tensor of the new one came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from skerry.updater.delta.formats import Tensor
from skerry.updater.delta.geometry import ORDERS, Element, Geometry

__all__ = ["Match", "match"]

_SAMPLES = 2048
_ALIKE = 0.3
_CANDIDATES = 48
_LEAST_ELEMENTS = 1
_OUTLYING = 16.0


@dataclass(frozen=True, slots=True)
class Match:
    """A tensor of the new file and what it came from.

    Attributes:
        new: the tensor.
        base: where the old one's bytes begin.
        geometry: how both lie.
    """

    new: Tensor
    base: int
    geometry: Geometry


def match(
    old: Sequence[Tensor], new: Sequence[Tensor], base: memoryview, target: memoryview
) -> list[Match]:
    """Match by name and shape; where names changed or lie, by shape and content, then transposed.

    Args:
        old, new: the tensors of each file.
        base, target: the files.
    """
    by_name: dict[tuple[object, ...], Tensor] = {}
    for tensor in old:
        by_name.setdefault((tensor.name, tensor.element, tensor.sizes), tensor)
    found: list[Match] = []
    left: list[Tensor] = []
    used: set[int] = set()
    for tensor in new:
        if tensor.length < _LEAST_ELEMENTS * tensor.element.bytes:
            continue
        was = by_name.get((tensor.name, tensor.element, tensor.sizes))
        if was is not None and was.offset not in used:
            geometry = Geometry(tensor.element, tensor.sizes, was.order, tensor.order)
            if _likeness(geometry, base, was.offset, target, tensor) >= _ALIKE:
                found.append(Match(tensor, was.offset, geometry))
                used.add(was.offset)
                continue
        left.append(tensor)
    free = defaultdict(list)
    for tensor in old:
        if tensor.offset not in used:
            free[tensor.element, prod(tensor.sizes)].append(tensor)
    for tensor in left:
        pool = free[tensor.element, prod(tensor.sizes)]
        best = _best(tensor, pool, base, target)
        if best is not None:
            found.append(best)
            pool[:] = [was for was in pool if was.offset != best.base]
    return sorted(found, key=lambda pair: pair.new.offset)


def _best(
    new: Tensor, pool: Sequence[Tensor], base: memoryview, target: memoryview
) -> Match | None:
    best, most = None, _ALIKE
    for was in pool[:_CANDIDATES]:
        for order in _ways(was, new):
            geometry = Geometry(new.element, new.sizes, order, new.order)
            likeness = _likeness(geometry, base, was.offset, target, new)
            if likeness > most:
                best, most = Match(new, was.offset, geometry), likeness
    return best


def _ways(was: Tensor, new: Tensor) -> Iterable[tuple[int, ...]]:
    """The orders in which the old bytes may hold the new tensor's axes."""
    lies = tuple(was.sizes[axis] for axis in was.order)
    if was.sizes == new.sizes:
        yield was.order
    seen = {was.order} if was.sizes == new.sizes else set()
    for order in ORDERS:
        axes = tuple(axis for axis in order if new.sizes[axis] > 1)
        shape = tuple(new.sizes[axis] for axis in order)
        if [n for n in shape if n > 1] == [n for n in lies if n > 1] and axes not in seen:
            seen.add(axes)
            yield order


def _likeness(
    geometry: Geometry, base: memoryview, at: int, target: memoryview, new: Tensor
) -> float:
    """The correlation of a sample of both, 1 where all of it is the same."""
    length, size = geometry.length, geometry.element.bytes
    if geometry.old_order == geometry.new_order:
        count = min(length, _SAMPLES * size)
        middle = (length - count) // 2 // size * size
        was = base[at + middle : at + middle + count]
        now = target[new.offset + middle : new.offset + middle + count]
        return _correlation(geometry.element, _array(geometry, was), _array(geometry, now))
    strides = (
        _strides(geometry.sizes, geometry.old_order),
        _strides(geometry.sizes, geometry.new_order),
    )
    total = prod(geometry.sizes)
    picks = np.unique(np.linspace(0, total - 1, min(total, _SAMPLES)).astype(np.int64))
    axes = np.unravel_index(picks, geometry.sizes)
    places = [sum(a * s for a, s in zip(axes, stride, strict=True)) for stride in strides]
    was_all = _array(geometry, base[at : at + length])
    now_all = _array(geometry, target[new.offset : new.offset + length])
    return _correlation(geometry.element, was_all[places[0]], now_all[places[1]])


def _strides(sizes: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    strides, step = [0] * len(sizes), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= sizes[axis]
    return strides


def _array(geometry: Geometry, data: memoryview) -> NDArray[np.unsignedinteger]:
    return np.frombuffer(data, geometry.element.dtype)


def _correlation(
    element: Element, was: NDArray[np.unsignedinteger], now: NDArray[np.unsignedinteger]
) -> float:
    if np.array_equal(was, now):
        return 1.0
    values = [_values(element, bits) for bits in (was, now)]
    first, second = (v - v.mean() for v in values)
    if element is Element.INT8:
        first, second = values
    scale = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / scale if scale > 0 and np.isfinite(scale) else _ALIKE


def _values(element: Element, bits: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
    """The elements as numbers, outliers confined."""
    match element:
        case Element.FLOAT32 | Element.FLOAT16:
            found = bits.view(f"<f{element.bytes}")
        case Element.BFLOAT16:
            found = (bits.astype(np.uint32) << 16).view(np.float32)
        case _:
            found = bits.view(f"<i{element.bytes}")
    with np.errstate(all="ignore"):
        values = np.nan_to_num(found.astype(np.float64), posinf=0.0, neginf=0.0)
    most = _OUTLYING * float(np.median(np.abs(values)))
    return np.clip(values, -most, most) if most else values
