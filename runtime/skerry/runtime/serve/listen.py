"""Where a server may listen: on this machine alone, or beyond it with TLS and who may ask."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skerry.devices.errors import InputError, UnavailableError

__all__ = [
    "Access",
    "Address",
    "SocketFile",
    "address_of",
    "check_reach",
    "claim_unix",
    "listen",
    "open_unix",
]

_BACKLOG = 1024
_SHORTEST_TOKEN = 16
_LARGEST_PORT = 65535
_SOCKET_MODE = 0o660


class Address(NamedTuple):
    """A TCP port (0 for a free one) of a host, or a Unix socket."""

    host: str = "127.0.0.1"
    port: int = 0
    uds: Path | None = None

    def __str__(self) -> str:
        """`127.0.0.1:8080`, `[::1]:8080`, or `unix:/path`."""
        if self.uds is not None:
            return f"unix:{self.uds.absolute()}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str, where: str) -> Address:
        """Read `HOST:PORT` or `unix:PATH`.

        Args:
            where: the option that the text was given by.

        Raises:
            InputError: it is neither.
        """
        scheme, _, path = text.partition(":")
        if scheme == "unix" and path:
            return cls(uds=Path(path))
        host, colon, port = text.rpartition(":")
        right = colon and port.isascii() and port.isdecimal()
        if not right or int(port) > _LARGEST_PORT:
            raise InputError(f"{text!r} is not HOST:PORT", where=where)
        return cls(host.strip("[]") or "127.0.0.1", int(port))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask, and TLS: beyond its machine a server listens only with both.

    Attributes:
        token: clients send `Authorization: Bearer <token>`.
        certificate, key: PEM files of the server.
        clients_ca: a PEM file; clients must then show a certificate of this CA (mutual TLS).
    """

    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    clients_ca: Path | None = None

    def __post_init__(self) -> None:
        token = self.token
        if token is not None and (len(token) < _SHORTEST_TOKEN or not token.isascii()):
            raise InputError(
                f"too short, or not ASCII: {_SHORTEST_TOKEN} characters are the least",
                where="token",
            )
        if (self.certificate is None) != (self.key is None):
            raise InputError("certificate and key go together", where="TLS")
        if self.clients_ca is not None and self.certificate is None:
            raise InputError("clients' certificates need the server's own", where="TLS")

    @property
    def reaches_out(self) -> bool:
        """Whether it lets a server listen beyond its machine."""
        return self.certificate is not None and bool(self.token or self.clients_ca)

    def context(self) -> ssl.SSLContext | None:
        """The TLS context, or None without a certificate.

        Raises:
            InputError: a file is missing or not what it should be.
        """
        if self.certificate is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in (self.certificate, self.key, self.clients_ca):
            if path is not None:
                _check_readable(path)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            where = f"{self.certificate} and {self.key}"
            raise InputError(f"no certificate and its key: {error}", where=where) from error
        if self.clients_ca is not None:
            try:
                context.load_verify_locations(self.clients_ca)
            except OSError as error:
                raise InputError(f"no certificate: {error}", where=self.clients_ca) from error
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _check_readable(path: Path) -> None:
    """That a PEM file can be read: OpenSSL does not say which of them it could not."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"TLS: cannot read: {error.strerror or error}", where=path) from error


def listen(host: str, port: int, uds: Path | None, access: Access | None) -> socket.socket:
    """A listening socket on `uds`, or else on `host` and `port` (0 for a free one).

    Raises:
        InputError: the address is not of this machine alone, and TLS or token are missing.
        UnavailableError: the address cannot be had.
    """
    if uds is not None:
        return _listen_unix(uds)
    check_reach(host, access)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen: {error.strerror or error}", where=f"{host}:{port}"
        ) from error


def check_reach(host: str, access: Access | None) -> None:
    """That a server may listen on `host`.

    Raises:
        InputError: it is not of this machine alone, and TLS, or who may ask, are missing.
    """
    if not _is_loopback(host) and (access is None or not access.reaches_out):
        raise InputError(
            "listening beyond this machine needs TLS, and a token or the clients' CA",
            where=host,
            remedy="give them, or listen on 127.0.0.1 or a Unix socket",
        )


def address_of(listener: socket.socket, *, tls: bool = False) -> str:
    """`http://127.0.0.1:8080`, or `unix:/path`."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http{'s' * tls}://{host}:{name[1]}"


def _listen_unix(path: Path) -> socket.socket:
    """Bind `path`, taking the place of a socket that nobody answers on."""
    claim_unix(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        open_unix(path)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise UnavailableError(f"cannot listen: {error.strerror or error}", where=path) from error
    return listener


class SocketFile(NamedTuple):
    """The file of a Unix socket that listens: the path, and which file it was when it was bound."""

    path: Path
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> SocketFile:
        """The file at `path`."""
        found = path.lstat()
        return cls(path, found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Remove it, unless another has taken its path. To be called while the socket listens: a
        successor takes the path only when nobody answers on it, so none can come in between."""
        with suppress(OSError):
            if SocketFile.of(self.path) == self:
                self.path.unlink()


def claim_unix(path: Path) -> None:
    """Remove a socket at `path` that nobody answers on.

    Raises:
        UnavailableError: something else is there.
    """
    try:
        if not path.exists():
            return
        if not stat.S_ISSOCK(path.stat().st_mode) or _answers(path):
            raise UnavailableError("cannot listen: it is in use", where=path)
        path.unlink()
    except OSError as error:
        raise UnavailableError(f"cannot listen: {error.strerror or error}", where=path) from error


def open_unix(path: Path) -> None:
    """Let the owner and the group connect, and nobody else."""
    path.chmod(_SOCKET_MODE)


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
