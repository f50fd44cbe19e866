"""ONNX Runtime's own `.ort` files: the initializers of a graph in a FlatBuffer."""

from __future__ import annotations

from collections.abc import Iterator

from skerry.updater.delta.formats.base import FormatError, Tensor, tensor
from skerry.updater.delta.formats.flatbuffer import root
from skerry.updater.delta.formats.onnx import ELEMENTS

__all__ = ["ort_tensors"]

_MODEL, _GRAPH, _INITIALIZERS = 1, 7, 0
_NAME, _DIMS, _TYPE, _RAW = 0, 2, 3, 4


def ort_tensors(data: memoryview) -> Iterator[Tensor]:
    """The initializers that lie in the file itself."""
    model = root(data).table(_MODEL)
    graph = model.table(_GRAPH) if model is not None else None
    if graph is None:
        raise FormatError("no graph")
    for found in graph.tables(_INITIALIZERS):
        element = ELEMENTS.get(found.number(_TYPE, "<i"))
        at, size = found.vector(_RAW, 1)
        shape = found.numbers(_DIMS, "<q")
        if element is not None and size and all(axis > 0 for axis in shape):
            weights = tensor(found.text(_NAME), element, shape, at)
            if weights.length == size:
                yield weights
