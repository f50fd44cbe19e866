"""Sockets to serve on: of this machine alone, or beyond it with TLS and a token."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from skerry.devices.errors import InputError, UnavailableError

__all__ = ["Access", "address_of", "listen"]

_BACKLOG = 1024
_SHORTEST_TOKEN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What lets a server listen beyond its machine.

    Attributes:
        token: clients send `Authorization: Bearer <token>`.
        certificate, key: PEM files of the server; without them it listens on this machine alone.
        clients_ca: a PEM file; clients must then show a certificate of this CA as well.
    """

    token: str
    certificate: Path | None = None
    key: Path | None = None
    clients_ca: Path | None = None

    def __post_init__(self) -> None:
        if len(self.token) < _SHORTEST_TOKEN or not self.token.isascii():
            raise InputError(
                f"too short, or not ASCII: {_SHORTEST_TOKEN} characters are the least",
                where="token",
            )

    def context(self) -> ssl.SSLContext | None:
        """The TLS context, or None without a certificate.

        Raises:
            InputError: a file is missing or not what it should be.
        """
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            if self.clients_ca is not None:
                context.load_verify_locations(self.clients_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"TLS: {error}", where=self.certificate) from error
        return context


def listen(host: str, port: int, uds: Path | None, access: Access | None) -> socket.socket:
    """A listening socket on `uds`, or else on `host` and `port` (0 for a free one).

    Raises:
        InputError: the address is not of this machine alone, and TLS or token are missing.
        UnavailableError: the address cannot be had.
    """
    if uds is not None:
        return _listen_unix(uds)
    if not _is_loopback(host) and (access is None or access.certificate is None):
        raise InputError(
            "listening beyond this machine needs TLS and a token",
            where=host,
            remedy="give both, or listen on 127.0.0.1 or a Unix socket",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen: {error.strerror or error}", where=f"{host}:{port}"
        ) from error


def address_of(listener: socket.socket, *, tls: bool = False) -> str:
    """`http://127.0.0.1:8080`, or `unix:/path`."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http{'s' * tls}://{host}:{name[1]}"


def _listen_unix(path: Path) -> socket.socket:
    """Bind `path`, taking the place of a socket that nobody answers on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"cannot listen: {error.strerror or error}", where=path) from error
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
