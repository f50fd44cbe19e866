"""The server's end: takes what devices send, has it stored exactly once, and tells them so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event as Flag
from threading import Thread
from typing import Protocol

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError, UnavailableError
from skerry.telemetry.link import Delivery, Link, Message
from skerry.telemetry.messages import Ack, Command, Envelope, Event, State, TwinReported
from skerry.telemetry.topics import Address, Kind, Topic, subscription
from skerry.telemetry.window import Window

__all__ = ["Collector", "CollectorLimits", "Record", "TelemetrySink", "ranges_of"]

_LOG = logging.getLogger(__name__)
_BODIES: dict[Kind, Callable[[bytes], Window | Event | TwinReported]] = {
    "window": Window.decode,
    "event": Event.decode,
    "twin/reported": TwinReported.decode,
}
_ACK_RANGES = 1024


@dataclass(frozen=True, slots=True)
class CollectorLimits:
    """How a collector behaves.

    Attributes:
        queue: most messages taken from the broker and not yet stored; beyond it they are left to be
            sent again.
        batch: most records stored in one transaction.
        retry_seconds: wait before a batch that could not be stored is tried again.
        idle_seconds: longest wait for a message before looking whether to stop.
    """

    queue: int = 4096
    batch: int = 500
    retry_seconds: float = 1.0
    idle_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Record:
    """One message of one device, decoded.

    Attributes:
        at: when the device put it into its outbox, by its own clock.
        received: when it came here, by ours.
        dropped: messages the device's outbox has lost, ever.
    """

    address: Address
    stream: Kind
    boot: str
    seq: int
    at: float
    received: float
    dropped: int
    value: Window | Event | TwinReported

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What is stored exactly once: tenant, device, boot, stream, seq."""
        address = self.address
        return str(address.tenant), str(address.device), self.boot, self.stream, self.seq


class TelemetrySink(Protocol):
    """Where records go."""

    def store(self, batch: Sequence[Record]) -> Sequence[Record]:
        """Store in one transaction what is not there yet by `key`; what was new.

        Raises:
            UnavailableError: not now; the batch is offered again.
        """

    def presence(self, address: Address, state: State) -> None:
        """The device came online or went offline."""


