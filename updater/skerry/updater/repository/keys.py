"""Signing keys: Ed25519 in PEM files, and the keys that a server holds online.

Whatever signs is a `securesystemslib.signer.Signer`; a file is one kind, a token by PKCS#11 or a
cloud's key service are others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically

__all__ = [
    "DIRECTOR_ROLES",
    "IMAGE_ROLES",
    "OnlineKeys",
    "OnlinePublic",
    "Passphrase",
    "key_from_dict",
    "load_key",
    "make_key",
]

IMAGE_ROLES = ("snapshot", "timestamp", "deltas")
DIRECTOR_ROLES = ("targets", "snapshot", "timestamp")
_KEY_FILE_BYTES = 65_536

Passphrase = Callable[[Path], str]
"""Asked for the passphrase of an encrypted key file."""


def make_key(path: Path, passphrase: str | None = None) -> Signer:
    """Make an Ed25519 key and keep it in `path`: PKCS#8 PEM, mode 0600, encrypted if asked.

    Raises:
        InputError: there is a file already; a key is never replaced.
    """
    if path.exists():
        raise InputError("a key is here already", where=path, remedy="choose another folder")
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_atomically(path, pem, mode=0o600)
    return CryptoSigner(private)


def load_key(path: Path, passphrase: Passphrase | None = None) -> Signer:
    """The signer of a PEM file.

    Args:
        path: a PKCS#8 private key, Ed25519, ECDSA P-256 or RSA.
        passphrase: asked if the file is encrypted.

    Raises:
        InputError: no such file, not a key, or a wrong passphrase.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_FILE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the key: {error.strerror}", where=path) from error
    secret = None
    if b"ENCRYPTED" in data:
        if passphrase is None:
            remedy = "give its passphrase with --passphrase-file"
            raise InputError("the key is encrypted", where=path, remedy=remedy)
        secret = passphrase(path).encode()
    try:
        return CryptoSigner(load_pem_private_key(data, secret))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        remedy = "check the passphrase and the file"
        raise InputError("is not a key that can be opened", where=path, remedy=remedy) from error


def key_from_dict(document: Mapping[str, Any]) -> Key:
    """A public key in the form of TUF metadata, with its `keyid`.

    Raises:
        InputError: it has another form, or the id is not that of the key.
    """
    words = dict(document)
    try:
        given = words.pop("keyid")
        key = Key.from_dict(given, words)
        honest = isinstance(key, SSlibKey) and SSlibKey.from_crypto(_crypto(key)).keyid == given
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"is not a public key: {error}", where="keyid") from error
    if not honest:
        raise InputError("the key's id is not that of its content", where=str(given)[:80])
    return key


def _crypto(key: SSlibKey) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public = key.keyval["public"]
    if key.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    return load_pem_public_key(public.encode())


@dataclass(frozen=True, slots=True)
class OnlinePublic:
    """The public halves of a server's keys, by role.

    Attributes:
        image: keys of `snapshot`, `timestamp` and `deltas`.
        director: keys of `targets`, `snapshot` and `timestamp`.
    """

    image: Mapping[str, Key]
    director: Mapping[str, Key]

    def encode(self) -> bytes:
        """As `online.json`."""
        document = {
            "schema": 1,
            "image": {role: _public(key) for role, key in self.image.items()},
            "director": {role: _public(key) for role, key in self.director.items()},
        }
        return msgspec.json.format(msgspec.json.encode(document, order="sorted")) + b"\n"

    @classmethod
    def decode(cls, data: bytes, *, where: object = "online.json") -> OnlinePublic:
        """Read `online.json`.

        Raises:
            InputError: it is another file, or a role's key is missing.
        """
        try:
            document = msgspec.json.decode(data, type=_OnlineFile)
        except msgspec.DecodeError as error:
            raise InputError(
                f"does not hold a server's public keys: {error}",
                where=where,
                remedy="take keys/online.json from the server's home",
            ) from error
        for roles, keys in ((IMAGE_ROLES, document.image), (DIRECTOR_ROLES, document.director)):
            if set(keys) != set(roles):
                raise InputError(f"keys of {', '.join(roles)} are expected", where=where)
        return cls(
            {role: key_from_dict(document.image[role]) for role in IMAGE_ROLES},
            {role: key_from_dict(document.director[role]) for role in DIRECTOR_ROLES},
        )


class _OnlineFile(msgspec.Struct, frozen=True):
    image: dict[str, dict[str, Any]]
    director: dict[str, dict[str, Any]]
    schema: int = 1


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """The keys with which a server signs: one per role, made on it, and replaceable by the root.

    Attributes:
        image: signers of `snapshot`, `timestamp` and `deltas`.
        director: signers of `targets`, `snapshot` and `timestamp`.
    """

    image: Mapping[str, Signer]
    director: Mapping[str, Signer]

    @classmethod
    def generate(cls, folder: Path) -> OnlineKeys:
        """Make the keys in `folder`, with `online.json` beside them for the operator.

        Raises:
            InputError: there are keys already.
        """
        keys = cls(
            {role: make_key(folder / f"image-{role}.pem") for role in IMAGE_ROLES},
            {role: make_key(folder / f"director-{role}.pem") for role in DIRECTOR_ROLES},
        )
        write_atomically(folder / "online.json", keys.public)
        return keys

    @classmethod
    def load(cls, folder: Path) -> OnlineKeys:
        """The keys that `generate` left in `folder`.

        Raises:
            InputError: one is missing or damaged.
        """
        return cls(
            {role: load_key(folder / f"image-{role}.pem") for role in IMAGE_ROLES},
            {role: load_key(folder / f"director-{role}.pem") for role in DIRECTOR_ROLES},
        )

    @property
    def public(self) -> bytes:
        """The content of `online.json`."""
        return OnlinePublic(
            {role: signer.public_key for role, signer in self.image.items()},
            {role: signer.public_key for role, signer in self.director.items()},
        ).encode()


def _public(key: Key) -> dict[str, Any]:
    return {"keyid": key.keyid, **key.to_dict()}
