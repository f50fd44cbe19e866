"""The device's certificate, renewed before it ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.devices.identity import Identity

__all__ = ["RENEWAL_LIMIT_BYTES", "Renewal", "due"]

RENEWAL_LIMIT_BYTES = 65_536
"""The longest answer that is read, in bytes."""

_AFTER = (0.6, 0.8)  # share of a certificate's life after which it is renewed; chance picks
_BETWEEN_S = 900.0  # seconds between two tries at least


class _Answer(msgspec.Struct, frozen=True):
    certificate: str


def due(certificate: x509.Certificate, now: float, share: float) -> bool:
    """Whether `share` (0 to 1) of the certificate's life is over at `now` (epoch seconds)."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return datetime.fromtimestamp(now, UTC) >= begin + share * (end - begin)


class Renewal:
    """Asks for a new certificate for the same key when the present one ages.

    Args:
        folder: `HOME/identity`.
        post: sends a JSON body to the server and returns the answer's body.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        name: str,
        post: Callable[[bytes], bytes],
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self._path, self._identity, self._name = folder / "certificate.pem", identity, name
        self._post, self._clock, self._share = post, clock, chance.uniform(*_AFTER)
        self._tried: float | None = None

    def look(self) -> bool:
        """Renew if it is time; whether it was.

        Raises:
            InputError: the answer is no certificate for this device's key.
            SkerryError: as the seam to the server raises.
        """
        try:
            present = x509.load_pem_x509_certificate(self._path.read_bytes())
        except (OSError, ValueError):
            present = None
        if present is not None and not due(present, self._clock.now(), self._share):
            return False
        steady = self._clock.monotonic()
        if self._tried is not None and steady - self._tried < _BETWEEN_S:
            return False
        self._tried = steady
        request = {"csr": self._identity.csr(self._name).decode()}
        pem = _certificate(self._post(msgspec.json.encode(request)), self._identity)
        write_atomically(self._path, pem)
        return True


def _certificate(data: bytes, identity: Identity) -> bytes:
    try:
        pem = msgspec.json.decode(data, type=_Answer).certificate.encode()
        found = x509.load_pem_x509_certificate(pem).public_key()
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InputError(f"not a certificate: {error}", where="renewal") from error
    if found != identity.public_key:
        raise InputError("the certificate is for another key", where="renewal")
    return pem
