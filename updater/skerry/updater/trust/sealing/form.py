"""The form of a sealed blob: chunks of AES-256-GCM, each bound to its place and to the whole.

    offset  bytes
    0       8      magic, `SKRYSEAL`
    8       4      version, 1 (big endian, as all below)
    12      4      plain bytes per chunk
    16      8      plain bytes in all
    24      …      chunks: cipher text, then 16 bytes of tag; the last may be short, none is empty

The key of a blob is HKDF-SHA256 of the content key and the plain blob's digest, so a key seals
exactly one content, and the nonce may be the chunk's number with a flag for the last one. The
header is authenticated with every chunk. Chunks that are cut off, exchanged, repeated or changed do
not open; the same blob under the same content key seals to the same bytes, so a download can go on
where it broke off.

Source: Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (CRYPTO 2015), the STREAM construction; RFC 5869; NIST SP 800-38D.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, InputError, TrustError

__all__ = [
    "HEADER_BYTES",
    "ContentKey",
    "SealLimits",
    "seal",
    "seal_from",
    "sealed_range",
    "sealed_size",
    "unseal",
]

HEADER_BYTES = 24
_MAGIC, _VERSION, _TAG_BYTES, _KEY_BYTES = b"SKRYSEAL", 1, 16, 32
_HEADER = struct.Struct(">8sIIQ")
_INFO = b"skerry sealed blob v1\0"


@dataclass(frozen=True, slots=True)
class SealLimits:
    """Sizes of sealed blobs.

    Attributes:
        chunk_bytes: plain bytes per chunk when sealing.
        largest_chunk_bytes: longest chunk accepted when opening: what memory it may take.
    """

    chunk_bytes: int = 65_536
    largest_chunk_bytes: int = 1 << 20


@dataclass(frozen=True, slots=True)
class ContentKey:
    """32 secret bytes from which the keys of blobs are derived.

    Attributes:
        secret: the bytes; never printed.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != _KEY_BYTES:
            raise InputError(f"a content key has {_KEY_BYTES} bytes")

    @classmethod
    def fresh(cls) -> ContentKey:
        """A new one, from the system's random source."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    def cipher(self, blob: Digest) -> AESGCM:
        """The cipher of the plain blob `blob`."""
        derived = HKDF(SHA256(), 32, salt=None, info=_INFO + bytes.fromhex(blob.hex))
        return AESGCM(derived.derive(self.secret))


def sealed_size(size: int, limits: SealLimits | None = None) -> int:
    """How many bytes a plain blob of `size` bytes takes when sealed."""
    chunk = (limits or SealLimits()).chunk_bytes
    return HEADER_BYTES + size + -(-size // chunk) * _TAG_BYTES


def sealed_range(plain: int, limits: SealLimits | None = None) -> tuple[int, int]:
    """Where to go on after `plain` bytes are here.

    Returns:
        the plain offset of the chunk that holds byte `plain`, and that chunk's sealed offset.
    """
    chunk = (limits or SealLimits()).chunk_bytes
    number = plain // chunk
    return number * chunk, HEADER_BYTES + number * (chunk + _TAG_BYTES)


def seal(
    chunks: Iterable[bytes], blob: Descriptor, key: ContentKey, limits: SealLimits | None = None
) -> Iterator[bytes]:
    """Seal the plain bytes of `blob`.

    Args:
        chunks: the plain bytes, in pieces of any length.
        blob: their digest and length; the caller vouches for the digest.
        key: the content key.
        limits: the length of chunks.

    Raises:
        BundleError: there are more or fewer bytes than `blob` says.
    """
    size = (limits or SealLimits()).chunk_bytes
    header, cipher = _HEADER.pack(_MAGIC, _VERSION, size, blob.size), key.cipher(blob.digest)
    yield header
    done = 0
    for number, piece in enumerate(_regular(chunks, size)):
        done += len(piece)
        if done > blob.size:
            break
        yield cipher.encrypt(_nonce(number, last=done == blob.size), piece, header)
    if done != blob.size:
        raise BundleError("the bytes to seal are not as long as said", where=blob.digest)


def seal_from(
    file: BinaryIO,
    blob: Descriptor,
    key: ContentKey,
    start: int,
    limits: SealLimits | None = None,
) -> Iterator[bytes]:
    """The sealed form of a plain file, from its byte `start` on: the answer to a range.

    Args:
        file: the plain blob, seekable.
        blob: its digest and length.
        key: the content key.
        start: the first sealed byte that is wanted, at most `sealed_size(blob.size)`.
        limits: the length of chunks.
    """
    size, cipher = (limits or SealLimits()).chunk_bytes, key.cipher(blob.digest)
    header = _HEADER.pack(_MAGIC, _VERSION, size, blob.size)
    if start < HEADER_BYTES:
        yield header[start:]
    number, skip = divmod(max(0, start - HEADER_BYTES), size + _TAG_BYTES)
    file.seek(number * size)
    for at in range(number * size, blob.size, size):
        piece = file.read(min(size, blob.size - at))
        last = at + len(piece) == blob.size
        yield cipher.encrypt(_nonce(at // size, last=last), piece, header)[skip:]
        skip = 0


def unseal(
    chunks: Iterable[bytes],
    blob: Descriptor,
    key: ContentKey,
    *,
    from_chunk: int = 0,
    limits: SealLimits | None = None,
) -> Iterator[bytes]:
    """Open a sealed blob, or the rest of one; nothing is handed out that was not authenticated.

    Args:
        chunks: the sealed bytes, in pieces of any length, from the header on; or, with
            `from_chunk`, from the beginning of that chunk on.
        blob: the plain blob's digest and length.
        key: the content key.
        from_chunk: the number of the first chunk that is given.
        limits: with `from_chunk`, the length of chunks; else the longest that is accepted.

    Raises:
        BundleError: this is no sealed form of `blob`.
        TrustError: a chunk does not open: another key, or changed on the way; or some are missing.
    """
    limits = limits or SealLimits()
    source = _Reader(chunks)
    if from_chunk:
        header = _HEADER.pack(_MAGIC, _VERSION, limits.chunk_bytes, blob.size)
    else:
        header = source.take(HEADER_BYTES)
    size, cipher = _chunk_bytes(header, blob, limits), key.cipher(blob.digest)
    done, number = from_chunk * size, from_chunk
    while done < blob.size:
        piece = source.take(min(size, blob.size - done) + _TAG_BYTES)
        last = done + len(piece) - _TAG_BYTES == blob.size
        try:
            plain = cipher.decrypt(_nonce(number, last=last), piece, header)
        except (InvalidTag, ValueError) as error:
            raise TrustError(
                f"chunk {number} does not open: another key, or changed bytes",
                where=blob.digest,
                remedy="fetch it again; if that does not help, ask for the release's key again",
            ) from error
        done, number = done + len(plain), number + 1
        yield plain
    if source.take(1):
        raise TrustError("there is more than the sealed blob", where=blob.digest)


def _chunk_bytes(header: bytes, blob: Descriptor, limits: SealLimits) -> int:
    try:
        magic, version, size, plain = _HEADER.unpack(header)
    except struct.error as error:
        raise TrustError("ends before its header does", where=blob.digest) from error
    if magic != _MAGIC or version != _VERSION or plain != blob.size:
        raise BundleError("is not the sealed form of this blob", where=blob.digest)
    if not 0 < size <= limits.largest_chunk_bytes:
        raise BundleError(f"has chunks of {size} bytes", where=blob.digest)
    return int(size)


def _nonce(number: int, *, last: bool) -> bytes:
    return struct.pack(">3xBQ", last, number)


def _regular(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of exactly `size`, the last one shorter."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


class _Reader:
    """Takes exact lengths from pieces of any length."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._held = iter(chunks), bytearray()

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        while len(self._held) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held += chunk
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken
