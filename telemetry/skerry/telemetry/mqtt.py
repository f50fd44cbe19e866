"""`Link` over MQTT 3.1.1 by paho-mqtt."""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, topic_matches_sub
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError, SkerryError, UnavailableError
from skerry.telemetry.link import Delivery, Message, Receipt, Receive
from skerry.telemetry.messages import State
from skerry.telemetry.topics import Address, Topic

__all__ = ["MqttLimits", "MqttLink", "MqttOptions", "device_link"]

_LOG = logging.getLogger(__name__)
_SUBSCRIPTION_REFUSED = 0x80


@dataclass(frozen=True, slots=True)
class MqttLimits:
    """How a link behaves.

    Attributes:
        in_flight: most messages published and not yet taken by the broker.
        keepalive_seconds: longest silence before the connection counts as lost.
        connect_seconds: longest wait for a TCP connection.
        retry_seconds, most_retry_seconds: first and longest wait before connecting again; each wait
            is drawn evenly from the upper half, so that a fleet does not come back all at once.
        farewell_seconds: longest wait for the will to be taken on `stop`.
    """

    in_flight: int = 256
    keepalive_seconds: int = 30
    connect_seconds: float = 10.0
    retry_seconds: float = 1.0
    most_retry_seconds: float = 120.0
    farewell_seconds: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """Whom to reach, as whom.

    Attributes:
        username: also the client id; a broker of ours requires the two to be the same.
        password: called for each attempt to connect, so that an assertion is always fresh.
        hello: published at each connection.
        will: published by the broker when the connection is lost, and by the link on `stop`.
        tls: None for plain TCP.
    """

    host: str
    port: int
    username: str
    password: Callable[[], str]
    hello: Message | None = None
    will: Message | None = None
    tls: ssl.SSLContext | None = None
    limits: MqttLimits = field(default_factory=MqttLimits)


class _Receipt:
    def __init__(self) -> None:
        self._over, self._taken = Event(), False

    def finish(self, taken: bool) -> None:
        self._taken = taken
        self._over.set()

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds) and self._taken