class Collector:
    """From link to sink: store, commit, PUBACK, and then the device's own acknowledgement.

    A message that cannot be read, or not be stored whatever is tried, is counted and acknowledged
    as well, as far as it says which one it is: the device would offer it again for ever, and in the
    place of others.
    """

    def __init__(
        self,
        link: Link,
        sink: TelemetrySink,
        *,
        clock: Clock | None = None,
        limits: CollectorLimits | None = None,
    ) -> None:
        self._link, self._sink, self._clock = link, sink, clock or SystemClock()
        self._limits = limits or CollectorLimits()
        self._queue: Queue[tuple[Record, Delivery]] = Queue(self._limits.queue)
        self._states: Queue[tuple[Address, State]] = Queue(self._limits.queue)
        self._stop = Flag()
        self._thread = Thread(target=self._work, name="collector", daemon=True)
        self.stored = self.duplicates = self.refused = self.left = 0
        for kind in _BODIES:
            link.subscribe(subscription(kind), self._received)
        link.subscribe(subscription("state"), self._state_received)

    def start(self) -> None:
        """Begin to take messages, on threads of the collector's and the link's own."""
        self._thread.start()
        self._link.start()

    def stop(self) -> None:
        """Store what was taken, if the sink can, and end."""
        self._link.stop()
        self._stop.set()
        self._thread.join()

    def command(self, address: Address, command: Command) -> None:
        """Send a command to one device, if it is connected now.

        Raises:
            UnavailableError: this server is not connected to the broker.
        """
        self._link.publish(Message(str(Topic(address, "cmd", command.id)), command.encode()))

    def _received(self, delivery: Delivery) -> None:
        envelope: Envelope | None = None
        try:
            topic = Topic.parse(delivery.topic)
            envelope = Envelope.decode(delivery.payload)
            value = _BODIES[topic.kind](envelope.body)
        except InputError as error:
            self.refused += 1
            _LOG.warning("message on %s not understood: %s", delivery.topic[:200], error)
            delivery.ack()
            if envelope is not None:
                self._acknowledge([(topic.address, envelope.boot, envelope.seq)])
            return
        record = Record(
            address=topic.address,
            stream=topic.kind,
            boot=envelope.boot,
            seq=envelope.seq,
            at=envelope.at,
            received=self._clock.now(),
            dropped=envelope.dropped,
            value=value,
        )
        try:
            self._queue.put_nowait((record, delivery))
        except Full:
            self.left += 1

    def _state_received(self, delivery: Delivery) -> None:
        delivery.ack()
        try:
            entry = Topic.parse(delivery.topic).address, State.decode(delivery.payload)
            self._states.put_nowait(entry)
        except InputError as error:
            self.refused += 1
            _LOG.warning("state on %s not understood: %s", delivery.topic[:200], error)
        except Full:
            self.left += 1

    def _work(self) -> None:
        while True:
            ending = self._stop.is_set()
            self._pass_states()
            batch = self._next_batch(0.0 if ending else self._limits.idle_seconds)
            if batch:
                self._store(batch)
            elif ending:
                return

    def _next_batch(self, seconds: float) -> list[tuple[Record, Delivery]]:
        batch = []
        try:
            batch.append(self._queue.get(timeout=seconds) if seconds else self._queue.get_nowait())
            while len(batch) < self._limits.batch:
                batch.append(self._queue.get_nowait())
        except Empty:
            pass
        return batch

    def _store(self, batch: list[tuple[Record, Delivery]]) -> None:
        records = [record for record, _ in batch]
        while True:
            try:
                new = self._sink.store(records)
            except UnavailableError as error:
                _LOG.warning("could not store %d records: %s", len(records), error)
                if self._stop.wait(self._limits.retry_seconds):
                    return
            except Exception:  # noqa: BLE001 - logged; the others of the batch are stored
                self._store_singly(batch)
                return
            else:
                self.stored += len(new)
                self.duplicates += len(records) - len(new)
                self._settle(batch)
                return

    def _store_singly(self, batch: list[tuple[Record, Delivery]]) -> None:
        if len(batch) > 1:
            for one in batch:
                self._store([one])
            return
        _LOG.exception("a record of %s cannot be stored", batch[0][0].address)
        self.refused += 1
        self._settle(batch)

    def _settle(self, batch: list[tuple[Record, Delivery]]) -> None:
        """Tell broker and device that nobody waits for these any more."""
        for _, delivery in batch:
            delivery.ack()
        self._acknowledge((record.address, record.boot, record.seq) for record, _ in batch)

    def _acknowledge(self, keys: Iterable[tuple[Address, str, int]]) -> None:
        seqs: dict[tuple[Address, str], set[int]] = {}
        for address, boot, seq in keys:
            seqs.setdefault((address, boot), set()).add(seq)
        for (address, boot), numbers in seqs.items():
            ranges = ranges_of(numbers)
            for first in range(0, len(ranges), _ACK_RANGES):
                ack = Ack(boot, ranges[first : first + _ACK_RANGES])
                try:
                    self._link.publish(Message(str(Topic(address, "ack")), ack.encode()))
                except UnavailableError as error:
                    _LOG.info("acknowledgement to %s left out: %s", address, error)

    def _pass_states(self) -> None:
        while not self._states.empty():
            address, state = self._states.get_nowait()
            try:
                self._sink.presence(address, state)
            except UnavailableError as error:
                _LOG.warning("presence of %s not kept: %s", address, error)
            except Exception:  # noqa: BLE001 - logged; records are stored all the same
                _LOG.exception("presence of %s not kept", address)


def ranges_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The inclusive ranges that cover just `numbers`: {1, 2, 3, 7} → [(1, 3), (7, 7)]."""
    ranges: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
