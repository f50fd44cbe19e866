"""What a message weighs before it is parsed: rules over its bytes.

A parsed message takes tens of times its bytes where it is made of many empty parts, so parts are
counted first (https://protobuf.dev/programming-guides/encoding/). Compressed messages are unpacked
here, within the same limit as others: the library would unpack them without any.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from skerry.devices.errors import SignatureMismatch

__all__ = ["check_fields", "unpacked"]

_LONGEST_VARINT = 10
_INPUTS = 5
_GZIP, _ZLIB = b"\x1f\x8b", b"\x78"


def unpacked(data: bytes, limit: int) -> bytes:
    """The message, of which no more than `limit` is unpacked where it is compressed.

    A message that is not compressed begins with neither mark: there is no such field.

    Raises:
        SignatureMismatch: it is larger, or cut off.
    """
    if data[:2] != _GZIP and data[:1] != _ZLIB:
        return data
    unpacker = zlib.decompressobj(wbits=47)
    try:
        plain = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise SignatureMismatch(f"not compressed data: {error}", where="message") from error
    if len(plain) > limit:
        raise SignatureMismatch(f"unpacks to more than {limit} bytes", where="message")
    if not unpacker.eof:
        raise SignatureMismatch("the compressed data is cut off", where="message")
    return plain


def check_fields(data: bytes, most: int) -> None:
    """That a message has at most `most` fields, with those of its field 5: an inference's inputs.

    Raises:
        SignatureMismatch: it has more, or is no message.
    """
    try:
        inputs = [(0, len(data))]
        count = 0
        while inputs:
            nested = count > 0
            for number, start, end in _fields(data, *inputs.pop()):
                count += 1
                if count > most:
                    raise SignatureMismatch(f"more than {most} fields", where="message")
                if number == _INPUTS and not nested:
                    inputs.append((start, end))
    except (IndexError, ValueError) as error:
        raise SignatureMismatch(f"is no message of this kind: {error}", where="message") from error


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The number of each field of a message, and where its value lies.

    Raises:
        ValueError, IndexError: it is no message.
    """
    while at < end:
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                start, (_, at) = at, _varint(data, at)
            case 1:
                start, at = at, at + 8
            case 2:
                size, start = _varint(data, at)
                at = start + size
            case 5:
                start, at = at, at + 4
            case other:
                raise ValueError(f"wire type {other}")
        if at > end:
            raise ValueError("it is cut off")
        yield tag >> 3, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next byte lies."""
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is too long")