class MqttLink:
    """`Link` on a thread of paho's own."""

    def __init__(self, options: MqttOptions) -> None:
        self._options, self._limits = options, options.limits
        self._subscriptions: dict[str, Receive] = {}
        self._lock, self._connected = Lock(), Event()
        self._receipts: dict[int, _Receipt] = {}
        self._subscribing: set[int] = set()
        self._connection = self._connections = self._failures = 0
        self._started = self._stopping = False
        self._client = self._make_client()

    def _make_client(self) -> Client:
        options = self._options
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.username,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )
        client.enable_logger(_LOG)
        client.suppress_exceptions = True
        client.connect_timeout = self._limits.connect_seconds
        client.max_inflight_messages_set(self._limits.in_flight)
        if options.tls is not None:
            client.tls_set_context(options.tls)
        if options.will is not None:
            client.will_set(options.will.topic, options.will.payload, 1, options.will.retain)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def subscribe(self, topic_filter: str, receive: Receive) -> None:
        if self._started:
            raise InputError("subscribe before the link is started", where=topic_filter)
        self._subscriptions[topic_filter] = receive
        self._client.on_message = self._on_message

    def start(self) -> None:
        if self._started:
            raise InputError("a link is started once", where=self._options.username)
        self._started = True
        options = self._options
        self._client.connect_async(options.host, options.port, self._limits.keepalive_seconds)
        self._client.loop_start()

    def stop(self) -> None:
        if not self._started or self._stopping:
            return
        will = self._options.will
        if will is not None and self._connected.is_set():
            try:
                self.publish(will).wait(self._limits.farewell_seconds)
            except UnavailableError:
                _LOG.debug("no connection for the farewell")
        self._stopping = True
        self._client.disconnect()
        self._client.drop_out_messages()
        self._client.loop_stop()
        self._lost()

    @property
    def connection(self) -> int:
        return self._connection

    def wait_connected(self, seconds: float) -> bool:
        return self._connected.wait(seconds)

    def publish(self, message: Message) -> Receipt:
        if not self._connected.is_set():
            raise UnavailableError("no connection to the broker", where=self._where())
        return self._publish(message)

    def _publish(self, message: Message) -> Receipt:
        if len(self._receipts) >= self._limits.in_flight:
            raise UnavailableError("too many messages on their way", where=self._where())
        info = self._client.publish(message.topic, message.payload, 1, message.retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise UnavailableError("the connection to the broker was lost", where=self._where())
        with self._lock:
            early = self._receipts.pop(info.mid, None)
            if early is not None:
                return early
            receipt = self._receipts[info.mid] = _Receipt()
        return receipt

    def _on_pre_connect(self, client: Client, _userdata: object) -> None:
        try:
            client.username_pw_set(self._options.username, self._options.password())
        except SkerryError as error:
            _LOG.warning("no password for the broker: %s", error)
            client.username_pw_set(self._options.username, "")

    def _on_connect(
        self, client: Client, _userdata: object, _flags: Any, reason: Any, _: Any
    ) -> None:
        if reason.is_failure:
            _LOG.warning("%s refused the login: %s", self._where(), reason)
            return
        self._failures = 0
        client.reconnect_delay_set(*self._next_delay())
        filters = [(topic_filter, 1) for topic_filter in self._subscriptions]
        if not filters:
            self._ready()
            return
        _, mid = client.subscribe(filters)
        self._subscribing = {mid} if mid is not None else set()

    def _on_subscribe(
        self, _client: Client, _userdata: object, mid: int, codes: Any, _: Any
    ) -> None:
        if any(code.value >= _SUBSCRIPTION_REFUSED for code in codes):
            _LOG.error("%s refused a subscription of %s", self._where(), self._options.username)
            return
        if mid in self._subscribing:
            self._ready()

    def _ready(self) -> None:
        self._connections += 1
        self._connection = self._connections
        self._connected.set()
        if self._options.hello is not None:
            self._publish(self._options.hello)

    def _on_connect_fail(self, client: Client, _userdata: object) -> None:
        self._failures += 1
        client.reconnect_delay_set(*self._next_delay())

    def _on_disconnect(
        self, client: Client, _userdata: object, _flags: Any, _reason: Any, _: Any
    ) -> None:
        client.drop_out_messages()
        self._failures += 1
        client.reconnect_delay_set(*self._next_delay())
        self._lost()

    def _lost(self) -> None:
        self._connection = 0
        self._connected.clear()
        with self._lock:
            receipts, self._receipts = self._receipts, {}
        for receipt in receipts.values():
            receipt.finish(False)

    def _next_delay(self) -> tuple[Any, Any]:
        """Least and greatest wait, the same, so that ours is the one paho keeps."""
        limits = self._limits
        longest = limits.retry_seconds * 2 ** min(max(0, self._failures - 1), 30)
        delay = min(longest, limits.most_retry_seconds) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        return delay, delay

    def _on_publish(
        self, _client: Client, _userdata: object, mid: int, _reason: Any, _: Any
    ) -> None:
        """PUBACK. paho holds its own locks here, and it may come before `publish` has returned."""
        with self._lock:
            receipt = self._receipts.pop(mid, None)
            if receipt is None:
                receipt = self._receipts[mid] = _Receipt()
        receipt.finish(True)

    def _on_message(self, client: Client, _userdata: object, message: MQTTMessage) -> None:
        connection, mid, qos = self._connections, message.mid, message.qos

        def ack() -> None:
            if connection == self._connections and not self._stopping:
                client.ack(mid, qos)

        delivery = Delivery(message.topic, bytes(message.payload), message.retain, ack)
        for topic_filter, receive in self._subscriptions.items():
            if topic_matches_sub(topic_filter, message.topic):
                receive(delivery)
                return
        ack()

    def _where(self) -> str:
        return f"{self._options.host}:{self._options.port}"


def device_link(
    host: str,
    port: int,
    address: Address,
    boot: str,
    password: Callable[[], str],
    *,
    clock: Clock | None = None,
    tls: ssl.SSLContext | None = None,
    limits: MqttLimits | None = None,
) -> MqttLink:
    """A device's link, which keeps `state` (retained) at online or offline."""
    now = (clock or SystemClock()).now()
    topic = str(Topic(address, "state"))
    return MqttLink(
        MqttOptions(
            host=host,
            port=port,
            username=str(address),
            password=password,
            hello=Message(topic, State(online=True, boot=boot, at=now).encode(), retain=True),
            will=Message(topic, State(online=False, boot=boot, at=now).encode(), retain=True),
            tls=tls,
            limits=limits or MqttLimits(),
        )
    )
