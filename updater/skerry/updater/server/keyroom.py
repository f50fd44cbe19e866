"""Content keys on the server: handed in by operators, handed out to devices, open nowhere.

    HOME/content-keys/<key id>.json    an envelope for the server's wrap key
    HOME/keys/wrap/key.pem             the wrap key (0600)

A device is handed a key in an envelope for the key of its certificate, made when it asks; so one
that joins later, or has a new key, needs nobody's hand, and one that is revoked gets nothing.
"""

from __future__ import annotations

from pathlib import Path

from skerry.devices.errors import InputError, TrustError
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId
from skerry.updater.repository.content import SERVER
from skerry.updater.sealing import ContentKey, Envelope, Keyring, check_key_id, purpose_of, wrap
from skerry.updater.server.ca import public_key_of

__all__ = ["KeyRoom"]

_ENVELOPE_BYTES = 4_096


class KeyRoom:
    """`Keys` of a server.

    Args:
        folder: where envelopes lie; made with the first.
        wrap_key: what they are wrapped for.
    """

    def __init__(self, folder: Path, wrap_key: Identity) -> None:
        self._ring = Keyring(folder, SERVER, [wrap_key])

    def take(self, key: str, data: bytes) -> None:
        """Keep the content key that an operator hands in.

        Raises:
            InputError: it is no envelope, is not for this server, or holds another key.
        """
        if len(data) > _ENVELOPE_BYTES:
            raise InputError("an envelope is not so long", where="body")
        try:
            self._ring.take(check_key_id(key), data)
        except TrustError as error:
            raise InputError(
                "the content key is not for this server",
                where=key,
                remedy="take its wrap key in: skerry keys online SERVER/keys/online.json",
            ) from error

    def content_key(self, key: str) -> ContentKey:
        return self._ring.content_key(key)

    def hand_out(self, key: str, device: DeviceId, certificate: str) -> Envelope:
        """`key`, in an envelope for a device's certificate (PEM).

        Raises:
            TrustError: the key is not here.
        """
        found = self.content_key(key)
        return wrap(found, public_key_of(certificate), purpose_of(key, str(device)))
