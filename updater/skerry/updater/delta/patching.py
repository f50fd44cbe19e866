"""Decode a patch: the base and the patch → the result, one segment at a time.

The base is only read. Memory is bounded by `Limits`, whatever the sizes of the files.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from skerry.devices.errors import BundleError, DigestMismatch, UnavailableError
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.segment import Method, decode_segment
from skerry.updater.delta.turns import in_turn
from skerry.updater.delta.wire import (
    Form,
    Header,
    Link,
    PatchFile,
    Readable,
    Reader,
    base_digest,
    read_header,
)

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

__all__ = ["Checkpoint", "Decoding", "Links", "decode"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the decoding of a patch has come; it can go on from there.

    Attributes:
        segments: segments done.
        patch_offset: where the next one begins in the patch.
        new_bytes: bytes of the result that are made.
        new_size: bytes of the whole result.
        patch_digest: SHA-256 of the patch up to there, hex.
        new_digest: SHA-256 of what is made, hex.
    """

    segments: int
    patch_offset: int
    new_bytes: int
    new_size: int
    patch_digest: str
    new_digest: str


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment as it lies in the patch.

    Attributes:
        number: of the segment, from 1.
        length: bytes of the result.
        payload: what makes them.
        patch_offset, patch_state: where it ends in the patch, and SHA-256 up to there.
    """

    number: int
    length: int
    payload: bytes
    patch_offset: int
    patch_state: Hash


class Links:
    """The patches that a file holds: itself, or those of a chain, to be decoded in turn.

    Args:
        packed: the file, from its beginning.
        limits: what it may ask for.

    Raises:
        BundleError: the file is no patch.
    """

    def __init__(self, packed: BinaryIO, limits: Limits) -> None:
        self._packed, self._limits, self._file = packed, limits, PatchFile(packed)
        self._header = read_header(self._file, limits)
        self._chain = self._header.form == Form.CHAIN
        self.count = self._header.links

    def __iter__(self) -> Iterator[tuple[Readable, Limits]]:
        """Each patch and what it may ask for; take the next one when the last one is decoded."""
        if not self._chain:
            self._packed.seek(0)
            yield self._packed, self._limits
            return
        between = replace(self._limits, file_bytes=self._limits.link_bytes)
        for number in range(1, self.count + 1):
            link = Link(self._file, self._file.varint(self._limits.file_bytes, "chain"))
            yield link, self._limits if number == self.count else between
            link.read_all()

    def end(self, digest: bytes, size: int) -> None:
        """Raise unless the file is whole and makes what a chain says that it makes.

        Args:
            digest, size: of the last patch's result.
        """
        if self._chain:
            if size != self._header.new_size:
                raise BundleError("a chain makes another size than it says")
            self._file.check_seal(digest)


class Decoding:
    """One patch on its way to a result. Iterate it once: it yields the result in chunks, and with
    each segment's last chunk a checkpoint.

    The base is checked before the first chunk, the whole result after the last: it is good once the
    iteration ends without an error. `made` and `digest` are its size and SHA-256 then.

    Args:
        base: the base, from its beginning.
        packed: the patch, from its beginning; not a chain.
        limits: what the patch may ask for.
        begun: where an earlier decoding of the same patch stopped.
        made: SHA-256 over what that one made, which the caller has found to be as `begun` says.
    """

    def __init__(
        self,
        base: BinaryIO,
        packed: Readable,
        limits: Limits,
        begun: Checkpoint | None = None,
        made: Hash | None = None,
    ) -> None:
        self._base, self._file, self._limits = base, PatchFile(packed), limits
        self._begun, self._state = begun, made or hashlib.sha256()
        self._reading = threading.Lock()
        self.made = 0 if begun is None else begun.new_bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was made so far."""
        return self._state.digest()

    def __iter__(self) -> Iterator[tuple[bytes, Checkpoint | None]]:
        """The result in chunks.

        Raises:
            DigestMismatch: the base is another, or the patch or its result is damaged.
            BundleError: the patch is malformed or asks for more than `limits`.
        """
        header = read_header(self._file, self._limits)
        self._check_size(header)
        match header.form:
            case Form.CHAIN:
                raise BundleError("a chain within a chain")
            case Form.SAME:
                yield from self._same(header)
            case Form.BASED | Form.ALONE:
                yield from self._segments(header)
            case Form.EMPTY:
                pass
        if header.form != Form.EMPTY:
            self._file.check_seal(self.digest)
        else:
            self._file.end()

    def _check_size(self, header: Header) -> None:
        if header.old_size is not None and self._base.seek(0, os.SEEK_END) != header.old_size:
            raise _other_base()

    def _check_base(self, header: Header) -> None:
        """Raise unless the base is the patch's; nothing that was made of it is told before."""
        if header.form != Form.BASED or header.old_size is None:
            return
        state = hashlib.sha256()
        for part in _ranges(0, header.old_size):
            state.update(self._read(*part))
        if base_digest(state.digest()) != header.base:
            raise _other_base()

    def _same(self, header: Header) -> Iterator[tuple[bytes, None]]:
        for part in _ranges(0, header.new_size):
            yield self._told(self._read(*part)), None

    def _segments(self, header: Header) -> Iterator[tuple[bytes, Checkpoint | None]]:
        old_size = header.old_size or 0
        jobs = (partial(self._decoded, s, old_size) for s in self._packed_segments(header))
        for segment, made in in_turn(jobs, partial(self._check_base, header)):
            if made is not None:
                yield self._told(made), None
            else:
                for part in _ranges(_copied(segment, old_size), segment.length):
                    yield self._told(self._read(*part)), None
            yield b"", self._checkpoint(segment, header.new_size)

    def _packed_segments(self, header: Header) -> Iterator[_Segment]:
        """The segments that are left, read from the patch."""
        file, number, reached = self._file, 0, self.made
        if self._begun is not None:
            number = self._begun.segments
            self._go_to(self._begun, header)
        while reached < header.new_size:
            number += 1
            if number > self._limits.segments:
                raise BundleError(f"a patch has more than {self._limits.segments} segments")
            length = file.varint(header.new_size - reached, "segment")
            payload = file.take(file.varint(self._limits.payload_bytes, "segment"), "segment")
            reached += length
            yield _Segment(number, length, payload, file.offset, file.state.copy())

    def _told(self, chunk: bytes) -> bytes:
        self._state.update(chunk)
        self.made += len(chunk)
        return chunk

    def _checkpoint(self, done: _Segment, size: int) -> Checkpoint:
        patch, made = done.patch_state.hexdigest(), self.digest.hex()
        return Checkpoint(done.number, done.patch_offset, self.made, size, patch, made)

    def _go_to(self, begun: Checkpoint, header: Header) -> None:
        """Pass over what `begun` says is done, if it is of this patch."""
        self._file.skip(max(0, begun.patch_offset - self._file.offset), "segment")
        reached = _Segment(begun.segments, 0, b"", self._file.offset, self._file.state.copy())
        there = self._checkpoint(reached, header.new_size)
        if there != begun:
            raise DigestMismatch("the checkpoint is of another patch", remedy="begin anew")

    def _decoded(self, segment: _Segment, old_size: int) -> tuple[_Segment, bytes | None]:
        """A segment and its bytes; none for a copy, which may be too long to be held."""
        if segment.payload[:1] == bytes([Method.COPY]):
            return segment, None
        if not 0 < segment.length <= self._limits.segment_bytes:
            raise BundleError(f"a segment of {segment.length} bytes")
        made = decode_segment(segment.payload, segment.length, self._read, old_size, self._limits)
        return replace(segment, payload=b""), made

    def _read(self, offset: int, length: int) -> bytes:
        with self._reading:
            self._base.seek(offset)
            data = self._base.read(length)
        if len(data) != length:
            raise UnavailableError("the base became shorter while it was read")
        return data


