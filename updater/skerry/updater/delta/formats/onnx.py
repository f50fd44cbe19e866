"""ONNX: the initializers of a ModelProto's graph, inside the file or beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skerry.updater.delta.formats.base import Tensor, tensor
from skerry.updater.delta.formats.protobuf import Field, fields, integers
from skerry.updater.delta.geometry import Element

__all__ = ["ELEMENTS", "external_tensors", "onnx_tensors"]

_GRAPH, _INITIALIZER, _NODE = 7, 5, 1
_ATTRIBUTE, _ATTRIBUTE_TENSOR = 5, 5
ELEMENTS = {
    1: Element.FLOAT32,
    2: Element.INT8,
    3: Element.INT8,
    4: Element.INT16,
    5: Element.INT16,
    6: Element.INT32,
    10: Element.FLOAT16,
    12: Element.INT32,
    16: Element.BFLOAT16,
}


@dataclass(slots=True)
class _Proto:
    """What a TensorProto says."""

    name: str
    shape: tuple[int, ...]
    type: int
    data: Field | None
    external: dict[str, str]


def onnx_tensors(data: memoryview) -> Iterator[Tensor]:
    """The tensors that lie in the file itself."""
    for proto in _protos(data):
        element = ELEMENTS.get(proto.type)
        if element is None or proto.data is None or proto.external:
            continue
        found = tensor(proto.name, element, proto.shape, proto.data.begin)
        if 0 < found.length == proto.data.end - proto.data.begin:
            yield found


def external_tensors(data: memoryview, file_name: str) -> Iterator[Tensor]:
    """The tensors that the ONNX file `data` keeps in the file `file_name` beside it."""
    for proto in _protos(data):
        element, where = ELEMENTS.get(proto.type), proto.external
        if element is None or where.get("location") != file_name:
            continue
        offset, length = where.get("offset", "0"), where.get("length", "")
        if offset.isdecimal():
            found = tensor(proto.name, element, proto.shape, int(offset))
            if found.length and length in ("", str(found.length)):
                yield found


def _protos(data: memoryview) -> Iterator[_Proto]:
    for top in fields(data, 0, len(data)):
        if top.number != _GRAPH:
            continue
        for part in fields(data, top.begin, top.end):
            if part.number == _INITIALIZER:
                yield _proto(data, part)
            elif part.number == _NODE:
                for attribute in fields(data, part.begin, part.end):
                    if attribute.number == _ATTRIBUTE:
                        for value in fields(data, attribute.begin, attribute.end):
                            if value.number == _ATTRIBUTE_TENSOR and value.end > value.begin:
                                yield _proto(data, value)


def _proto(data: memoryview, part: Field) -> _Proto:
    found = _Proto("", (), 0, None, {})
    for field in fields(data, part.begin, part.end):
        match field.number:
            case 1:
                found.shape += tuple(integers(data, field))
            case 2:
                found.type = field.value
            case 8:
                found.name = _text(data, field)
            case 4 | 9:
                found.data = field
            case 13:
                pair = {f.number: _text(data, f) for f in fields(data, field.begin, field.end)}
                found.external[pair.get(1, "")] = pair.get(2, "")
            case _:
                pass
    return found


def _text(data: memoryview, field: Field) -> str:
    return bytes(data[field.begin : field.end]).decode("utf-8", "replace")
