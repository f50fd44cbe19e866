"""One segment of a patch: its payload → its bytes of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import BundleError
from skerry.updater.delta.codec import unpack
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.program import Kind, Operation, decode_program
from skerry.updater.delta.rans import Decoder
from skerry.updater.delta.tensors import code_tensors
from skerry.updater.delta.wire import Reader

__all__ = ["Method", "ReadBase", "Streams", "decode_segment", "read_streams"]

ReadBase = Callable[[int, int], bytes]
"""(offset, length) → that range of the base, which is known to lie within it."""


class Method(IntEnum):
    """How a segment is made."""

    COPY = 0  # a range of the base
    PACKED = 1  # one packed stream, with a range of the base as dictionary
    PROGRAM = 2  # operations over base, literals, differences, tensors


@dataclass(frozen=True, slots=True)
class Streams:
    """What a PROGRAM segment holds: its operations and the bytes they draw on."""

    operations: Sequence[Operation]
    literal: bytes
    difference: bytes
    coder: Decoder | None


def decode_segment(
    payload: bytes, new_length: int, read: ReadBase, old_size: int, limits: Limits
) -> bytes:
    """The bytes of a PACKED or PROGRAM segment, at most `limits.segment_bytes`.

    Raises:
        BundleError: the payload is malformed.
    """
    reader = Reader(payload, "segment")
    method = reader.byte()
    if method == Method.PACKED:
        base = _dictionary(reader, read, old_size, limits)
        return unpack(reader.take(reader.left), new_length, base)
    if method == Method.PROGRAM:
        return _run(read_streams(reader, new_length, read, old_size, limits), read)
    raise BundleError(f"unknown method {method} of a segment", remedy="update skerry")


def read_streams(
    reader: Reader,
    new_length: int,
    read: ReadBase,
    old_size: int,
    limits: Limits,
    marks: list[int] | None = None,
) -> Streams:
    """The parts of a PROGRAM segment whose method byte was read.

    Args:
        reader, new_length, read, old_size, limits: as of `decode_segment`.
        marks: takes the places in the payload where program, literals and differences end.
    """
    marks = [] if marks is None else marks
    base = _dictionary(reader, read, old_size, limits)
    program = _stream(reader, 20 * limits.operations)
    marks.append(reader.at)
    operations = decode_program(program, new_length, old_size, limits)
    sums = [sum(op.length for op in operations if op.kind == kind) for kind in Kind]
    literal = unpack(reader.take(reader.varint(limits.payload_bytes)), sums[Kind.LITERAL], base)
    marks.append(reader.at)
    difference = unpack(reader.take(reader.varint(limits.payload_bytes)), sums[Kind.ADD])
    marks.append(reader.at)
    coder = _coder(reader, sums[Kind.TENSOR], limits) if sums[Kind.TENSOR] else None
    reader.end()
    return Streams(operations, literal, difference, coder)


def _dictionary(reader: Reader, read: ReadBase, old_size: int, limits: Limits) -> bytes:
    length = reader.varint(limits.dictionary_bytes)
    if not length:
        return b""
    offset = reader.varint(limits.file_bytes)
    if offset > old_size - length:
        raise BundleError("a dictionary reaches beyond the base")
    return read(offset, length)


def _coder(reader: Reader, size: int, limits: Limits) -> Decoder:
    lanes = 1 << reader.byte()
    if lanes > limits.lanes:
        raise BundleError(f"{lanes} lanes, at most {limits.lanes} are allowed")
    if size > lanes * limits.lane_bytes:
        raise BundleError(f"{lanes} lanes are too few for {size} bytes of tensors")
    states = np.frombuffer(reader.take(4 * lanes), "<u4")
    words = np.frombuffer(reader.take(2 * reader.varint(limits.payload_bytes // 2)), "<u2")
    return Decoder(states, words, reader.take(reader.left))


def _stream(reader: Reader, most: int) -> bytes:
    size = reader.varint(most)
    return unpack(reader.take(reader.varint(most)), size)


def _run(streams: Streams, read: ReadBase) -> bytes:
    out = np.empty(sum(op.length for op in streams.operations), np.uint8)
    literal, difference = (
        np.frombuffer(data, np.uint8) for data in (streams.literal, streams.difference)
    )
    literal_at = difference_at = at = 0
    tensors: list[tuple[Operation, NDArray[np.uint8]]] = []
    for operation in streams.operations:
        length = operation.length
        part, at = out[at : at + length], at + length
        match operation.kind:
            case Kind.COPY:
                part[:] = np.frombuffer(read(operation.base, length), np.uint8)
            case Kind.LITERAL:
                part[:] = literal[literal_at : literal_at + length]
                literal_at += length
            case Kind.ADD:
                base = np.frombuffer(read(operation.base, length), np.uint8)
                np.add(base, difference[difference_at : difference_at + length], out=part)
                difference_at += length
            case Kind.TENSOR:
                tensors.append((operation, part))
    if streams.coder is not None:
        _tensors(tensors, streams.coder, read)
    return out.tobytes()


def _tensors(
    tensors: Sequence[tuple[Operation, NDArray[np.uint8]]], coder: Decoder, read: ReadBase
) -> None:
    """Decode the tensors, each into its part of the result."""
    shapes = [operation.geometry for operation, _ in tensors if operation.geometry is not None]

    def old(i: int) -> bytes:
        return read(tensors[i][0].base, shapes[i].length)

    for i, made in code_tensors(coder, shapes, old):
        shapes[i].lay_out(made, tensors[i][1])
    coder.end()
