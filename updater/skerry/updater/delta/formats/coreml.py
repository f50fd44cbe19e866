"""Core ML: the weight file of an ML program, and the shapes that its model gives the weights."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from skerry.updater.delta.formats.base import MOST_TENSORS, FormatError, Tensor, tensor
from skerry.updater.delta.formats.protobuf import Field, fields
from skerry.updater.delta.geometry import Element

__all__ = ["weight_shapes", "weight_tensors"]

_SENTINEL = 0xDEADBEEF
_ALIGNMENT = 64
_DEPTH = 24
_TYPE, _BLOB = 2, 5
_ELEMENTS = {
    1: Element.FLOAT16,
    2: Element.FLOAT32,
    3: Element.INT8,
    4: Element.INT8,
    5: Element.BFLOAT16,
    6: Element.INT16,
    7: Element.INT16,
    14: Element.INT32,
}


def weight_tensors(
    data: memoryview, begin: int, end: int, shapes: dict[int, tuple[int, ...]]
) -> Iterator[Tensor]:
    """The blobs of a `weight.bin` in `data[begin:end]`.

    Args:
        shapes: of the blobs, by where their description lies in the file.
    """
    at = begin + _ALIGNMENT
    for number in range(MOST_TENSORS):
        if at + _ALIGNMENT > end:
            return
        sentinel, kind, size, offset = struct.unpack_from("<IIQQ", data, at)
        if sentinel != _SENTINEL or offset > end - begin or size > end - begin - offset:
            return
        element = _ELEMENTS.get(kind)
        if element is not None and size:
            shape = shapes.get(at - begin, (size // element.bytes,))
            found = tensor(str(number), element, shape, begin + offset)
            if found.length != size:
                found = tensor(str(number), element, (size // element.bytes,), begin + offset)
            if found.length == size:
                yield found
        after = offset + size
        at = begin + after + -after % _ALIGNMENT


def weight_shapes(data: memoryview, begin: int, end: int) -> dict[int, tuple[int, ...]]:
    """The shapes that the `model.mlmodel` in `data[begin:end]` gives the blobs it refers to."""
    found: dict[int, tuple[int, ...]] = {}
    _visit(data, begin, end, found, 0)
    return found


def _visit(
    data: memoryview, begin: int, end: int, found: dict[int, tuple[int, ...]], depth: int
) -> bool:
    """Look for values that refer to the weight file; False where the bytes are no message."""
    if depth > _DEPTH:
        return False
    try:
        parts = list(fields(data, begin, end))
    except FormatError:
        return False
    blobs = [f for f in parts if f.number == _BLOB and f.end > f.begin]
    types = [f for f in parts if f.number == _TYPE and f.end > f.begin]
    if len(blobs) == 1 and len(types) == 1:
        offset = _blob_offset(data, blobs[0])
        if offset is not None:
            found[offset] = _shape(data, types[0])
            return True
    for part in parts:
        if part.end - part.begin >= 4:
            _visit(data, part.begin, part.end, found, depth + 1)
    return True


def _blob_offset(data: memoryview, blob: Field) -> int | None:
    """The offset in a BlobFileValue, or None if this is none."""
    try:
        parts = {f.number: f for f in fields(data, blob.begin, blob.end)}
    except FormatError:
        return None
    name, offset = parts.get(1), parts.get(2)
    if name is None or bytes(data[name.begin : name.end])[-10:] != b"weight.bin":
        return None
    return offset.value if offset is not None else 0


def _shape(data: memoryview, value_type: Field) -> tuple[int, ...]:
    """The dimensions in a ValueType that is a tensor."""
    shape: list[int] = []
    for kind in fields(data, value_type.begin, value_type.end):
        for part in fields(data, kind.begin, kind.end) if kind.number == 1 else ():
            for dimension in fields(data, part.begin, part.end) if part.number == 3 else ():
                shape += [size.value for size in fields(data, dimension.begin, dimension.end)]
    return tuple(shape)
