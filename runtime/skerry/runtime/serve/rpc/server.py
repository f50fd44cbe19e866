"""A listening gRPC server around the service, on the loop that REST is answered on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from skerry.devices.errors import InputError, UnavailableError
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.listen import Access, Address, claim_unix, open_unix
from skerry.runtime.serve.rpc.service import Service

__all__ = ["RpcServer"]

_LARGEST_REPLY = -1  # the model's outputs bound it


class RpcServer:
    """Serves over TCP or a Unix socket.

    Args:
        address: where to listen; it was checked that it may.
        access: TLS, where it has a certificate. The token is the service's to ask for.

    Raises:
        InputError: a TLS file is missing or not what it should be.
    """

    def __init__(
        self, service: Service, address: Address, limits: ServeLimits, access: Access | None
    ) -> None:
        self._wanted, self._limits = address, limits
        self._credentials = None if access is None else _credentials(access)
        self._server = aio.server(
            handlers=[service.handler()],
            options=_options(limits),
            maximum_concurrent_rpcs=limits.calls,
        )
        self.address = ""

    async def start(self) -> None:
        """Listen.

        Raises:
            UnavailableError: the address cannot be had.
        """
        wanted = self._wanted
        if wanted.uds is not None:
            claim_unix(wanted.uds)
        target = str(wanted)
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(target)
            else:
                port = self._server.add_secure_port(target, self._credentials)
            await self._server.start()
        except (RuntimeError, ValueError) as error:
            raise UnavailableError("cannot listen", where=target) from error
        if wanted.uds is None:
            self.address = str(wanted._replace(port=port))
        else:
            open_unix(wanted.uds)
            self.address = target

    async def stop(self) -> None:
        """Take no further calls; end those under way, for a bounded time. The library removes a
        Unix socket's file before it stops listening: afterwards the path may be a successor's."""
        await self._server.stop(self._limits.drain_s)


def _options(limits: ServeLimits) -> list[tuple[str, Any]]:
    """The library's bounds. What they mean: grpc/impl/channel_arg_names.h."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.body_bytes),
        ("grpc.max_send_message_length", _LARGEST_REPLY),
        ("grpc.per_message_decompression", 0),
        ("grpc.max_metadata_size", limits.header_bytes),
        ("grpc.absolute_max_metadata_size", 2 * limits.header_bytes),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.server_handshake_timeout_ms", int(limits.request_s * 1e3)),
        ("grpc.max_connection_idle_ms", int(limits.keep_alive_s * 1e3)),
        ("grpc.keepalive_time_ms", int(limits.keep_alive_s * 1e3)),
        ("grpc.keepalive_timeout_ms", int(limits.request_s * 1e3)),
    ]


def _credentials(access: Access) -> Any:
    """The TLS of `access`, or None without a certificate."""
    if access.certificate is None or access.key is None:
        return None
    access.context()  # says what is wrong with the files; the library would not
    pair = (_read(access.key), _read(access.certificate))
    ca = None if access.clients_ca is None else _read(access.clients_ca)
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error
