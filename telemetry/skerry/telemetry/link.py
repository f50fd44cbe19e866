"""The seam to a broker: QoS 1 both ways, clean sessions, reconnecting by itself.

Nothing that matters rests on the broker's memory: what a server has stored it acknowledges to the
device itself, and what a device has not seen acknowledged it sends again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Delivery", "Link", "Message", "Receipt", "Receive"]


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish."""

    topic: str
    payload: bytes
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """Something received. Call `ack`, on any thread, when it has been dealt with."""

    topic: str
    payload: bytes
    retained: bool
    ack: Callable[[], None]


Receive = Callable[[Delivery], None]


class Receipt(Protocol):
    """What became of something published."""

    def wait(self, seconds: float) -> bool:
        """Whether the broker took it, waiting up to `seconds`; False if the link was lost."""


class Link(Protocol):
    """A client of a broker."""

    def subscribe(self, topic_filter: str, receive: Receive) -> None:
        """Before `start`: have `receive` called, on the link's thread, with what matches."""

    def start(self) -> None:
        """Begin to connect, and again whenever the connection is lost. Returns at once."""

    def stop(self) -> None:
        """Publish the will, leave, and end. Not started again."""

    @property
    def connection(self) -> int:
        """0 while not connected and subscribed; else a number that grows with each connection."""

    def wait_connected(self, seconds: float) -> bool:
        """Whether there is a connection, waiting up to `seconds`."""

    def publish(self, message: Message) -> Receipt:
        """Hand a message to the broker.

        Raises:
            UnavailableError: there is no connection, or too much is on its way already.
        """
