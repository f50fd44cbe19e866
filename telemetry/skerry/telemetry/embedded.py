"""A broker in the server's process, for small fleets and tests: amqtt behind a gate of ours.

amqtt touches the session of whoever a CONNECT names before it asks whether the login is right,
sends a Last Will anywhere, and reads packets of up to 256 MB. So the gate reads the CONNECT
first, with a bound in bytes and time, and lets through only those who may log in, under a client
id that is their own user name, with a will on a topic of their own; from then on it bounds each
packet, and ends a connection that publishes with QoS 2.

amqtt keeps nothing over a restart and gives up on a PUBACK after five seconds: at least once
rests on the outboxes and on the collector's own acknowledgements.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from amqtt.adapters import BufferReader, StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connect import ConnectPacket
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from skerry.devices.errors import InputError, UnavailableError
from skerry.telemetry.topics import Action

__all__ = ["Authenticate", "Authorize", "BrokerLimits", "EmbeddedBroker", "Gate"]

_LOG = logging.getLogger(__name__)
_LISTENER = "default"
_CONNECT, _PUBLISH = 0x10, 3
_REFUSED = bytes([0x20, 2, 0, 5])

Authenticate = Callable[[str, str], bool]
Authorize = Callable[[str, Action, str], bool]


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What a connection may take.

    Attributes:
        connections: most connections at once.
        connect_bytes: longest CONNECT.
        connect_seconds: longest wait for it.
        packet_bytes: longest packet after it.
        start_seconds, stop_seconds: longest wait for the broker to start, and to end.
    """

    connections: int = 5000
    connect_bytes: int = 16 << 10
    connect_seconds: float = 10.0
    packet_bytes: int = 320 << 10
    start_seconds: float = 10.0
    stop_seconds: float = 10.0


_gates: WeakValueDictionary[str, EmbeddedBroker] = WeakValueDictionary()


class Gate(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]  # amqtt ships no types
    """amqtt's plugin, found by its dotted path; asks the broker whose key it was given."""

    async def authenticate(self, *, session: Any) -> bool:
        """True: whoever gets as far as amqtt has passed the gate."""
        return session.username is not None

    async def topic_filtering(
        self, *, session: Any = None, topic: str | None = None, action: Any = None
    ) -> bool:
        """Whether the session may publish, subscribe to or receive the topic."""
        broker = _gates.get(self.config.broker)
        if broker is None or session is None or topic is None or not session.username:
            return False
        return broker.authorize(session.username, action.value, topic)

    @dataclass
    class Config:
        """Which `EmbeddedBroker` to ask."""

        broker: str = ""


class _BoundedReader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt ships no types
    """The CONNECT that was read already, then the stream; its end at a packet beyond `most`.

    Its end, too, at a PUBLISH of QoS 2: amqtt keeps each one until its sender releases it.
    """

    def __init__(
        self, first: bytes, stream: asyncio.StreamReader, most: int, end: Callable[[], None]
    ) -> None:
        super().__init__(stream)
        self._first, self._most, self._end, self._ended = first, most, end, False
        self._packets = _Packets()

    async def read(self, n: int = -1) -> bytes:
        if not 0 <= n <= self._most:
            self._refuse(f"packet of {n} bytes")
        if self._ended:
            raise NoDataError("the connection is being closed")
        if self._first:
            part, self._first = self._first[:n], self._first[n:]
        else:
            part = bytes(await super().read(n))
        if any(_is_exactly_once(head) for head in self._packets.heads(part)):
            self._refuse("PUBLISH of QoS 2")
        return part

    def _refuse(self, what: str) -> NoReturn:
        self._ended = True
        self._end()
        raise NoDataError(f"{what} refused")


class _Packets:
    """Finds where packets begin in a stream of bytes that comes in pieces."""

    def __init__(self) -> None:
        self._left = self._length = self._shift = 0
        self._in_length = False

    def heads(self, part: bytes) -> Iterator[int]:
        """The first byte of each packet that begins in the next piece."""
        at = 0
        while at < len(part):
            if self._left:
                skipped = min(self._left, len(part) - at)
                self._left -= skipped
                at += skipped
                continue
            byte, at = part[at], at + 1
            if not self._in_length:
                self._in_length, self._length, self._shift = True, 0, 0
                yield byte
                continue
            self._length |= (byte & 0x7F) << self._shift
            self._shift += 7
            if byte < 0x80:
                self._in_length, self._left = False, self._length


def _is_exactly_once(head: int) -> bool:
    return head >> 4 == _PUBLISH and bool(head & 0b100)


