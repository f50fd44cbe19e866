"""Apply a patch: the base and the patch → the result, one segment at a time.

Nothing is left behind unless the whole result has the digest that the patch says. The base is only
read. Memory is bounded by `Limits`, whatever the sizes of the files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from skerry.devices.errors import (
    BundleError,
    CancelledError,
    DigestMismatch,
    InputError,
    UnavailableError,
)
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.segment import Method, decode_segment
from skerry.updater.delta.wire import (
    Header,
    PatchFile,
    Reader,
    base_digest,
    hash_file,
    read_header,
)

__all__ = ["Checkpoint", "apply", "decode"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far an application has come; the segments before it need not be looked at again.

    Attributes:
        segments: segments done.
        patch_offset: where the next one begins in the patch.
        new_bytes: bytes of the result that are made.
        new_size: bytes of the whole result.
    """

    segments: int
    patch_offset: int
    new_bytes: int
    new_size: int


def apply(
    old: Path,
    patch: Path,
    new: Path,
    *,
    limits: Limits | None = None,
    reached: Callable[[Checkpoint], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    disk: Disk | None = None,
) -> None:
    """Make `new` from the base `old` and the patch, whole or not at all.

    Args:
        old: the base; it is only read.
        patch: what `create` wrote.
        new: where the result goes; replaced atomically.
        limits: what the patch may ask for.
        reached: told after each segment.
        cancelled: asked before each segment.
        disk: the seam through which the result is written.

    Raises:
        DigestMismatch: `old` is not the base of this patch, or the result is not what it says.
        BundleError: the patch is malformed or asks for more than `limits`.
        CancelledError: `cancelled` said so.
        InputError: a file cannot be read.
        UnavailableError: the disk is full or not writable.
    """
    disk = disk or RealDisk()
    with _open(old) as base, _open(patch) as packed, replacing(new, disk=disk) as result:
        for chunk, checkpoint in decode(base, packed, limits or Limits()):
            if cancelled is not None and cancelled():
                raise CancelledError("the patch was not applied to its end", where=new)
            disk.write(result, chunk)
            if reached is not None and checkpoint is not None:
                reached(checkpoint)


def decode(
    base: BinaryIO, packed: BinaryIO, limits: Limits
) -> Iterator[tuple[bytes, Checkpoint | None]]:
    """The result in chunks; each segment's last comes with a checkpoint.

    The base is checked before the first chunk, the whole result after the last: it is good once
    this ends without an error.

    Args:
        base: the base, from its beginning.
        packed: the patch, from its beginning.
        limits: what the patch may ask for.

    Raises:
        DigestMismatch: the base is another, or the patch or its result is damaged.
        BundleError: the patch is malformed or asks for more than `limits`.
    """
    file = PatchFile(packed)
    header = read_header(file, limits)
    _check_base(header, base)
    if header.same:
        file.check_seal(hash_file(base))
    state = hashlib.sha256()
    for chunk, checkpoint in _decode(header, base, file, limits):
        state.update(chunk)
        yield chunk, checkpoint
    if header.new_size and not header.same:
        file.check_seal(state.digest())


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error


def _check_base(header: Header, base: BinaryIO) -> None:
    if header.old_size is None:
        return
    size = base.seek(0, os.SEEK_END)
    base.seek(0)
    differs = not header.same and base_digest(hash_file(base)) != header.base
    base.seek(0)
    if size != header.old_size or differs:
        raise DigestMismatch(
            "this is not the base that the patch was made from",
            remedy="fetch the whole file instead",
        )


def _decode(
    header: Header, base: BinaryIO, packed: PatchFile, limits: Limits
) -> Iterator[tuple[bytes, Checkpoint | None]]:
    old_size = header.old_size or 0

    def read(offset: int, length: int) -> bytes:
        base.seek(offset)
        data = base.read(length)
        if len(data) != length:
            raise UnavailableError("the base became shorter while it was read")
        return data

    made = segments = 0
    if header.same:
        for chunk in _ranges(0, header.new_size):
            yield read(*chunk), None
        made = header.new_size
    while made < header.new_size:
        segments += 1
        if segments > limits.segments:
            raise BundleError(f"a patch has more than {limits.segments} segments")
        length = packed.varint(header.new_size - made, "segment")
        size = packed.varint(limits.payload_bytes, "segment")
        payload = packed.take(size, "segment")
        made += length
        checkpoint = Checkpoint(segments, packed.offset, made, header.new_size)
        if payload[:1] == bytes([Method.COPY]):
            ranges = list(_ranges(_copied(payload, length, old_size), length))
            for number, chunk in enumerate(ranges):
                yield read(*chunk), checkpoint if number == len(ranges) - 1 else None
        elif 0 < length <= limits.segment_bytes:
            yield decode_segment(payload, length, read, old_size, limits), checkpoint
        else:
            raise BundleError(f"a segment of {length} bytes")


def _copied(payload: bytes, length: int, old_size: int) -> int:
    reader = Reader(payload[1:], "segment")
    offset = reader.varint(old_size)
    reader.end()
    if not 0 < length <= old_size - offset:
        raise BundleError("a copy reaches beyond the base")
    return offset


def _ranges(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, _CHUNK_BYTES):
        yield offset + start, min(_CHUNK_BYTES, length - start)
