"""safetensors and NumPy files: a header that describes arrays, and then the arrays."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import msgspec

from skerry.updater.delta.formats.base import FormatError, Tensor, tensor
from skerry.updater.delta.geometry import Element

__all__ = ["numpy_tensors", "safetensors_tensors"]

_HEADER_BYTES = 100 << 20
_SAFETENSORS = {
    "F32": Element.FLOAT32,
    "F16": Element.FLOAT16,
    "BF16": Element.BFLOAT16,
    "I8": Element.INT8,
    "U8": Element.INT8,
    "I16": Element.INT16,
    "U16": Element.INT16,
    "I32": Element.INT32,
    "U32": Element.INT32,
}
_NUMPY = {
    "<f4": Element.FLOAT32,
    "<f2": Element.FLOAT16,
    "|i1": Element.INT8,
    "|u1": Element.INT8,
    "<i2": Element.INT16,
    "<u2": Element.INT16,
    "<i4": Element.INT32,
    "<u4": Element.INT32,
}
_DESCRIPTION = re.compile(
    rb"'descr': '([^']{2,8})', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\)"
)


class _Entry(msgspec.Struct):
    dtype: str = ""
    shape: tuple[int, ...] = ()
    data_offsets: tuple[int, int] = (0, 0)


def safetensors_tensors(data: memoryview) -> Iterator[Tensor]:
    """Every tensor of a safetensors file."""
    (size,) = struct.unpack_from("<Q", data)
    if size > min(_HEADER_BYTES, len(data) - 8):
        raise FormatError("a header longer than its file")
    try:
        entries = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])
        for name, raw in entries.items():
            if name == "__metadata__":
                continue
            entry = msgspec.json.decode(raw, type=_Entry)
            element = _SAFETENSORS.get(entry.dtype)
            begin, end = entry.data_offsets
            if element is not None and 0 <= begin < end:
                found = tensor(name, element, entry.shape, 8 + size + begin)
                if found.length == end - begin:
                    yield found
    except msgspec.DecodeError as error:
        raise FormatError(str(error)) from error


def numpy_tensors(data: memoryview) -> Iterator[Tensor]:
    """The array of a `.npy` file."""
    form, at = ("<H", 10) if data[6] == 1 else ("<I", 12)
    (size,) = struct.unpack_from(form, data, 8)
    found = _DESCRIPTION.search(bytes(data[at : at + min(size, 1 << 16)]))
    element = _NUMPY.get(found[1].decode()) if found else None
    if found is None or element is None:
        return
    shape = tuple(int(axis) for axis in found[3].decode().split(",") if axis.strip())
    if found[2] == b"True":
        shape = shape[::-1]
    yield tensor("", element, shape, at + size)
