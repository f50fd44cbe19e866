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
    literal, difference, at = bytearray(), bytearray(), 0
    tensors: list[tuple[Geometry, int, memoryview]] = []
    for operation in operations:
        piece = data[at : at + operation.length]
        at += operation.length
        if operation.kind == Kind.LITERAL:
            literal += piece
        elif operation.kind == Kind.ADD:
            was = np.frombuffer(base, np.uint8, operation.length, operation.base)
            difference += (np.frombuffer(piece, np.uint8) - was).tobytes()
        elif operation.geometry is not None:
            tensors.append((operation.geometry, operation.base, piece))
    program = encode_program(operations)
    return b"".join(
        [
            bytes([Method.PROGRAM, 0]),
            varint(len(program)) + sized(pack(program)),
            sized(pack(bytes(literal))),
            sized(pack(bytes(difference))),
            _tensor_stream(tensors, base) if tensors else b"",
        ]
    )


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
