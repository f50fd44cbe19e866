"""Public keys as they are handed around, and the keys that a server holds online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import Key, Signer, SSlibKey

from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.devices.identity import Identity
from skerry.updater.repository.signers import load_key, make_key

__all__ = [
    "DIRECTOR_ROLES",
    "IMAGE_ROLES",
    "OnlineKeys",
    "OnlinePublic",
    "PublicKey",
    "key_from_dict",
]

IMAGE_ROLES = ("snapshot", "timestamp", "deltas")
DIRECTOR_ROLES = ("targets", "snapshot", "timestamp")
_WRAP = "wrap"


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
    public = key.keyval["public"]
    if key.keytype == "ed25519":
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    return load_pem_public_key(public.encode())


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of a holder's key, as it is handed on.

    Attributes:
        key: the key.
        uri: where a token or key service keeps the private half, if it does.
    """

    key: Key
    uri: str | None = None

    def encode(self) -> bytes:
        """As a `.pub` file."""
        document = {"schema": 1, "key": _public(self.key), "uri": self.uri}
        return msgspec.json.format(msgspec.json.encode(document, order="sorted")) + b"\n"

    @classmethod
    def decode(cls, data: bytes, *, where: object = None) -> PublicKey:
        """Read a `.pub` file.

        Raises:
            InputError: it is another file.
        """
        try:
            document = msgspec.json.decode(data, type=_PublicFile)
        except msgspec.DecodeError as error:
            raise InputError(f"is no public key: {error}", where=where) from error
        return cls(key_from_dict(document.key), document.uri)


class _PublicFile(msgspec.Struct, frozen=True):
    key: dict[str, Any]
    uri: str | None = None
    schema: int = 1


@dataclass(frozen=True, slots=True)
class OnlinePublic:
    """The public halves of a server's keys, by role.

    Attributes:
        image: keys of `snapshot`, `timestamp` and `deltas`.
        director: keys of `targets`, `snapshot` and `timestamp`.
        wrap: the P-256 key (PEM) for which content keys are wrapped; "" if it has none.
    """

    image: Mapping[str, Key]
    director: Mapping[str, Key]
    wrap: str = ""

    def encode(self) -> bytes:
        """As `online.json`."""
        document = {
            "schema": 1,
            "image": {role: _public(key) for role, key in self.image.items()},
            "director": {role: _public(key) for role, key in self.director.items()},
            "wrap": self.wrap,
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
            document.wrap,
        )


class _OnlineFile(msgspec.Struct, frozen=True):
    image: dict[str, dict[str, Any]]
    director: dict[str, dict[str, Any]]
    wrap: str = ""
    schema: int = 1


@dataclass(frozen=True, slots=True)
class OnlineKeys:
    """The keys with which a server signs: one per role, made on it, and replaceable by the root.

    Attributes:
        image: signers of `snapshot`, `timestamp` and `deltas`.
        director: signers of `targets`, `snapshot` and `timestamp`.
        wrap: opens the content keys that operators hand over.
    """

    image: Mapping[str, Signer]
    director: Mapping[str, Signer]
    wrap: Identity

    @classmethod
    def generate(cls, folder: Path) -> OnlineKeys:
        """Make the keys in `folder`, with `online.json` beside them for the operator.

        Raises:
            InputError: there are keys already.
        """
        keys = cls(
            {role: make_key(folder / f"image-{role}.pem") for role in IMAGE_ROLES},
            {role: make_key(folder / f"director-{role}.pem") for role in DIRECTOR_ROLES},
            Identity.create(folder / _WRAP),
        )
        write_atomically(folder / "online.json", keys.public)
        return keys

    @classmethod
    def load(cls, folder: Path) -> OnlineKeys:
        """The keys that `generate` left in `folder`.

        A home that was made before there was a wrap key gets one, and a new `online.json`.

        Raises:
            InputError: one is missing or damaged.
        """
        new = not (folder / _WRAP).exists()
        keys = cls(
            {role: load_key(folder / f"image-{role}.pem") for role in IMAGE_ROLES},
            {role: load_key(folder / f"director-{role}.pem") for role in DIRECTOR_ROLES},
            Identity.create(folder / _WRAP),
        )
        if new:
            write_atomically(folder / "online.json", keys.public)
        return keys

    @property
    def public(self) -> bytes:
        """The content of `online.json`."""
        return OnlinePublic(
            {role: signer.public_key for role, signer in self.image.items()},
            {role: signer.public_key for role, signer in self.director.items()},
            _pem(self.wrap.public_key),
        ).encode()


def _public(key: Key) -> dict[str, Any]:
    return {"keyid": key.keyid, **key.to_dict()}


def _pem(key: EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
