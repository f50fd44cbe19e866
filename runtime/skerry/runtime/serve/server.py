"""A running server: on a TCP port, a Unix socket, or a socket handed in."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread, current_thread, main_thread
from types import TracebackType
from typing import TYPE_CHECKING

from skerry.devices.errors import MissingExtraError, SkerryError, UnavailableError
from skerry.runtime.models import OneModel
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.busypoll import BusyPoll
from skerry.runtime.serve.dispatch import Dispatcher
from skerry.runtime.serve.http1 import Connection
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.listen import (
    Access,
    Address,
    SocketFile,
    address_of,
    check_reach,
    listen,
)
from skerry.runtime.serve.metrics import Metrics
from skerry.runtime.serve.rest import Rest
from skerry.runtime.shelf import Shelf

if TYPE_CHECKING:
    from skerry.runtime.serve.rpc.server import RpcServer

__all__ = ["Server"]

_START_S = 10.0
_SWEEP_S = 1.0


class Server:
    """Serves a runtime, whether or not a model is active yet, or a shelf of models.

    Args:
        host, port: where to listen; port 0 takes a free one, told by `address`.
        uds: listen on this Unix socket instead.
        listener: a listening socket to serve on instead; it is not closed at the end.
        rpc: where to listen for gRPC as well; once started, `rpc_address` tells where.
        access: who may ask, and TLS; must be given to listen beyond this machine.
        metrics: further Prometheus text for `/metrics`.

    Raises:
        InputError: an address is not of this machine alone, and `access` does not suffice.
        UnavailableError: the address cannot be had.
        MissingExtraError: gRPC is asked for, and its library is not installed.
    """

    def __init__(
        self,
        runtime: Runtime | Shelf,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        uds: Path | None = None,
        listener: socket.socket | None = None,
        rpc: Address | None = None,
        access: Access | None = None,
        limits: ServeLimits | None = None,
        metrics: Callable[[], str] | None = None,
    ) -> None:
        self._models = OneModel(runtime) if isinstance(runtime, Runtime) else runtime
        self._access = access
        self._limits = limits or ServeLimits()
        self._more_metrics = metrics
        self._tls = None if access is None else access.context()
        self._rpc = rpc
        if rpc is not None:
            _check_rpc(rpc, access)
        self._socket = listen(host, port, uds, access) if listener is None else listener.dup()
        self._file = None if listener is not None or uds is None else SocketFile.of(uds)
        if self._socket.family != socket.AF_UNIX:
            # Connections inherit it. asyncio sets it only on sockets made with IPPROTO_TCP.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = address_of(self._socket, tls=self._tls is not None)
        self.rpc_address = ""
        self._problem: SkerryError | None = None
        self._answering = Event()
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._dispatcher: Dispatcher | None = None

    def start(self) -> None:
        """Begin to answer, in a thread. Returns when it does.

        Raises:
            UnavailableError: the gRPC address cannot be had.
        """
        self._thread = Thread(target=self._run_quietly, name="skerry-serve", daemon=True)
        self._thread.start()
        if not self._answering.wait(_START_S):
            raise UnavailableError("the server did not start", where=self.address)
        if self._problem is not None:
            raise self._problem

    def run(self, on_start: Callable[[Server], None] | None = None) -> None:
        """Answer in the calling thread, until `stop` or, in the main thread, SIGTERM or SIGINT.

        Args:
            on_start: told when it answers.

        Raises:
            UnavailableError: the gRPC address cannot be had.
        """
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve(on_start))
        finally:
            self._close_socket()

    def _run_quietly(self) -> None:
        """`run` for `start`, which tells the error."""
        try:
            self.run()
        except SkerryError as error:
            self._problem = error
            self._answering.set()

    def stop(self) -> None:
        """End the requests under way, then stop. No error if it has stopped already."""
        if self._loop is None:
            self._close_socket()
        elif self._stop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Inferences that wait for a thread now."""
        return 0 if self._dispatcher is None else self._dispatcher.waiting

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

    def _close_socket(self) -> None:
        self._remove_file()
        self._socket.close()

    def _remove_file(self) -> None:
        """While the socket listens: let a successor have its path."""
        file, self._file = self._file, None
        if file is not None:
            file.remove()

    async def _serve(self, on_start: Callable[[Server], None] | None) -> None:
        loop = self._loop = asyncio.get_running_loop()
        stop = self._stop = asyncio.Event()
        if current_thread() is main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop.set)
        metrics, peers = Metrics(), set[Connection]()
        dispatcher = self._dispatcher = Dispatcher(self._models, self._limits, metrics)
        rpc = await self._listen_rpc(dispatcher, metrics)
        server = await self._listen_http(dispatcher, metrics, peers)
        self._answering.set()
        if on_start is not None:
            on_start(self)
        while not stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _SWEEP_S)
            now = loop.time()
            for peer in tuple(peers):
                peer.sweep(now)
        self._remove_file()
        server.close()
        draining = [self._drain(peers)] if rpc is None else [self._drain(peers), rpc.stop()]
        await asyncio.gather(*draining)
        dispatcher.close()

    async def _listen_http(
        self, dispatcher: Dispatcher, metrics: Metrics, peers: set[Connection]
    ) -> asyncio.Server:
        token = None if self._access is None else self._access.token
        rest = Rest(dispatcher, self._models, self._limits, metrics, token, self._more_metrics)

        def refused(status: int) -> None:
            metrics.answered("http", str(status))

        loop, tls = asyncio.get_running_loop(), self._tls
        awake = BusyPoll(loop.call_soon, self._limits.awake_s, lambda: not dispatcher.under_way)

        def connect() -> Connection:
            return Connection(rest, self._limits, peers, refused, awake)

        patience = None if tls is None else self._limits.request_s
        if self._socket.family == socket.AF_UNIX:
            return await loop.create_unix_server(
                connect, sock=self._socket, ssl=tls, ssl_handshake_timeout=patience
            )
        return await loop.create_server(
            connect, sock=self._socket, ssl=tls, ssl_handshake_timeout=patience
        )

    async def _listen_rpc(self, dispatcher: Dispatcher, metrics: Metrics) -> RpcServer | None:
        if self._rpc is None:
            return None
        from skerry.runtime.serve.rpc.server import RpcServer
        from skerry.runtime.serve.rpc.service import Service

        access, limits = self._access, self._limits
        token = None if access is None else access.token
        service = Service(dispatcher, self._models, limits, metrics, token)
        server = RpcServer(service, self._rpc, limits, access)
        await server.start()
        self.rpc_address = server.address
        return server

    async def _drain(self, peers: set[Connection]) -> None:
        """Let every request under way be answered, for a bounded time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._limits.drain_s
        for peer in tuple(peers):
            peer.finish()
        while peers and loop.time() < until:
            await asyncio.sleep(0.01)
        for peer in tuple(peers):
            peer.abort()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's where it is installed: it halves what a request costs outside of our own code."""
    if find_spec("uvloop") is None:
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def _check_rpc(address: Address, access: Access | None) -> None:
    """That gRPC can be served at `address`, before anything is.

    Raises:
        InputError, MissingExtraError: as `Server`.
    """
    if address.uds is None:
        check_reach(address.host, access)
    if find_spec("grpc") is None or find_spec("google.protobuf") is None:
        raise MissingExtraError("grpc", missing="grpcio", needed_by="gRPC")
