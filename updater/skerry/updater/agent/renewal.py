"""The device's certificate and key, renewed before it ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.devices.identity import Identity
from skerry.updater.fetch import RefusedError
from skerry.updater.sealing import Keyring

__all__ = ["RENEWAL_LIMIT_BYTES", "Renewal", "due", "holders"]

RENEWAL_LIMIT_BYTES = 65_536
"""The longest answer that is read, in bytes."""

_AFTER = (0.6, 0.8)  # share of a certificate's life after which it is renewed; chance picks
_BETWEEN_S = 900.0  # seconds between two tries at least
_AGAIN_S = 30.0  # the same, where the server may know the new key alone by now
_NEXT, _UNKNOWN = "next", 401


class _Answer(msgspec.Struct, frozen=True):
    certificate: str


def due(certificate: x509.Certificate, now: float, share: float) -> bool:
    """Whether `share` (0 to 1) of the certificate's life is over at `now` (epoch seconds)."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return datetime.fromtimestamp(now, UTC) >= begin + share * (end - begin)


class Renewal:
    """Asks for a new certificate when the present one ages, and each time for a new key.

    The new key lies in `identity/next/` before the server hears of it, so whatever breaks off can
    go on: the server believes the old key or the new one, content keys open with either, and the
    present key is replaced in one rename.

    Args:
        folder: `HOME/identity`.
        identity: the present key.
        name: the device's id.
        post: sends a JSON body to the server, as the holder of a key; returns the answer's body.
        keys: content keys, which are handed over to the new key.
        adopted: told of the key that is the present one from now on.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        name: str,
        post: Callable[[Identity, bytes], bytes],
        clock: Clock,
        chance: random.Random,
        *,
        keys: Keyring,
        adopted: Callable[[Identity], None] = lambda _: None,
        disk: Disk | None = None,
    ) -> None:
        self._folder, self._identity, self._name = folder, identity, name
        self._path, self._disk = folder / "certificate.pem", disk or RealDisk()
        self._post, self._clock, self._share = post, clock, chance.uniform(*_AFTER)
        self._keys, self._adopted = keys, adopted
        self._tried: float | None = None

    def look(self) -> bool:
        """Renew if it is time, or if a renewal broke off; whether it was done.

        Raises:
            InputError: the answer is no certificate for the new key.
            SkerryError: as the seam to the server raises.
        """
        waiting = _next(self._folder).exists()
        if not waiting and not self._is_due():
            return False
        steady, pause = self._clock.monotonic(), _AGAIN_S if waiting else _BETWEEN_S
        if self._tried is not None and steady - self._tried < pause:
            return False
        self._tried = steady
        fresh = Identity.create(self._folder / _NEXT, self._disk)
        pem = _certificate(self._asked(fresh), fresh)
        self._keys.hand_over(fresh)
        self._disk.replace(_next(self._folder), self._folder / "key.pem")
        self._disk.sync_folder(self._folder)
        write_atomically(self._path, pem, disk=self._disk)
        self._identity = fresh
        self._adopted(fresh)
        return True

    def _is_due(self) -> bool:
        try:
            present = x509.load_pem_x509_certificate(self._path.read_bytes())
        except (OSError, ValueError):
            return True
        if present.public_key() != self._identity.public_key:
            return True
        return due(present, self._clock.now(), self._share)

    def _asked(self, fresh: Identity) -> bytes:
        """The server's answer; it may know the new key already, from an answer that was lost."""
        body = msgspec.json.encode({"csr": fresh.csr(self._name).decode()})
        try:
            return self._post(self._identity, body)
        except RefusedError as error:
            if error.status != _UNKNOWN:
                raise
            return self._post(fresh, body)


def holders(folder: Path) -> list[Identity]:
    """The device's keys in `folder`: the present one, and the next while it is being replaced.

    Raises:
        InputError: as `Identity.load`, for the present one.
    """
    found = [Identity.load(folder)]
    with suppress(InputError):
        found.append(Identity.load(folder / _NEXT))
    return found


def _next(folder: Path) -> Path:
    return folder / _NEXT / "key.pem"


def _certificate(data: bytes, identity: Identity) -> bytes:
    try:
        pem = msgspec.json.decode(data, type=_Answer).certificate.encode()
        found = x509.load_pem_x509_certificate(pem).public_key()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"not a certificate: {error}", where="renewal") from error
    if found != identity.public_key:
        raise InputError("the certificate is for another key", where="renewal")
    return pem
