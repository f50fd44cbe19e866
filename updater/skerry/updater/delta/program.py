"""The program of a segment: which bytes of the result come from where.

A program is a list of operations that make the segment's bytes in order. Those that read the base
start where the last one stopped, unless they say how far to seek first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from skerry.devices.errors import BundleError
from skerry.updater.delta.geometry import Geometry
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.wire import Reader, signed, varint

__all__ = ["Kind", "Operation", "decode_program", "encode_program"]

_SEEK = 4


class Kind(IntEnum):
    """Where an operation takes its bytes from."""

    COPY = 0  # the base, as they are
    LITERAL = 1  # the segment's literal stream
    ADD = 2  # the base plus the segment's difference stream, byte by byte, modulo 256
    TENSOR = 3  # a tensor of the base plus the segment's tensor stream


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a program.

    Attributes:
        kind: where the bytes come from.
        length: how many bytes of the result it makes.
        base: where in the base it reads; not used by a literal.
        geometry: how a tensor lies in both files.
    """

    kind: Kind
    length: int
    base: int = 0
    geometry: Geometry | None = None


def encode_program(operations: Iterable[Operation]) -> bytes:
    """The bytes of a program."""
    out, seeks, at = bytearray(), bytearray(), 0
    known: dict[Geometry, int] = {}
    for operation in operations:
        reads = operation.kind != Kind.LITERAL
        elsewhere = reads and operation.base != at
        geometry = operation.geometry
        first = geometry is not None and geometry not in known
        size = operation.length
        if geometry is not None:
            size = known.setdefault(geometry, len(known))
        out += varint(size << 3 | (_SEEK if elsewhere else 0) | operation.kind)
        if first and geometry is not None:
            out += geometry.encode()
        if elsewhere:
            seeks += varint(signed(operation.base - at))
        if reads:
            at = operation.base + operation.length
    return varint(len(out)) + bytes(out + seeks)


def decode_program(
    data: bytes, new_length: int, old_size: int, limits: Limits
) -> Sequence[Operation]:
    """The operations of a program, each checked to stay within base and segment.

    Raises:
        BundleError: it is malformed, or makes other than `new_length` bytes.
    """
    operations: list[Operation] = []
    known: list[Geometry] = []
    whole, at, made = Reader(data, "program"), 0, 0
    reader = Reader(whole.take(whole.varint(len(data))), "program")
    seeks = Reader(whole.take(whole.left), "program")
    while reader.left:
        head = reader.varint(limits.file_bytes << 3)
        kind, length, geometry = Kind(head & 3), head >> 3, None
        if kind == Kind.TENSOR:
            if length == len(known) < limits.shapes:
                known.append(Geometry.decode(reader, new_length))
            if length >= len(known):
                raise BundleError("a program names a tensor shape that it does not give")
            geometry = known[length]
            length = geometry.length
        base = at
        if head & _SEEK:
            base += seeks.signed(limits.file_bytes)
        made += length
        reads = kind != Kind.LITERAL
        if made > new_length or (reads and not 0 <= base <= old_size - length):
            raise BundleError("a program reaches beyond its files")
        if len(operations) >= limits.operations:
            raise BundleError(f"a program has more than {limits.operations} operations")
        operations.append(Operation(kind, length, base, geometry))
        if reads:
            at = base + length
    seeks.end()
    if made != new_length:
        raise BundleError(f"a program makes {made} bytes of {new_length}")
    return operations
