"""Named arrays in one file, as safetensors lays them out: a header in JSON, then their bytes.

Source: github.com/huggingface/safetensors, "Format". Read and written here, since that library
weighs more than the rest of the base on a device. A file has the bytes that the library gives it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError

__all__ = ["read_arrays", "write_arrays"]

_HEADER_BYTES = 16 << 20
_ALIGNMENT = 8
_METADATA = "__metadata__"
# What lies in a file first comes last; the names are the format's own.
_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_RANKS = {name: rank for rank, name in enumerate(_DTYPES)}


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a file, by name; they can be written to.

    Raises:
        BundleError: it is malformed, or holds a dtype that numpy has not.
    """
    entries, begin = _header(data)
    body = memoryview(data)[begin:]
    return {name: _array(name, entry, body) for name, entry in entries.items()}


def write_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A file of `arrays`, whose dtypes are numbers or bool. The same arrays give the same bytes.

    Raises:
        BundleError: one has another dtype.
    """
    named = {}
    for name, array in arrays.items():
        dtype = _NAMES.get(array.dtype.newbyteorder("<"))
        if dtype is None:
            raise BundleError(f"cannot hold {array.dtype}", where=name)
        named[name] = dtype
    order = sorted(arrays, key=lambda name: (-_RANKS[named[name]], name))
    entries, chunks, end = {}, [], 0
    for name in order:
        chunk = np.ascontiguousarray(arrays[name], _DTYPES[named[name]]).tobytes()
        entries[name] = _Entry(named[name], arrays[name].shape, (end, end + len(chunk)))
        chunks.append(chunk)
        end += len(chunk)
    header = msgspec.json.encode(entries)
    header += b" " * (-len(header) % _ALIGNMENT)
    return b"".join([struct.pack("<Q", len(header)), header, *chunks])


def _header(data: bytes) -> tuple[dict[str, _Entry], int]:
    """What each array is, and where the first byte of them all lies."""
    if len(data) < 8:
        raise BundleError("too short")
    (size,) = struct.unpack_from("<Q", data)
    if size > min(_HEADER_BYTES, len(data) - 8):
        raise BundleError(f"a header of {size} bytes in a file of {len(data)}")
    try:
        raw = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])
        raw.pop(_METADATA, None)
        entries = {name: msgspec.json.decode(one, type=_Entry) for name, one in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"malformed header: {error}") from error
    return entries, 8 + size


def _array(name: str, entry: _Entry, body: memoryview) -> NDArray[Any]:
    dtype = _DTYPES.get(entry.dtype)
    if dtype is None:
        raise BundleError(f"unknown dtype {entry.dtype[:20]!r}", where=name)
    begin, end = entry.data_offsets
    if min(entry.shape, default=0) < 0 or not 0 <= begin <= end <= len(body):
        raise BundleError("impossible shape or place", where=name)
    if prod(entry.shape) * dtype.itemsize != end - begin:
        raise BundleError(f"{end - begin} bytes for {entry.dtype} {list(entry.shape)}", where=name)
    return np.frombuffer(body[begin:end], dtype).reshape(entry.shape).copy()
