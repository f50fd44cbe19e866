"""A running server: on a TCP port of this machine, a Unix socket, or a socket handed in."""

from __future__ import annotations

import ipaddress
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

import uvicorn

from skerry.devices.errors import InputError, UnavailableError
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.api import Api, ServeLimits
from skerry.runtime.serve.asgi import Application

__all__ = ["Server", "serve"]

_START_S = 10.0


class Server:
    """Serves a runtime in a thread of its own, whether or not a model is active yet.

    Args:
        host, port: where to listen; port 0 takes a free one, told by `address`.
        uds: listen on this Unix socket instead.
        listener: a listening socket to serve on instead; it is not closed at the end.
        metrics: further Prometheus text for `/metrics`.

    Raises:
        InputError: the address is not of this machine alone.
        UnavailableError: the address cannot be had.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: Path | None = None,
        listener: socket.socket | None = None,
        limits: ServeLimits | None = None,
        metrics: Callable[[], str] | None = None,
    ) -> None:
        limits = limits or ServeLimits()
        self._uds = None if listener is not None else uds
        self._socket = listener.dup() if listener is not None else _listen(host, port, uds)
        self.address = _address(self._socket)
        application = Application(Api(runtime, metrics), runtime, limits)
        self._server = _Uvicorn(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                limit_concurrency=limits.connections,
                timeout_keep_alive=limits.keep_alive_s,
                timeout_graceful_shutdown=limits.drain_s,
            )
        )
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to answer, in a thread. Returns when it does."""
        self._thread = Thread(target=self.run, name="skerry-http", daemon=True)
        self._thread.start()
        if not self._server.answering.wait(_START_S):
            raise UnavailableError("the server did not start", where=self.address)

    def run(self) -> None:
        """Answer in the calling thread, until `stop` or, in the main thread, SIGTERM or SIGINT."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            if self._uds is not None:
                self._uds.unlink(missing_ok=True)

    def stop(self) -> None:
        """End the requests under way, then stop. No error if it has stopped already."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def serve(
    runtime: Runtime,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    uds: Path | None = None,
    limits: ServeLimits | None = None,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; `on_start` is told the address.

    Raises:
        InputError: the address is not of this machine alone.
        UnavailableError: the address cannot be had.
    """
    server = Server(runtime, host=host, port=port, uds=uds, limits=limits)
    if on_start is not None:
        on_start(server.address)
    # uvicorn raises the signal that stopped it once more when it is done.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            server.run()
    finally:
        signal.signal(signal.SIGTERM, before)


class _Uvicorn(uvicorn.Server):
    """uvicorn's server that says when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answering = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answering.set()


def _listen(host: str, port: int, uds: Path | None) -> socket.socket:
    if uds is not None:
        return _listen_unix(uds)
    if not _is_loopback(host):
        raise InputError(
            "listening beyond this machine needs TLS and a token",
            where=host,
            remedy="listen on 127.0.0.1 or a Unix socket, behind a proxy that has both",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise UnavailableError(
            f"cannot listen: {error.strerror}", where=f"{host}:{port}"
        ) from error


def _listen_unix(path: Path) -> socket.socket:
    """Bind `path`, taking the place of a socket that nobody answers on."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o660)
        listener.listen(1024)
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


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"
