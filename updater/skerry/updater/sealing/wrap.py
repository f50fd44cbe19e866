"""Handing a content key to one device: wrapped so that only its private key unwraps it.

ECDH between a key made for this envelope and the device's P-256 key; HKDF-SHA256 of the shared
secret, bound to both public keys, the device and the purpose; AES-256 key wrap.

Source: NIST SP 800-56A (ECDH, one ephemeral key), RFC 5869 (HKDF), RFC 3394 (AES key wrap); as
`ECDH-ES+A256KW` in RFC 7518.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from skerry.devices.errors import InputError, TrustError
from skerry.updater.sealing.form import ContentKey

__all__ = ["Agreement", "Envelope", "unwrap", "wrap"]

_INFO = b"skerry content key v1\0"


class Agreement(Protocol):
    """A P-256 key that agrees on secrets without showing itself: a file, a TPM, a token."""

    @property
    def public_key(self) -> EllipticCurvePublicKey:
        """The public half."""

    def agree(self, theirs: EllipticCurvePublicKey) -> bytes:
        """The shared secret of ECDH with `theirs`, 32 bytes; ValueError if there is none."""


class Envelope(msgspec.Struct, frozen=True):
    """A content key that one device can unwrap.

    Attributes:
        ephemeral: the public key made for it, as an uncompressed point of P-256 (65 bytes).
        wrapped: the content key, wrapped (40 bytes).
        schema: the version of this form.
    """

    ephemeral: bytes
    wrapped: bytes
    schema: int = 1

    def encode(self) -> bytes:
        """As JSON, bytes in base64."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Envelope:
        """Read an envelope.

        Raises:
            InputError: it has another form.
        """
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"is no envelope of a content key: {error}") from error


def wrap(key: ContentKey, device: EllipticCurvePublicKey, purpose: str) -> Envelope:
    """Wrap `key` for the holder of `device`'s private key.

    Args:
        key: the content key.
        device: the device's public key, on P-256.
        purpose: what the key is for, such as release and device; the same words unwrap it.

    Raises:
        InputError: the device's key is on another curve.
    """
    _require_p256(device)
    ephemeral = generate_private_key(SECP256R1())
    point = _point(ephemeral.public_key())
    shared = ephemeral.exchange(ECDH(), device)
    return Envelope(point, aes_key_wrap(_wrapping(shared, point, device, purpose), key.secret))


def unwrap(envelope: Envelope, device: Agreement, purpose: str) -> ContentKey:
    """The content key of an envelope that was made for this device and purpose.

    Raises:
        TrustError: it was made for another device or purpose, or was changed.
    """
    _require_p256(device.public_key)
    try:
        theirs = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), envelope.ephemeral)
        shared = device.agree(theirs)
        secret = _wrapping(shared, envelope.ephemeral, device.public_key, purpose)
        return ContentKey(aes_key_unwrap(secret, envelope.wrapped))
    except (InvalidUnwrap, ValueError, InputError) as error:
        raise TrustError(
            "the content key does not unwrap: it is for another device or release",
            where=purpose,
            remedy="ask the server for this device's key again",
        ) from error


def _wrapping(shared: bytes, point: bytes, device: EllipticCurvePublicKey, purpose: str) -> bytes:
    info = _INFO + point + _point(device) + purpose.encode()
    return HKDF(SHA256(), 32, salt=None, info=info).derive(shared)


def _point(key: EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _require_p256(key: EllipticCurvePublicKey) -> None:
    if not isinstance(key.curve, SECP256R1):
        raise InputError("a device's key is on the curve P-256", where=key.curve.name)
