"""Make a patch: the old file and the new → the fewest bytes that lead from one to the other."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from skerry.devices.digest import digest_file
from skerry.devices.errors import CancelledError, InputError
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.updater.delta.codec import pack, sized
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.program import Kind, Operation, encode_program
from skerry.updater.delta.segment import Method
from skerry.updater.delta.stat import DeltaStat, stat
from skerry.updater.delta.wire import Header, base_digest, seal, varint, write_header

__all__ = ["create"]

_SEGMENT_BYTES = 4 << 20
_DICTIONARY_BYTES = 16 << 20
_SUFFIX_SORT_BYTES = 2 << 20
_REPETITIVE = 0.05


def create(
    old: Path,
    new: Path,
    patch: Path,
    *,
    limits: Limits | None = None,
    cancelled: Callable[[], bool] | None = None,
    disk: Disk | None = None,
) -> DeltaStat:
    """Write the patch that makes `new` from `old`.

    Args:
        old, new: any two files.
        patch: where the patch goes; replaced atomically.
        limits: what the decoder will allow.
        cancelled: asked before each segment.
        disk: the seam through which the patch is written.

    Returns:
        What the patch holds.

    Raises:
        InputError: a file cannot be read, or is larger than `limits.file_bytes`.
        CancelledError: `cancelled` said so.
        UnavailableError: the disk is full or not writable.
    """
    limits, disk = limits or Limits(), disk or RealDisk()
    with _mapped(old, limits) as base, _mapped(new, limits) as target:
        was, now = (digest_file(path) for path in (old, new))
        start = bytes.fromhex(was.digest.hex)
        same = was == now and now.size > 0
        with replacing(patch, disk=disk) as out:
            header = Header(now.size, was.size, base_digest(start), same)
            state = hashlib.sha256()
            for part in _parts(header, base, target):
                if cancelled is not None and cancelled():
                    raise CancelledError("the patch was not made to its end", where=patch)
                state.update(part)
                disk.write(out, part)
            if now.size:
                disk.write(out, seal(state, bytes.fromhex(now.digest.hex)))
    return stat(patch)


def _parts(header: Header, base: memoryview, target: memoryview) -> Iterator[bytes]:
    """The patch but for its seal: the header, then each segment."""
    yield write_header(header)
    if not header.same:
        for begin, end in _cuts(len(target)):
            yield _segment(base, target[begin:end], begin)


@contextmanager
def _mapped(path: Path, limits: Limits) -> Iterator[memoryview]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > limits.file_bytes:
                raise InputError(f"larger than {limits.file_bytes} bytes", where=path)
            if not size:
                yield memoryview(b"")
                return
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error


def _cuts(size: int) -> Iterator[tuple[int, int]]:
    step = size if size <= 2 * _SEGMENT_BYTES else _SEGMENT_BYTES
    for begin in range(0, size, step or 1):
        yield begin, min(begin + step, size)


def _segment(base: memoryview, target: memoryview, begin: int) -> bytes:
    """The framed segment that makes `target`, which lies at `begin` of the new file."""
    low = max(0, min(begin - _SEGMENT_BYTES, len(base) - _DICTIONARY_BYTES))
    near = bytes(base[low : low + _DICTIONARY_BYTES])
    data = bytes(target)
    candidates = [bytes([Method.PACKED, 0]) + pack(data)]
    if near:
        dictionary = varint(len(near)) + varint(low)
        candidates.append(bytes([Method.PACKED]) + dictionary + pack(data, near, thorough=False))
        if len(near) <= _SUFFIX_SORT_BYTES and not _repetitive(near + data):
            candidates.append(_program(_suffix_matches(near, low, data), near, low, data))
    payload = min(candidates, key=len)
    return varint(len(data)) + varint(len(payload)) + payload


def _repetitive(data: bytes) -> bool:
    """Whether a suffix sort would take for ever on `data`."""
    return len(pack(data, thorough=False, level=1)) < _REPETITIVE * len(data)


def _suffix_matches(near: bytes, low: int, data: bytes) -> Sequence[Operation]:
    """Operations by bsdiff's alignment (Percival, 2003)."""
    import bsdiff4.core

    control, _, _ = bsdiff4.core.diff(near, data)
    magnitudes = np.frombuffer(control, "<u8")
    signs = np.where(magnitudes >> 63, -1, 1)
    triples = (signs * (magnitudes & ~np.uint64(1 << 63)).astype(np.int64)).reshape(-1, 3)
    operations, at = [], 0
    for added, literal, seek in triples.tolist():
        if added:
            operations.append(Operation(Kind.ADD, added, low + at))
        if literal:
            operations.append(Operation(Kind.LITERAL, literal))
        at += added + seek
    return operations


def _program(operations: Sequence[Operation], near: bytes, low: int, data: bytes) -> bytes:
    literal, difference, at = bytearray(), bytearray(), 0
    for operation in operations:
        piece = data[at : at + operation.length]
        at += operation.length
        if operation.kind == Kind.LITERAL:
            literal += piece
        elif operation.kind == Kind.ADD:
            start = operation.base - low
            was = np.frombuffer(near, np.uint8, operation.length, start)
            difference += (np.frombuffer(piece, np.uint8) - was).tobytes()
    program = encode_program(operations)
    return b"".join(
        [
            bytes([Method.PROGRAM, 0]),
            varint(len(program)) + sized(pack(program)),
            sized(pack(bytes(literal))),
            sized(pack(bytes(difference))),
        ]
    )
