"""One process: HTTP, an MQTT broker, the collector, and the rollouts."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvicorn

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.enrolment import MqttAddress
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.devices.ids import TenantId
from skerry.devices.lock import exclusive
from skerry.telemetry.embedded import EmbeddedBroker
from skerry.updater.repository import DirectorRepository, ImageRepository
from skerry.updater.server.doorman import Doorman
from skerry.updater.server.engine_room import EngineRoom
from skerry.updater.server.fleet import Fleet, ServerLimits
from skerry.updater.server.home import FleetHome, ServerAddress
from skerry.updater.server.http.app import make_app
from skerry.updater.server.store import FleetStore
from skerry.updater.server.tls import FleetTls, GivenTls, ServerTls, check_reach

__all__ = ["Listen", "TlsChoice", "parse_listen", "serve"]

_BACKLOG = 512
_GRACE_SECONDS = 5
_MOST_CONNECTIONS = 4096


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; port 0 takes the one of the last time, or any that is free."""

    host: str
    port: int


def parse_listen(text: str) -> Listen:
    """Read `HOST:PORT`.

    Raises:
        InputError: the text has another form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"{text!r} is not HOST:PORT", remedy="for example 127.0.0.1:8080")
    return Listen(host.strip("[]"), int(port))


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: they would end the process before the rest stops."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Ports(msgspec.Struct, frozen=True):
    http: int = 0
    mqtt: int = 0


@dataclass(frozen=True, slots=True)
class TlsChoice:
    """How connections are secured.

    Attributes:
        files: certificate, key, and the authority (PEM text, "" for the system's).
        fleet: by a certificate of the fleet's own authority.
        plain: not at all, even beyond this machine: TLS ends in front of the server.
    """

    files: tuple[Path, Path, str] | None = None
    fleet: bool = False
    plain: bool = False

    def open(self, home: FleetHome, hosts: Sequence[str], clock: Clock) -> ServerTls | None:
        """Where certificates come from, or None; InputError if a file is none."""
        if self.files is not None:
            return GivenTls(*self.files)
        if self.fleet:
            return FleetTls(home.path / "tls", home.authority(), hosts, clock)
        return None


def serve(
    home: FleetHome,
    http: Listen,
    mqtt: Listen,
    *,
    url: str = "",
    broker_at: MqttAddress | None = None,
    tls: TlsChoice | None = None,
    ready: Callable[[ServerAddress], None] = lambda _: None,
    clock: Clock | None = None,
    limits: ServerLimits | None = None,
) -> None:
    """Serve a fleet until SIGTERM or SIGINT; then stop in order and return.

    Args:
        url: the public URL, if devices reach this server by another one than `http` says.
        broker_at: where devices reach the broker, if not as `mqtt` says; a proxy, for example.
        tls: how connections are secured; by default not at all, on this machine alone.
        limits: what it takes and keeps.
        ready: called once everything answers.

    Raises:
        InputError: no fleet lives in `home`, or it would be reached from elsewhere without TLS.
        UnavailableError: an address cannot be had, or another server runs on `home`.
    """
    clock, tls = clock or SystemClock(), tls or TlsChoice()
    home.settings()
    with ExitStack() as stack:
        stack.enter_context(exclusive(home.path / "server.lock", "server"))
        secured = tls.open(home, _names(http, mqtt, url), clock)
        for listen in (http, mqtt):
            check_reach(listen.host, secured, plain=tls.plain)
        context = None if secured is None else secured.context()
        store = home.open_store()
        stack.callback(store.close)
        # The broker remembers nobody of an earlier run; whoever connects says so.
        store.registry.all_offline()
        last = _last_ports(home)
        listener = stack.enter_context(_listener(http, last.http))
        address = listener.getsockname()
        tenant = home.settings().tenant
        secret = secrets.token_urlsafe(32)
        doorman = Doorman(secret)
        broker = _broker(doorman, mqtt, last.mqtt, context)
        stack.callback(broker.stop)
        scheme = "http" if secured is None else "https"
        base = (url or f"{scheme}://{_shown(http.host)}:{address[1]}").rstrip("/")
        at = broker_at or MqttAddress(_reachable(mqtt.host), broker.port, tls=secured is not None)
        ca = "" if secured is None else secured.ca
        fleet = _fleet(home, store, clock, base, at, ca, limits or ServerLimits())
        doorman.fleet = fleet
        ports = _Ports(address[1], broker.port)
        write_atomically(home.ports_file, msgspec.json.encode(ports))
        engine_room = EngineRoom(fleet, _loopback(mqtt.host), broker.port, secret, secured)
        stack.callback(engine_room.stop)
        engine_room.start()
        here = ServerAddress(
            fleet.url,
            {"host": _loopback(mqtt.host), "port": broker.port},
            os.getpid(),
            fleet.ca,
        )

        def answering() -> None:
            write_atomically(home.server_file, msgspec.json.encode(here))
            ready(here)

        stack.callback(lambda: home.server_file.unlink(missing_ok=True))
        disconnect = lambda device: broker.disconnect(f"{tenant}/{device}")  # noqa: E731 - one use
        app = make_app(
            fleet, engine_room.conductor, disconnect, engine_room.counters, engine_room.order
        )
        asyncio.run(_serve_http(app, listener, context, answering))


def _fleet(
    home: FleetHome,
    store: FleetStore,
    clock: Clock,
    url: str,
    mqtt: MqttAddress,
    ca: str,
    limits: ServerLimits,
) -> Fleet:
    keys, key_room = home.online_keys(), home.key_room()
    return Fleet(
        tenant=TenantId(home.settings().tenant),
        folder=home.path,
        url=url,
        store=store,
        blobs=home.blobs(key_room),
        keys=key_room,
        image=ImageRepository(home.image_store(), keys, clock),
        director=DirectorRepository(home.director_store(), keys, clock),
        director_store=home.director_store(),
        authority=home.authority(),
        clock=clock,
        mqtt=mqtt,
        ca=ca,
        limits=limits,
    )


async def _serve_http(
    app: Callable[..., object],
    listener: socket.socket,
    context: ssl.SSLContext | None,
    answering: Callable[[], None],
) -> None:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=_MOST_CONNECTIONS,
        lifespan="off",
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: setattr(server, "should_exit", True))
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        answering()
    await serving


def _broker(
    doorman: Doorman, listen: Listen, last: int, context: ssl.SSLContext | None
) -> EmbeddedBroker:
    ports = [listen.port] if listen.port or not last else [last, 0]
    for port in ports:
        broker = EmbeddedBroker(
            doorman.authenticate, doorman.authorize, host=listen.host, port=port, tls=context
        )
        try:
            broker.start()
        except UnavailableError:
            if port == ports[-1]:
                raise
            continue
        return broker
    raise AssertionError("unreachable")


@contextmanager
def _listener(listen: Listen, last: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    ports = [listen.port] if listen.port or not last else [last, 0]
    for port in ports:
        # asyncio turns Nagle off only where the protocol is named: else answers wait 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((listen.host, port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if port == ports[-1]:
                raise UnavailableError(
                    f"cannot listen: {error.strerror}",
                    where=f"{listen.host}:{port}",
                    remedy="choose another address with --http",
                ) from error
            continue
        with listener:
            yield listener
        return


def _last_ports(home: FleetHome) -> _Ports:
    try:
        return msgspec.json.decode(home.ports_file.read_bytes(), type=_Ports)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return _Ports()


def _names(http: Listen, mqtt: Listen, url: str) -> list[str]:
    """The hosts that a certificate of this server is for."""
    hosts = ["localhost", "127.0.0.1", "::1", socket.gethostname(), urlsplit(url).hostname or ""]
    hosts += [_loopback(listen.host) for listen in (http, mqtt)]
    return [host for host in dict.fromkeys(hosts) if host]


def _loopback(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - a comparison


def _shown(host: str) -> str:
    host = _loopback(host)
    return f"[{host}]" if ":" in host else host


def _reachable(host: str) -> str:
    """What devices are told: nothing, which means the server's own host, if it listens on all."""
    return "" if host in ("0.0.0.0", "::") else host  # noqa: S104 - a comparison
