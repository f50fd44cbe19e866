"""Make one patch of several that follow one another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from skerry.devices.digest import Digest
from skerry.devices.errors import BundleError, InputError
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.wire import (
    Form,
    Header,
    Link,
    PatchFile,
    read_header,
    seal,
    varint,
    write_header,
)

__all__ = ["chain"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Found:
    """A patch that lies in a file."""

    path: Path
    offset: int
    length: int
    header: Header

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            left = self.length
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                left -= len(chunk)
                yield chunk


def chain(
    patches: Sequence[Path],
    result: Digest,
    out: Path,
    *,
    limits: Limits | None = None,
    disk: Disk | None = None,
) -> int:
    """Write one patch that does what `patches` do one after the other, and return its bytes.

    Args:
        patches: the first is for the base, each other for the result of the one before. What is a
            chain itself becomes its links.
        result: the SHA-256 of the last one's result.
        out: where the chain goes; replaced atomically.
        limits: what the decoder will allow.
        disk: the seam through which it is written.

    Raises:
        BundleError: one is malformed, does not fit the one before, or they are too many.
        InputError: a file cannot be read.
    """
    limits = limits or Limits()
    links = [link for path in patches for link in _links(path, limits)]
    if not 0 < len(links) <= limits.links:
        raise BundleError(f"a chain of {len(links)} patches, 1 to {limits.links} are allowed")
    for before, after in pairwise(links):
        if before.header.new_size != after.header.old_size:
            raise BundleError("does not follow the patch before it", where=after.path)
    disk, state, size = disk or RealDisk(), hashlib.sha256(), 0
    header = Header(Form.CHAIN, links[-1].header.new_size, links=len(links))
    with replacing(out, disk=disk) as file:
        for part in _parts(header, links):
            state.update(part)
            disk.write(file, part)
            size += len(part)
        last = seal(state, bytes.fromhex(result.hex))
        disk.write(file, last)
    return size + len(last)


def _parts(header: Header, links: Sequence[_Found]) -> Iterator[bytes]:
    yield write_header(header)
    for link in links:
        yield varint(link.length)
        yield from link.chunks()


def _links(path: Path, limits: Limits) -> Iterator[_Found]:
    try:
        with path.open("rb") as opened:
            file = PatchFile(opened)
            header = read_header(file, limits)
            if header.form != Form.CHAIN:
                yield _Found(path, 0, path.stat().st_size, _based(header, path))
                return
            for _ in range(header.links):
                link = Link(file, file.varint(limits.file_bytes, "chain"))
                begin, length = file.offset, link.left
                inner = read_header(PatchFile(link), limits)
                link.read_all()
                yield _Found(path, begin, length, _based(inner, path))
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error


def _based(header: Header, path: Path) -> Header:
    if header.form != Form.BASED:
        raise BundleError("a chain holds patches that have a base", where=path)
    return header
