"""The operator's content keys, and the public half of a server's wrap key.

    DIR/content/<key id>.key    32 bytes, mode 0600

A content key is made when a release is signed to be sealed. The server is handed it wrapped for its
wrap key, which the image root names: `"skerry": {"wrap": "<PEM>"}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tuf.api.metadata import Root

from skerry.devices.errors import InputError, TrustError
from skerry.devices.files import write_atomically
from skerry.updater.sealing import ContentKey, Envelope, check_key_id, purpose_of, wrap

__all__ = ["SERVER", "ContentKeys", "for_server", "read_wrap_key", "with_wrap_key", "wrap_key_of"]

SERVER = "the fleet server"
"""Whom an envelope for a server is bound to."""


class ContentKeys:
    """`Keys` of an operator, in a folder.

    Args:
        folder: made with the first key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> str:
        """Make a key and keep it; its id."""
        key = ContentKey.fresh()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(self._folder / f"{key.id}.key", key.secret, mode=0o600)
        return key.id

    def content_key(self, key: str) -> ContentKey:
        path = self._folder / f"{check_key_id(key)}.key"
        try:
            found = ContentKey(path.read_bytes())
        except (OSError, InputError) as error:
            raise TrustError(
                "the content key of a sealed release is not here",
                where=path,
                remedy="restore it from the copy of this repository, or sign the bundle anew",
            ) from error
        if found.id != key:
            raise TrustError("the file holds another key", where=path)
        return found


def with_wrap_key(root: Root, pem: str) -> None:
    """Have `root` name the key for which a server is handed content keys; "" names none."""
    field: dict[str, Any] = dict(root.unrecognized_fields.get("skerry", {}))
    field.pop("wrap", None)
    if pem:
        read_wrap_key(pem)
        field["wrap"] = pem
    if field:
        root.unrecognized_fields["skerry"] = field


def wrap_key_of(root: Root) -> EllipticCurvePublicKey:
    """The server's key that `root` names.

    Raises:
        InputError: it names none.
    """
    field = root.unrecognized_fields.get("skerry", {})
    pem = field.get("wrap") if isinstance(field, dict) else None
    if not isinstance(pem, str):
        raise InputError(
            "names no key of the server to hand content keys to",
            where="image root",
            remedy="take it in with: skerry keys online SERVER/keys/online.json",
        )
    return read_wrap_key(pem)


def read_wrap_key(pem: str) -> EllipticCurvePublicKey:
    """A P-256 public key in PEM.

    Raises:
        InputError: it is something else.
    """
    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise InputError(f"is no public key: {error}", where="wrap key") from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise InputError("is no key on P-256", where="wrap key")
    return key


def for_server(key: ContentKey, root: Root) -> Envelope:
    """`key`, wrapped for the server that `root` names."""
    return wrap(key, wrap_key_of(root), purpose_of(key.id, SERVER))
