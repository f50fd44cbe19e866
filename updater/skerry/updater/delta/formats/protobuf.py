"""Walk a protobuf message without its schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from skerry.updater.delta.formats.base import FormatError

__all__ = ["Field", "fields", "integers"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: the field's.
        value: a varint's value; 0 for other kinds.
        begin, end: where its bytes lie; equal for a varint.
    """

    number: int
    value: int
    begin: int
    end: int


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise FormatError("a varint does not end")


def fields(data: memoryview, begin: int, end: int) -> Iterator[Field]:
    """The fields of the message in `data[begin:end]`."""
    at = begin
    while at < end:
        tag, at = _varint(data, at, end)
        number, value, start = tag >> 3, 0, at
        match tag & 7:
            case 0:
                value, at = _varint(data, at, end)
                start = at
            case 1:
                at += 8
            case 2:
                length, start = _varint(data, at, end)
                at = start + length
            case 5:
                at += 4
            case _:
                raise FormatError("a field of unknown kind")
        if at > end or not number:
            raise FormatError("a field reaches beyond its message")
        yield Field(number, value, start, at)


def integers(data: memoryview, field: Field) -> list[int]:
    """A repeated integer, packed or not."""
    if field.begin == field.end:
        return [field.value]
    found, at = [], field.begin
    while at < field.end:
        value, at = _varint(data, at, field.end)
        found.append(value)
    return found
