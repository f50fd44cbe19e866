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

import hashlib
import re
import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, InputError

__all__ = [
    "HEADER_BYTES",
    "TAG_BYTES",
    "ContentKey",
    "SealLimits",
    "check_key_id",
    "header_of",
    "nonce",
    "plain_size",
    "seal",
    "sealed_size",
]

HEADER_BYTES = 24
TAG_BYTES = 16
_MAGIC, _VERSION, _KEY_BYTES = b"SKRYSEAL", 1, 32
_HEADER = struct.Struct(">8sIIQ")
_INFO = b"skerry sealed blob v1\0"
_ID_INFO, _ID_DIGITS = b"skerry content key id v1\0", 32
_ID = re.compile(rf"[0-9a-f]{{{_ID_DIGITS}}}")


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

    @property
    def id(self) -> str:
        """What it is called where it is not here: 32 hex digits that tell nothing of it."""
        return hashlib.sha256(_ID_INFO + self.secret).hexdigest()[:_ID_DIGITS]

    def cipher(self, blob: Digest) -> AESGCM:
        """The cipher of the plain blob `blob`."""
        derived = HKDF(SHA256(), 32, salt=None, info=_INFO + bytes.fromhex(blob.hex))
        return AESGCM(derived.derive(self.secret))


def check_key_id(text: str) -> str:
    """`text`, if it could be the id of a content key.

    Raises:
        InputError: it could not.
    """
    if not _ID.fullmatch(text):
        raise InputError(f"{text[:80]!r} is no id of a content key", remedy="32 hex digits")
    return text


def sealed_size(size: int, limits: SealLimits | None = None) -> int:
    """How many bytes a plain blob of `size` bytes takes when sealed."""
    chunk = (limits or SealLimits()).chunk_bytes
    return HEADER_BYTES + size + -(-size // chunk) * TAG_BYTES


def plain_size(sealed: int, limits: SealLimits | None = None) -> int | None:
    """How many plain bytes are in `sealed` sealed ones; None where no blob is sealed to so many."""
    chunk = (limits or SealLimits()).chunk_bytes
    body = sealed - HEADER_BYTES
    if body < 0:
        return None
    plain = body - -(-body // (chunk + TAG_BYTES)) * TAG_BYTES
    return plain if plain >= 0 and sealed_size(plain, limits) == sealed else None


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
        yield cipher.encrypt(nonce(number, last=done == blob.size), piece, header)
    if done != blob.size:
        raise BundleError("the bytes to seal are not as long as said", where=blob.digest)


def header_of(data: bytes, limits: SealLimits | None = None) -> tuple[int, int]:
    """Plain bytes per chunk, and plain bytes in all, of a sealed blob that begins with `data`.

    Raises:
        BundleError: this is no beginning of a sealed blob, or its chunks are longer than allowed.
    """
    try:
        magic, version, chunk, plain = _HEADER.unpack(data)
    except struct.error as error:
        raise BundleError("ends before its header does", where="sealed blob") from error
    if magic != _MAGIC or version != _VERSION:
        raise BundleError("is no sealed blob", where="sealed blob")
    if not 0 < chunk <= (limits or SealLimits()).largest_chunk_bytes:
        raise BundleError(f"has chunks of {chunk} bytes", where="sealed blob")
    return chunk, plain


def nonce(number: int, *, last: bool) -> bytes:
    """The nonce of a chunk: its number, and whether it is the last."""
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