def decode(
    base: BinaryIO, packed: BinaryIO, limits: Limits
) -> Iterator[tuple[bytes, Checkpoint | None]]:
    """The result in chunks, on no disk. It is good once this ends without an error.

    What the patches of a chain make on the way is held in memory, whole.

    Args:
        base: the base, from its beginning.
        packed: the patch, from its beginning.
        limits: what the patch may ask for.

    Raises:
        DigestMismatch: the base is another, or the patch or its result is damaged.
        BundleError: the patch is malformed or asks for more than `limits`.
    """
    links = Links(packed, limits)
    for number, (link, allowed) in enumerate(links, 1):
        decoding = Decoding(base, link, allowed)
        if number == links.count:
            yield from decoding
        else:
            base = io.BytesIO(b"".join(chunk for chunk, _ in decoding))
    links.end(decoding.digest, decoding.made)


def _other_base() -> DigestMismatch:
    return DigestMismatch(
        "this is not the base that the patch was made from", remedy="fetch the whole file instead"
    )


def _copied(segment: _Segment, old_size: int) -> int:
    """Where in the base a copy begins."""
    reader = Reader(segment.payload[1:], "segment")
    offset = reader.varint(old_size)
    reader.end()
    if not 0 < segment.length <= old_size - offset:
        raise BundleError("a copy reaches beyond the base")
    return offset


def _ranges(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, _CHUNK_BYTES):
        yield offset + start, min(_CHUNK_BYTES, length - start)
