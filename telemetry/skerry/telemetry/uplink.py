"""Drains the outbox to the server, and takes the server's word for what it has stored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError, UnavailableError
from skerry.telemetry.link import Delivery, Link, Message
from skerry.telemetry.messages import Ack, Command, Envelope
from skerry.telemetry.outbox import Outbox, Stored
from skerry.telemetry.topics import Address, Topic, subscription

__all__ = ["Uplink", "UplinkLimits"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UplinkLimits:
    """How an uplink behaves.

    Attributes:
        in_flight: most messages sent and not yet acknowledged by the server.
        resend_seconds: how long after sending a message it is sent again.
        idle_seconds: longest wait before looking at the outbox and the stop event again.
    """

    in_flight: int = 64
    resend_seconds: float = 30.0
    idle_seconds: float = 0.5


class Uplink:
    """Sends what waits in `outbox` over `link`, at least once, until the server acknowledges it.

    Args:
        on_command: called on the link's thread with each command; must be quick.
    """

    def __init__(
        self,
        link: Link,
        outbox: Outbox,
        address: Address,
        *,
        on_command: Callable[[Command], None] | None = None,
        clock: Clock | None = None,
        limits: UplinkLimits | None = None,
    ) -> None:
        self._link, self._outbox, self._address = link, outbox, address
        self._on_command, self._clock = on_command, clock or SystemClock()
        self._limits = limits or UplinkLimits()
        self._lock, self._wake = Lock(), Event()
        self._sent: dict[int, float] = {}
        self._connection = 0
        link.subscribe(subscription("ack", address), self._acked)
        link.subscribe(subscription("cmd", address), self._commanded)
        outbox.on_put = self._wake.set

    def run(self, stop: Event) -> None:
        """Start the link, send until `stop` is set, and stop the link."""
        self._link.start()
        try:
            while not stop.is_set():
                self._wake.clear()
                if self._link.wait_connected(self._limits.idle_seconds):
                    try:
                        self.send_waiting()
                    except UnavailableError as error:
                        _LOG.info("could not send: %s", error)
                    self._wake.wait(self._limits.idle_seconds)
        finally:
            self._link.stop()

    def send_waiting(self) -> int:
        """Send what may be sent now; how many messages that was.

        Raises:
            UnavailableError: the link was lost, or the outbox cannot be read.
        """
        with self._lock:
            self._forget_unanswered()
            on_their_way = set(self._sent)
        room = self._limits.in_flight - len(on_their_way)
        if room <= 0:
            return 0
        messages = self._outbox.peek(room, skip=on_their_way)
        dropped = self._outbox.dropped if messages else 0
        for message in messages:
            with self._lock:
                self._sent[message.seq] = self._clock.monotonic()
            try:
                self._link.publish(self._wrapped(message, dropped))
            except UnavailableError:
                with self._lock:
                    self._sent.pop(message.seq, None)
                raise
        return len(messages)

    def _forget_unanswered(self) -> None:
        """A new connection, or too long a silence: count messages as not sent."""
        connection = self._link.connection
        if connection != self._connection:
            self._connection = connection
            self._sent.clear()
        before = self._clock.monotonic() - self._limits.resend_seconds
        self._sent = {seq: at for seq, at in self._sent.items() if at > before}

    def _wrapped(self, message: Stored, dropped: int) -> Message:
        envelope = Envelope(message.boot, message.seq, message.at, dropped, message.body)
        topic = f"{_root(self._address)}/{message.stream}"
        return Message(topic, envelope.encode())

    def _acked(self, delivery: Delivery) -> None:
        try:
            ack = Ack.decode(delivery.payload)
            self._outbox.ack(ack.boot, ack.ranges)
        except (InputError, UnavailableError) as error:
            _LOG.warning("acknowledgement not used: %s", error)
            return
        finally:
            delivery.ack()
        with self._lock:
            for seq in list(self._sent):
                if any(first <= seq <= last for first, last in ack.ranges):
                    del self._sent[seq]
        self._wake.set()

    def _commanded(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            command = Command.decode(delivery.payload)
        except InputError as error:
            _LOG.warning("command not understood: %s", error)
            return
        if self._on_command is not None:
            self._on_command(command)


def _root(address: Address) -> str:
    return str(Topic(address, "ack")).removesuffix("/ack")
