"""A broker in memory: everything happens in the caller's thread, at once."""

import itertools

from skerry.devices.errors import InputError, UnavailableError
from skerry.telemetry.link import Delivery, Message, Receive


def matches(topic_filter: str, topic: str) -> bool:
    wanted, found = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, found = wanted[:-1], found[: len(wanted) - 1]
    return len(wanted) == len(found) and all(
        w in ("+", f) for w, f in zip(wanted, found, strict=True)
    )


class FakeBroker:
    """`up` and `down` stand for the broker's process; `delivered` counts what was acknowledged."""

    def __init__(self) -> None:
        self.running = True
        self.links: list[FakeLink] = []
        self.retained: dict[str, Message] = {}
        self.published: list[Message] = []
        self.unacknowledged = 0
        self.swallow = 0

    def link(self, *, hello: Message | None = None, will: Message | None = None) -> "FakeLink":
        return FakeLink(self, hello, will)

    def down(self) -> None:
        """End, forgetting everything."""
        self.running = False
        self.retained.clear()
        for link in self.links:
            link.connection = 0

    def up(self) -> None:
        """Begin again; links come back by themselves."""
        self.running = True
        for link in list(self.links):
            link.connect()

    def cut(self, link: "FakeLink") -> None:
        """Lose one connection without a word; its will is published, and it comes back."""
        link.connection = 0
        if link.will is not None:
            self.route(link.will)
        link.connect()

    def route(self, message: Message) -> None:
        self.published.append(message)
        if message.retain:
            self.retained[message.topic] = message
        if self.swallow > 0:
            self.swallow -= 1
            return
        for link in list(self.links):
            if link.connection:
                link.deliver(message, retained=False)


class FakeLink:
    _numbers = itertools.count(1)

    def __init__(self, broker: FakeBroker, hello: Message | None, will: Message | None) -> None:
        self.broker, self.hello, self.will = broker, hello, will
        self.connection = 0
        self._subscriptions: dict[str, Receive] = {}

    def subscribe(self, topic_filter: str, receive: Receive) -> None:
        if self in self.broker.links:
            raise InputError("subscribe before the link is started")
        self._subscriptions[topic_filter] = receive

    def start(self) -> None:
        self.broker.links.append(self)
        self.connect()

    def stop(self) -> None:
        if self.will is not None and self.connection:
            self.broker.route(self.will)
        self.connection = 0
        if self in self.broker.links:
            self.broker.links.remove(self)

    def connect(self) -> None:
        if not self.broker.running:
            return
        self.connection = next(self._numbers)
        for message in list(self.broker.retained.values()):
            self.deliver(message, retained=True)
        if self.hello is not None:
            self.publish(self.hello)

    def wait_connected(self, seconds: float) -> bool:
        return bool(self.connection)

    def publish(self, message: Message) -> "FakeReceipt":
        if not self.connection:
            raise UnavailableError("no connection to the broker")
        self.broker.route(message)
        return FakeReceipt()

    def deliver(self, message: Message, *, retained: bool) -> None:
        for topic_filter, receive in self._subscriptions.items():
            if matches(topic_filter, message.topic):
                self.broker.unacknowledged += 1
                receive(Delivery(message.topic, message.payload, retained, self._ack()))
                return

    def _ack(self):
        once = [None]

        def ack() -> None:
            if once:
                once.pop()
                self.broker.unacknowledged -= 1

        return ack


class FakeReceipt:
    def wait(self, seconds: float) -> bool:
        return True
