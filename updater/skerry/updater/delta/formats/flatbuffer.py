"""Walk a FlatBuffer without its schema."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from skerry.updater.delta.formats.base import MOST_TENSORS, FormatError

__all__ = ["Table", "root"]


@dataclass(frozen=True, slots=True)
class Table:
    """A table at a place in the buffer; fields are named by their index in the schema."""

    data: memoryview
    at: int

    def _field(self, index: int) -> int:
        """Where the field lies; 0 if it is absent."""
        vtable = self.at - _read(self.data, "<i", self.at)
        size = _read(self.data, "<H", vtable)
        entry = 4 + 2 * index
        offset = _read(self.data, "<H", vtable + entry) if entry + 2 <= size else 0
        return self.at + offset if offset else 0

    def number(self, index: int, form: str, default: int = 0) -> int:
        """A scalar field of the `struct` form given."""
        at = self._field(index)
        return _read(self.data, form, at) if at else default

    def table(self, index: int) -> Table | None:
        """A table field."""
        at = self._field(index)
        return Table(self.data, at + _read(self.data, "<I", at)) if at else None

    def vector(self, index: int, size: int) -> tuple[int, int]:
        """Where a vector's elements, of `size` bytes each, begin, and how many there are."""
        at = self._field(index)
        if not at:
            return 0, 0
        at += _read(self.data, "<I", at)
        count = _read(self.data, "<I", at)
        if at + 4 + count * size > len(self.data):
            raise FormatError("a vector reaches beyond the buffer")
        return at + 4, count

    def text(self, index: int) -> str:
        """A string field."""
        at, count = self.vector(index, 1)
        return bytes(self.data[at : at + count]).decode("utf-8", "replace")

    def numbers(self, index: int, form: str) -> tuple[int, ...]:
        """A short vector of scalars."""
        at, count = self.vector(index, struct.calcsize(form))
        if count > 64:
            raise FormatError("more axes than any tensor has")
        return struct.unpack_from(f"<{count}{form[-1]}", self.data, at) if count else ()

    def tables(self, index: int) -> Iterator[Table]:
        """A vector of tables."""
        at, count = self.vector(index, 4)
        if count > MOST_TENSORS:
            raise FormatError("too many tables")
        for place in range(at, at + 4 * count, 4):
            yield Table(self.data, place + _read(self.data, "<I", place))


def _read(data: memoryview, form: str, at: int) -> int:
    if not 0 <= at <= len(data) - struct.calcsize(form):
        raise FormatError("an offset reaches beyond the buffer")
    return int(struct.unpack_from(form, data, at)[0])


def root(data: memoryview) -> Table:
    """The root table."""
    return Table(data, _read(data, "<I", 0))
