"""Tensors as the protocol's datatypes and bytes, the same over REST and gRPC.

Bytes are little-endian and row-major. A string (`BYTES`) is its UTF-8 with its length in 4 bytes
before it; here it is text, kept in numpy arrays of fixed width.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import SignatureMismatch

__all__ = [
    "DATATYPES",
    "datatype_of",
    "dtype_of",
    "from_bytes",
    "from_strings",
    "from_values",
    "to_bytes",
    "where_of",
]

DATATYPES = {
    "bool": "BOOL",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32)
    },
    "int64": "INT64",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "str": "BYTES",
}
_DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
_DATATYPE_OF = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_LARGEST_RANK = 16
_LENGTH_BYTES = 4
_PACKERS = 256


def dtype_of(name: str, datatype: str, shape: Sequence[int]) -> np.dtype[Any]:
    """The dtype that input `name` claims; of kind `U` for strings.

    Raises:
        SignatureMismatch: no such datatype, or a shape that none can have.
    """
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        raise SignatureMismatch(
            f"datatype {datatype[:40]!r} is not known",
            where=where_of(name),
            remedy=f"use one of {', '.join(_DTYPES)}",
        )
    if len(shape) > _LARGEST_RANK or min(shape, default=0) < 0:
        raise SignatureMismatch("shape is impossible", where=where_of(name))
    return dtype


def datatype_of(array: NDArray[Any]) -> str:
    """What the protocol calls an array's dtype."""
    return "BYTES" if array.dtype.kind == "U" else _DATATYPE_OF[array.dtype]


def from_bytes(
    name: str, dtype: np.dtype[Any], shape: Sequence[int], data: memoryview, text_bytes: int
) -> NDArray[Any]:
    """The tensor whose bytes are `data`; a view of it where that can be.

    Raises:
        SignatureMismatch: the bytes are not those of such a tensor; names it.
    """
    count = math.prod(shape)
    if dtype.kind == "U":
        return from_strings(name, shape, _split(name, data, count), text_bytes)
    if len(data) != count * dtype.itemsize:
        raise SignatureMismatch(
            f"{len(data)} bytes where shape and datatype say {count * dtype.itemsize}",
            where=where_of(name),
        )
    flat = np.frombuffer(data, dtype)
    if dtype.kind == "b" and flat.view(np.uint8).max(initial=0) > 1:
        raise SignatureMismatch("a byte of a BOOL is neither 0 nor 1", where=where_of(name))
    return _shaped(name, flat if flat.flags.aligned else flat.copy(), shape)


def from_values(
    name: str, dtype: np.dtype[Any], shape: Sequence[int], values: Sequence[Any], text_bytes: int
) -> NDArray[Any]:
    """The tensor of a flat list of values.

    Raises:
        SignatureMismatch: they are more, fewer or others than it has, or one overflows; names it.
    """
    kind = dtype.kind
    if kind == "U":
        return from_strings(name, shape, values, text_bytes)
    try:
        if kind == "f":  # struct refuses what would overflow; numpy makes it infinite
            flat = np.frombuffer(_packer(dtype, len(values))(*values), dtype)
        else:
            flat = np.array(values, dtype)
    except (OverflowError, TypeError, ValueError, struct.error) as error:
        raise SignatureMismatch(
            f"a value is no {_DATATYPE_OF[dtype]}: {error}", where=where_of(name)
        ) from error
    try:
        return _shaped(name, flat, shape)
    except SignatureMismatch:
        _check_count(name, shape, values)
        raise


def from_strings(
    name: str, shape: Sequence[int], values: Sequence[str], text_bytes: int
) -> NDArray[np.str_]:
    """The tensor of a flat list of strings.

    Args:
        text_bytes: the most memory it may take: the longest string sets the width of all.

    Raises:
        SignatureMismatch: they are more or fewer than it has, too long together, or hold NUL.
    """
    _check_count(name, shape, values)
    width = max(map(len, values), default=0) or 1
    needed = width * 4 * len(values)
    if needed > text_bytes:
        raise SignatureMismatch(
            f"{len(values)} strings, the longest of {width} characters, are too much text",
            where=where_of(name),
            remedy="send fewer at a time",
        )
    if any("\0" in value for value in values):
        raise SignatureMismatch("a string holds NUL", where=where_of(name))
    return _shaped(name, np.array(values, f"<U{width}"), shape)


def to_bytes(array: NDArray[Any]) -> bytes:
    """A tensor's bytes."""
    if array.dtype.kind != "U":
        return array.tobytes()
    texts = [text.encode() for text in array.ravel().tolist()]
    return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in texts)


def where_of(name: str) -> str:
    """How an error names an input."""
    return f"input {name[:80]}"


@lru_cache(_PACKERS)
def _packer(dtype: np.dtype[Any], count: int) -> Callable[..., bytes]:
    """What packs so many floats; numpy and struct have the same characters for their types."""
    return struct.Struct(f"={count}{dtype.char}").pack


def _shaped(name: str, flat: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """`flat` in a shape of as many elements. Where that is none, an axis may be absurd."""
    try:
        return flat.reshape(shape)
    except (OverflowError, ValueError) as error:
        raise SignatureMismatch("shape is impossible", where=where_of(name)) from error


def _check_count(name: str, shape: Sequence[int], values: Sequence[Any]) -> None:
    count = math.prod(shape)
    if len(values) != count:
        raise SignatureMismatch(
            f"has {len(values)} values where shape {list(shape)} says {count}",
            where=where_of(name),
        )


def _split(name: str, data: memoryview, count: int) -> list[str]:
    """The strings in `data`, which must be `count`."""
    found: list[str] = []
    at, end = 0, len(data)
    while at < end and len(found) < count:
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(data[at:start], "little")
        if at > end:
            break
        try:
            found.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError as error:
            raise SignatureMismatch("a string is not UTF-8", where=where_of(name)) from error
    if at != end:
        raise SignatureMismatch(f"the bytes do not end with string {count}", where=where_of(name))
    return found
