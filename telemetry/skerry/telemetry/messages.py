"""Payloads on the wire besides windows, all msgpack. Fields of later versions are ignored."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal, Self

import msgspec

from skerry.devices.errors import InputError

__all__ = [
    "ORDER_BYTES",
    "Ack",
    "Command",
    "Envelope",
    "Event",
    "EventKind",
    "SlotReport",
    "State",
    "TwinReported",
    "new_boot_id",
]

EventKind = Literal[
    "update_started",
    "downloaded",
    "golden_failed",
    "trial_started",
    "committed",
    "rolled_back",
    "refused",
    "capture",
]
_MOST_BYTES = 16 << 10
ORDER_BYTES = 12 << 10
"""The longest order that a command carries."""
_ENVELOPE_BYTES = 272 << 10
_Boot = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
_Time = Annotated[float, msgspec.Meta(ge=0, le=2.0**40)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Word = Annotated[str, msgspec.Meta(max_length=128)]
_Text = Annotated[str, msgspec.Meta(max_length=2000)]


def new_boot_id() -> str:
    """A name for one run of the device's agent: 16 hex digits, never used again."""
    return secrets.token_hex(8)


class _Message(msgspec.Struct, frozen=True):
    def encode(self) -> bytes:
        """The message as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read `encode`'s bytes, which may come from anywhere; InputError if they are not."""
        limit = _ENVELOPE_BYTES if cls is Envelope else _MOST_BYTES
        if len(data) > limit:
            raise InputError(f"{len(data)} bytes, at most {limit}", where=cls.__name__)
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(f"malformed: {error}", where=cls.__name__) from error


class Envelope(_Message, frozen=True):
    """What every message on `window`, `event` and `twin/reported` is wrapped in.

    Attributes:
        boot, seq: with device and stream, the key under which it is stored exactly once.
        at: when it was put into the outbox, seconds since the Unix epoch.
        dropped: messages this outbox has lost to its quota or their age, ever.
        body: the encoded `Window`, `Event` or `TwinReported`.
    """

    boot: _Boot
    seq: _Count
    at: _Time
    dropped: _Count
    body: bytes


class Ack(_Message, frozen=True):
    """Server to device: what is stored for good. `ranges` are inclusive (first, last) of `seq`."""

    boot: _Boot
    ranges: Annotated[list[tuple[_Count, _Count]], msgspec.Meta(max_length=1024)]


class Event(_Message, frozen=True):
    """What happened to an update; for `capture`, to an order to keep inputs, told by `reason`.

    Attributes:
        release: `model/counter`, or empty.
        rollout: the rollout's id, or empty.
        reason: for `refused`, `golden_failed`, `rolled_back`: why, for people.
        delta_bytes, full_bytes: for `downloaded`: what was fetched, and what it stands for.
    """

    kind: EventKind
    at: _Time
    release: _Word = ""
    rollout: _Word = ""
    reason: _Text = ""
    delta_bytes: _Count = 0
    full_bytes: _Count = 0
    details: Annotated[dict[_Word, _Text], msgspec.Meta(max_length=32)] = {}


class SlotReport(_Message, frozen=True):
    """What one slot holds."""

    release: _Word
    manifest: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    artifact: _Word = ""


class TwinReported(_Message, frozen=True):
    """What a device says it is and holds. `version` grows with each change."""

    at: _Time
    active: SlotReport | None = None
    previous: SlotReport | None = None
    candidate: SlotReport | None = None
    profile: Annotated[dict[_Word, bool | int | float | _Text], msgspec.Meta(max_length=64)] = {}
    version: _Count = 0


class Command(_Message, frozen=True):
    """Server to device. `poll`: look for a new assignment now. `capture`: follow `order`.

    Attributes:
        order: a signed capture order (`skerry.runtime.capture_order`), or empty.
    """

    id: _Word
    kind: Literal["poll", "capture"]
    at: _Time
    order: Annotated[bytes, msgspec.Meta(max_length=ORDER_BYTES)] = b""


class State(_Message, frozen=True):
    """Retained on `state`; the Last Will is the one with `online` false."""

    online: bool
    boot: _Boot
    at: _Time
