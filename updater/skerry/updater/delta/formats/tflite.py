"""TFLite: the buffers of a model's constant tensors, and the scales of its quantized ones."""

from __future__ import annotations

from collections.abc import Iterator

from skerry.updater.delta.formats.base import CHANNELS_LAST, Tensor, tensor
from skerry.updater.delta.formats.flatbuffer import Table, root
from skerry.updater.delta.geometry import Element

__all__ = ["tflite_tensors"]

_SUBGRAPHS, _BUFFERS, _TENSORS = 2, 4, 0
_SHAPE, _TYPE, _BUFFER, _NAME, _QUANTIZATION = 0, 1, 2, 3, 4
_DATA, _OFFSET, _SIZE = 0, 1, 2
_SCALE = 2
_LEAST_SCALES = 4
_ELEMENTS = {
    0: Element.FLOAT32,
    1: Element.FLOAT16,
    2: Element.INT32,
    3: Element.INT8,
    7: Element.INT16,
    9: Element.INT8,
    18: Element.BFLOAT16,
}


def tflite_tensors(data: memoryview) -> Iterator[Tensor]:
    """The constant tensors of every subgraph."""
    model = root(data)
    buffers = [_extent(buffer) for buffer in model.tables(_BUFFERS)]
    for number, subgraph in enumerate(model.tables(_SUBGRAPHS)):
        for found in subgraph.tables(_TENSORS):
            name = f"{number}/{found.text(_NAME)}"
            element = _ELEMENTS.get(found.number(_TYPE, "<b"))
            buffer = found.number(_BUFFER, "<I")
            shape = found.numbers(_SHAPE, "<i")
            offset, size = buffers[buffer] if buffer < len(buffers) else (0, 0)
            if element is not None and size and all(axis > 0 for axis in shape):
                weights = tensor(name, element, shape, offset, CHANNELS_LAST)
                if weights.length == size:
                    yield weights
            quantization = found.table(_QUANTIZATION)
            if quantization is not None:
                at, count = quantization.vector(_SCALE, 4)
                if count >= _LEAST_SCALES:
                    yield tensor(f"{name}/scale", Element.FLOAT32, (count,), at)


def _extent(buffer: Table) -> tuple[int, int]:
    """Where a buffer's bytes begin, and how many they are."""
    size = buffer.number(_SIZE, "<Q")
    if size > 1:
        return buffer.number(_OFFSET, "<Q"), size
    return buffer.vector(_DATA, 1)
