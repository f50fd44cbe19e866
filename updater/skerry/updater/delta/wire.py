"""The bytes of a patch: integers, the header, and where each segment begins.

docs/delta-format.md specifies them. Nothing here takes more memory than a segment may have.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from skerry.devices.errors import BundleError, DigestMismatch
from skerry.updater.delta.limits import Limits

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

__all__ = [
    "BASE_DIGEST_BYTES",
    "MAGIC",
    "SEAL_BYTES",
    "VERSION",
    "Form",
    "Header",
    "Link",
    "PatchFile",
    "Readable",
    "Reader",
    "base_digest",
    "read_header",
    "seal",
    "signed",
    "varint",
    "write_header",
]

MAGIC = 0xE4
VERSION = 2
BASE_DIGEST_BYTES = 8
SEAL_BYTES = 16
_VARINT_BYTES = 9
_CHUNK_BYTES = 1 << 20


class Readable(Protocol):
    """What a patch is read from."""

    def read(self, count: int, /) -> bytes:
        """The next bytes, `count` unless it ends."""


class Form(IntEnum):
    """What a patch is."""

    BASED = 0  # segments over a base
    EMPTY = 1  # the result is empty
    SAME = 2  # the result is the base itself
    ALONE = 3  # segments that read no base
    CHAIN = 4  # patches, each of which has the last one's result as its base


_FORMS_1 = {0: Form.BASED, 1: Form.EMPTY, 2: Form.SAME, 4: Form.ALONE}
_FORMS_2 = {14: Form.BASED, 10: Form.SAME, 6: Form.ALONE, 15: Form.CHAIN}
_FORMS = {1: _FORMS_1, 2: _FORMS_2}
_KINDS = {form: kind for kind, form in _FORMS_2.items()}
_EMPTY = bytes([MAGIC ^ 0xFF, (VERSION << 4 | _KINDS[Form.BASED]) ^ 0xFF])
"""The empty patch, which has no seal: many bits away from the beginning of any other."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a patch says of the two files.

    Attributes:
        form: what it is.
        new_size: bytes of the result.
        old_size: bytes of the base; None where the base is not read.
        base: first 8 bytes of the base's SHA-256; empty where the base is not read.
        links: how many patches a chain holds.
    """

    form: Form
    new_size: int
    old_size: int | None = None
    base: bytes = b""
    links: int = 1


def base_digest(digest: bytes) -> bytes:
    """As much of the base's SHA-256 as a patch holds."""
    return digest[:BASE_DIGEST_BYTES]


def seal(patch_before: Hash, result: bytes) -> bytes:
    """The last bytes of a patch, which hold for each of its bits and for the result's.

    Args:
        patch_before: SHA-256 over every byte of the patch before the seal; left as it is.
        result: the SHA-256 of the result.
    """
    state = patch_before.copy()
    state.update(result)
    return state.digest()[:SEAL_BYTES]


def varint(value: int) -> bytes:
    """`value` ≥ 0 in groups of seven bits, lowest first, the high bit set on all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed(value: int) -> int:
    """A signed integer folded into an unsigned one: 0, −1, 1, −2 → 0, 1, 2, 3."""
    return value * 2 if value >= 0 else -value * 2 - 1


class Reader:
    """A cursor over bytes already in memory; every read is bounded by them."""

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data, self.at, self._what = memoryview(data), 0, what

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.at

    def take(self, count: int) -> memoryview:
        """The next `count` bytes."""
        if count > self.left:
            raise BundleError(f"the {self._what} ends too early", remedy="fetch the patch again")
        self.at += count
        return self._data[self.at - count : self.at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self, most: int) -> int:
        """The next unsigned integer, at most `most`."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift >= 7 * _VARINT_BYTES:
                raise BundleError(f"an integer in the {self._what} is too long")
        if value > most:
            raise BundleError(f"the {self._what} says {value}, at most {most} is allowed")
        return value

    def signed(self, most: int) -> int:
        """The next signed integer, of magnitude at most `most`."""
        value = self.varint(2 * most + 1)
        return -(value >> 1) - 1 if value & 1 else value >> 1

    def end(self) -> None:
        """Raise unless every byte was read."""
        if self.left:
            raise BundleError(f"{self.left} bytes too many in the {self._what}")