class EmbeddedBroker:
    """An MQTT 3.1.1 broker on a thread with its own event loop.

    Args:
        authenticate: (user name, password) → may log in. Called on a worker thread.
        authorize: (user name, action, topic or filter) → may. Called on the loop: keep it pure.
        port: 0 for one that is free; `port` tells which after `start`.
        tls: None for plain TCP.
    """

    def __init__(
        self,
        authenticate: Authenticate,
        authorize: Authorize,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        limits: BrokerLimits | None = None,
    ) -> None:
        self.host, self.port, self.authorize = host, port, authorize
        self._authenticate, self._tls, self._limits = authenticate, tls, limits or BrokerLimits()
        self._key = f"{id(self):x}"
        self._ready = Event()
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: Thread | None = None
        self._writers: dict[str, set[asyncio.StreamWriter]] = {}
        self._count = 0

    def start(self) -> None:
        """Listen. May be called again after `stop`, on the same port.

        Raises:
            UnavailableError: the address cannot be had.
        """
        _gates[self._key] = self
        self._ready.clear()
        self._failure = None
        self._thread = Thread(target=self._run, name="mqtt-broker", daemon=True)
        self._thread.start()
        answered, failure = self._ready.wait(self._limits.start_seconds), self._outcome()
        if not answered or failure is not None:
            raise UnavailableError(
                f"broker cannot start: {failure or 'no answer'}", where=f"{self.host}:{self.port}"
            ) from failure

    def stop(self) -> None:
        """Close every connection and end."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(self._limits.stop_seconds)
        self._thread = None

    def disconnect(self, username: str) -> None:
        """Close the connections of `username`, as after a revocation. Any thread."""

        def close() -> None:
            for writer in self._writers.get(username, ()):
                writer.transport.abort()

        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(close)

    def _outcome(self) -> Exception | None:
        return self._failure

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, AMQTTError, MQTTError) as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._writers, self._count = {}, 0
        config = BrokerConfig(
            listeners={_LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
            plugins={f"{Gate.__module__}.{Gate.__qualname__}": {"broker": self._key}},
        )
        broker = Broker(config)
        await broker.start()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(broker, reader, writer)

        try:
            server = await asyncio.start_server(
                connected, self.host, self.port, ssl=self._tls, reuse_address=True
            )
            self.port = server.sockets[0].getsockname()[1]
            self._ready.set()
            await self._stop.wait()
            server.close()
            for writers in list(self._writers.values()):
                for writer in list(writers):
                    writer.transport.abort()
        finally:
            await broker.shutdown()

    async def _connected(
        self, broker: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._count += 1
        username = ""
        try:
            if self._count > self._limits.connections:
                return
            first = await asyncio.wait_for(self._read_connect(reader), self._limits.connect_seconds)
            username = await self._admitted(first)
            self._writers.setdefault(username, set()).add(writer)
            bounded = _BoundedReader(
                first, reader, self._limits.packet_bytes, writer.transport.abort
            )
            await broker.external_connected(bounded, StreamWriterAdapter(writer), _LISTENER)
        except InputError as error:
            _LOG.info("connection refused: %s", error)
            writer.write(_REFUSED)
        except (OSError, TimeoutError, EOFError, NoDataError, AMQTTError, MQTTError) as error:
            _LOG.info("connection ended: %r", error)
        finally:
            self._count -= 1
            mine = self._writers.get(username, set())
            mine.discard(writer)
            if not mine:
                self._writers.pop(username, None)
            writer.close()

    async def _read_connect(self, reader: asyncio.StreamReader) -> bytes:
        """The first packet, whole, if it is a CONNECT within the bound."""
        head = bytearray(await reader.readexactly(1))
        if head[0] != _CONNECT:
            raise InputError("the first packet is no CONNECT")
        length = 0
        for place in range(3):
            head += await reader.readexactly(1)
            length |= (head[-1] & 0x7F) << (7 * place)
            if head[-1] < 0x80:
                break
        if head[-1] >= 0x80 or length > self._limits.connect_bytes:
            raise InputError("the CONNECT is too long")
        return bytes(head) + await reader.readexactly(length)

    async def _admitted(self, first: bytes) -> str:
        """The user name, if it may log in like this.

        Raises:
            InputError: it may not.
        """
        try:
            packet = await ConnectPacket.from_stream(BufferReader(first))
            username, password = packet.username, packet.password
            will_topic = packet.will_topic if packet.will_flag else None
        except (AMQTTError, MQTTError, NoDataError, ValueError, IndexError) as error:
            raise InputError(f"malformed CONNECT: {error!r}") from error
        if not username or password is None or packet.client_id != username:
            raise InputError("needs user name and password, and the user name as client id")
        if not packet.clean_session_flag:
            raise InputError("persistent sessions are not kept here", where=username[:200])
        if will_topic is not None and not self.authorize(username, "publish", will_topic):
            raise InputError("the will is on a topic of somebody else", where=username[:200])
        if isinstance(password, (bytes, bytearray)):
            password = bytes(password).decode("utf-8", "replace")
        if not await asyncio.to_thread(self._authenticate, username, password):
            raise InputError("login refused", where=username[:200])
        return str(username)
