"""TLS of the fleet server, for HTTP and MQTT: by the fleet's authority, or by given files.

HOME/tls/certificate.pem, key.pem    by the fleet's own authority, renewed before it ends
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.devices.identity import Identity
from skerry.updater.server.ca import FleetAuthority

__all__ = ["FleetTls", "GivenTls", "ServerTls", "check_reach"]

_RENEW_AT = 2 / 3  # of a certificate's life


class ServerTls(Protocol):
    """Where a certificate comes from.

    Attributes:
        ca: PEM of the authority that devices verify the server by; "" for the system's.
    """

    @property
    def ca(self) -> str: ...

    def context(self) -> ssl.SSLContext:
        """What connections are accepted with. One that renews changes later connections alone."""

    def renew(self) -> bool:
        """Take a new certificate, if it is time; whether it was."""


@dataclass(frozen=True, slots=True)
class GivenTls:
    """`ServerTls` by files that somebody else keeps right.

    Attributes:
        certificate, key: PEM files.
        ca: PEM of the authority, "" for the system's.
    """

    certificate: Path
    key: Path
    ca: str = ""

    def context(self) -> ssl.SSLContext:
        return _loaded(_context(), self.certificate, self.key)

    def renew(self) -> bool:
        return False


class FleetTls:
    """`ServerTls` by the fleet's own authority, which devices learn from their claim file.

    Args:
        folder: `HOME/tls`.
        hosts: the names and addresses by which the server is reached.
    """

    def __init__(
        self, folder: Path, authority: FleetAuthority, hosts: Sequence[str], clock: Clock
    ) -> None:
        self._folder, self._authority, self._clock = folder, authority, clock
        self._hosts = tuple(dict.fromkeys(hosts))
        self._ssl = _context()
        self._load(anew=not self._good())

    @property
    def ca(self) -> str:
        return self._authority.pem

    def context(self) -> ssl.SSLContext:
        return self._ssl

    def renew(self) -> bool:
        due = not self._good()
        if due:
            self._load(anew=True)
        return due

    def _load(self, *, anew: bool) -> None:
        identity = Identity.create(self._folder)
        file = self._folder / "certificate.pem"
        if anew:
            now = self._clock.now()
            pem = self._authority.issue_server(identity.public_key, self._hosts, now)
            write_atomically(file, pem.encode())
        _loaded(self._ssl, file, self._folder / "key.pem")

    def _good(self) -> bool:
        """Whether the certificate is of this authority, for these hosts, and lasts a while."""
        try:
            data = (self._folder / "certificate.pem").read_bytes()
            found = x509.load_pem_x509_certificate(data)
            ours = x509.load_pem_x509_certificate(self.ca.encode())
            found.verify_directly_issued_by(ours)
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        known = {*names.get_values_for_type(x509.DNSName)}
        known |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
        begin, end = found.not_valid_before_utc, found.not_valid_after_utc
        fresh = datetime.fromtimestamp(self._clock.now(), UTC) < begin + _RENEW_AT * (end - begin)
        return fresh and set(self._hosts) <= known


def check_reach(host: str, tls: ServerTls | None, *, plain: bool) -> None:
    """A server beyond this machine needs TLS, or somebody's word that TLS ends in front of it.

    Raises:
        InputError: it has neither.
    """
    if tls is None and not plain and not _of_this_machine(host):
        raise InputError(
            "listening beyond this machine needs TLS",
            where=host,
            remedy="give --tls-fleet, or --tls CERT KEY; --plain if TLS ends in front of it",
        )


def _of_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _loaded(context: ssl.SSLContext, certificate: Path, key: Path) -> ssl.SSLContext:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"no certificate with its key: {error}", where=certificate, remedy="give both in PEM"
        ) from error
    return context