class PatchFile:
    """A patch read from its beginning, each byte once, and hashed on the way."""

    def __init__(self, file: Readable) -> None:
        self._file, self.state, self.offset = file, hashlib.sha256(), 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes, which belong to `what`."""
        data = self._file.read(count)
        if len(data) != count:
            raise BundleError(f"the patch ends within the {what}", remedy="fetch it again")
        self.state.update(data)
        self.offset += count
        return data

    def skip(self, count: int, what: str) -> None:
        """Pass over the next `count` bytes."""
        while count:
            count -= len(self.take(min(count, _CHUNK_BYTES), what))

    def varint(self, most: int, what: str) -> int:
        """The next unsigned integer, at most `most`."""
        encoded = bytearray()
        while True:
            encoded += self.take(1, what)
            if encoded[-1] < 0x80 or len(encoded) > _VARINT_BYTES:
                return Reader(bytes(encoded), what).varint(most)

    def check_seal(self, result: bytes) -> None:
        """Read the seal, and raise unless it is right and the patch ends with it.

        Args:
            result: the SHA-256 of the result.
        """
        expected = seal(self.state, result)
        if self.take(SEAL_BYTES, "seal") != expected:
            raise DigestMismatch(
                "the patch is damaged, or does not make what it was made for",
                remedy="fetch the patch again, or the whole file",
            )
        self.end()

    def end(self) -> None:
        """Raise unless nothing follows."""
        if self._file.read(1):
            raise BundleError("bytes follow the end of the patch", remedy="fetch it again")


class Link:
    """One patch of a chain as a file of its own, read through the chain's.

    Args:
        chain: at the link's first byte.
        length: of the link in bytes.
    """

    def __init__(self, chain: PatchFile, length: int) -> None:
        self._chain, self.left = chain, length

    def read(self, count: int) -> bytes:
        """At most `count` of the bytes that are left."""
        data = self._chain.take(min(count, self.left), "chain")
        self.left -= len(data)
        return data

    def read_all(self) -> None:
        """Pass over what is left."""
        self._chain.skip(self.left, "chain")
        self.left = 0


def write_header(header: Header) -> bytes:
    """The header's bytes, of the newest version."""
    if header.form == Form.EMPTY:
        return _EMPTY
    start = bytes([MAGIC, VERSION << 4 | _KINDS[header.form]])
    match header.form:
        case Form.BASED:
            start += varint(header.old_size or 0) + header.base
        case Form.CHAIN:
            start += varint(header.links)
        case _:
            pass
    return start + varint(header.new_size)


def read_header(file: PatchFile, limits: Limits) -> Header:
    """The header at the beginning of `file`.

    Raises:
        BundleError: it is no patch, of a later version, or claims sizes beyond `limits`.
    """
    start = file.take(2, "header")
    if start == _EMPTY:
        return Header(Form.EMPTY, 0)
    magic, kind = start
    if magic != MAGIC:
        raise BundleError("this is not a skerry patch", remedy="give the file `create` wrote")
    if kind >> 4 not in _FORMS:
        raise BundleError(
            f"patch format version {kind >> 4} is not known here", remedy="update skerry"
        )
    match _FORMS[kind >> 4].get(kind & 15):
        case Form.EMPTY:
            return Header(Form.EMPTY, 0)
        case Form.SAME:
            size = _size(file, limits)
            return Header(Form.SAME, size, size)
        case Form.BASED:
            old_size = file.varint(limits.file_bytes, "header")
            base = file.take(BASE_DIGEST_BYTES, "header")
            return Header(Form.BASED, _size(file, limits), old_size, base)
        case Form.ALONE:
            return Header(Form.ALONE, _size(file, limits))
        case Form.CHAIN:
            links = file.varint(limits.links, "header")
            if not links:
                raise BundleError("a chain of no patches", remedy="fetch the patch again")
            return Header(Form.CHAIN, _size(file, limits), links=links)
        case _:
            raise BundleError(f"unknown kind of patch {kind & 15}", remedy="update skerry")


def _size(file: PatchFile, limits: Limits) -> int:
    size = file.varint(limits.file_bytes, "header")
    if not size:
        raise BundleError("a patch that makes nothing should be empty")
    return size
