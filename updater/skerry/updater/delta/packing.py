"""Write one segment: operations and the bytes they are to make → a payload."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skerry.updater.delta.changes import Change
from skerry.updater.delta.codec import pack, sized
from skerry.updater.delta.expecting import expectations
from skerry.updater.delta.geometry import Geometry
from skerry.updater.delta.program import Kind, Operation, encode_program
from skerry.updater.delta.rans import Encoder
from skerry.updater.delta.segment import Method
from skerry.updater.delta.tensors import code_tensors
from skerry.updater.delta.wire import varint

__all__ = ["pack_copy", "pack_program", "pack_whole", "quick_size"]

_MOST_LANES_LOG = 12
_QUICK_LEVEL = 1
_LANE_BYTES = 1 << 17
# Copies and sums that are folded into literals, where these are few: of at most how many bytes.
_FOLDS = ((0, 0), (2, 0), (8, 128))
_FOLDED_BYTES = 1 << 18
# What share of a stream its lanes' states may be, by its bits: many lanes are decoded faster.
_LANE_SHARES = ((4e6, 1 / 160), (8e6, 2 / 160))
_LARGE_SHARE = 3 / 160


def pack_copy(offset: int) -> bytes:
    """A segment that is a range of the base."""
    return bytes([Method.COPY]) + varint(offset)


def pack_whole(data: bytes, base: memoryview, offset: int, *, thorough: bool = True) -> bytes:
    """A segment that is one packed stream.

    Args:
        data: the segment's bytes.
        base: the part of the base to use as a dictionary; may be empty.
        offset: where that part begins.
        thorough: whether to try every codec.
    """
    start = bytes([Method.PACKED]) + varint(len(base)) + (varint(offset) if len(base) else b"")
    return start + pack(data, base, thorough=thorough)


def quick_size(data: bytes, base: memoryview) -> int:
    """About how large `pack_whole` would be, at a small part of the time."""
    return len(pack(data, base, thorough=False, level=_QUICK_LEVEL))


def pack_program(operations: Sequence[Operation], base: memoryview, data: memoryview) -> bytes:
    """A segment that is a program.

    Args:
        operations: in order, making `data`.
        base: the whole base.
        data: the segment's bytes.
    """
    literals = sum(op.length for op in operations if op.kind in (Kind.LITERAL, Kind.ADD))
    folds = _FOLDS if literals <= _FOLDED_BYTES else _FOLDS[:1]
    ways = dict.fromkeys(_folded(operations, *fold) for fold in folds)
    told = (_told(way, base, data) for way in ways)
    tensors: list[tuple[Geometry, int, memoryview]] = []
    at = 0
    for operation in operations:
        if operation.geometry is not None:
            piece = data[at : at + operation.length]
            tensors.append((operation.geometry, operation.base, piece))
        at += operation.length
    return b"".join(
        [
            bytes([Method.PROGRAM, 0]),
            min(told, key=len),
            _tensor_stream(tensors, base) if tensors else b"",
        ]
    )


def _folded(operations: Sequence[Operation], copied: int, added: int) -> tuple[Operation, ...]:
    """Operations without copies and sums of at most so many bytes: what they made is literal.

    A seek there and a seek back cost more than a few bytes that repeat.
    """
    most = {Kind.COPY: copied, Kind.ADD: added}
    found: list[Operation] = []
    for operation in operations:
        if operation.length <= most.get(operation.kind, 0):
            operation = Operation(Kind.LITERAL, operation.length)
        if found and found[-1].kind == operation.kind == Kind.LITERAL:
            length = found[-1].length + operation.length
            found[-1] = Operation(Kind.LITERAL, length)
        else:
            found.append(operation)
    return tuple(found)


def _told(operations: Sequence[Operation], base: memoryview, data: memoryview) -> bytes:
    """A program, its literals and its differences."""
    literal, difference, at = bytearray(), bytearray(), 0
    for operation in operations:
        piece = data[at : at + operation.length]
        at += operation.length
        if operation.kind == Kind.LITERAL:
            literal += piece
        elif operation.kind == Kind.ADD:
            was = np.frombuffer(base, np.uint8, operation.length, operation.base)
            difference += (np.frombuffer(piece, np.uint8) - was).tobytes()
    program = encode_program(operations)
    packed = (sized(pack(part)) for part in (program, bytes(literal), bytes(difference)))
    return varint(len(program)) + b"".join(packed)


def _tensor_stream(tensors: Sequence[tuple[Geometry, int, memoryview]], base: memoryview) -> bytes:
    def old(i: int) -> bytes:
        geometry, offset, _ = tensors[i]
        return bytes(base[offset : offset + geometry.length])

    changes = [
        Change(geometry, geometry.canonical(old(i)), geometry.canonical(piece, new=True))
        for i, (geometry, _, piece) in enumerate(tensors)
    ]
    expected = expectations(changes)
    coder, given = Encoder(), [(e, c.new) for e, c in zip(expected, changes, strict=True)]
    for _ in code_tensors(coder, [geometry for geometry, _, _ in tensors], old, given):
        pass
    share = next((share for bits, share in _LANE_SHARES if coder.cost < bits), _LARGE_SHARE)
    wanted = max(1.0, coder.cost / 8 * share / 4)
    least = sum(geometry.length for geometry, _, _ in tensors) / _LANE_BYTES
    log = min(_MOST_LANES_LOG, max(int(np.log2(wanted)), int(np.ceil(np.log2(max(1.0, least))))))
    states, words, raw = coder.finish(1 << log)
    return b"".join(
        [
            bytes([log]),
            states.astype("<u4").tobytes(),
            varint(len(words)),
            words.astype("<u2").tobytes(),
            raw,
        ]
    )
