"""Content addresses: `sha256:<64 hex digits>`, as in OCI descriptors."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from skerry.devices.errors import DigestMismatch, InputError

__all__ = ["Descriptor", "Digest", "digest_file", "digest_rest"]

_FORM = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The SHA-256 of some bytes, written `sha256:<hex>`."""

    text: str

    def __post_init__(self) -> None:
        if not _FORM.fullmatch(self.text):
            raise InputError(
                f"{self.text[:80]!r} is not a digest", remedy="expected sha256:<64 hex digits>"
            )

    def __str__(self) -> str:
        return self.text

    @property
    def hex(self) -> str:
        """The 64 hex digits."""
        return self.text.partition(":")[2]

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people."""
        return self.hex[:12]

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview) -> Digest:
        """The digest of `data`."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @classmethod
    def from_hex(cls, hex_digits: str) -> Digest:
        """The digest whose 64 hex digits are given."""
        return cls("sha256:" + hex_digits)

    def check(self, data: bytes | bytearray | memoryview, *, where: object) -> None:
        """Raise `DigestMismatch` unless `data` hashes to this digest."""
        found = Digest.of(data)
        if found != self:
            raise DigestMismatch(
                f"content is {found.short}…, expected {self.short}…",
                where=where,
                remedy="fetch it again from a trusted source",
            )


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A digest with the length in bytes that goes with it: what may be fetched, and how much."""

    digest: Digest
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise InputError(f"negative size {self.size}", where=self.digest)


def digest_file(path: Path) -> Descriptor:
    """The digest and length of the file at `path`, read in chunks."""
    with path.open("rb") as file:
        return digest_rest(file)


def digest_rest(file: BinaryIO) -> Descriptor:
    """The digest and length of what an open file has yet to give, read in chunks."""
    state, size = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK_BYTES):
        state.update(chunk)
        size += len(chunk)
    return Descriptor(Digest.from_hex(state.hexdigest()), size)
