"""Where each message goes: `skerry/v1/{tenant}/{device}/{kind}`, and who may send it there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from skerry.devices.errors import InputError
from skerry.devices.ids import DeviceId, TenantId

__all__ = [
    "Action",
    "Address",
    "Kind",
    "Topic",
    "device_may",
    "may_publish",
    "may_subscribe",
    "subscription",
]

Kind = Literal["window", "event", "state", "twin/reported", "twin/desired", "cmd", "ack"]
Action = Literal["publish", "subscribe", "receive"]

_ROOT: Final = "skerry/v1"
_UP: dict[str, Kind] = {
    "window": "window",
    "event": "event",
    "state": "state",
    "twin/reported": "twin/reported",
}
_DOWN: dict[str, Kind] = {"twin/desired": "twin/desired", "ack": "ack"}
_PLAIN: dict[str, Kind] = {**_UP, **_DOWN}
_COMMAND = re.compile(r"cmd/([a-z0-9][a-z0-9-]{0,62})")
_LONGEST = 256


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One device of one tenant. As text it is the device's MQTT user name and client id."""

    tenant: TenantId
    device: DeviceId

    def __str__(self) -> str:
        return f"{self.tenant}/{self.device}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `tenant/device`.

        Raises:
            InputError: the text has another form.
        """
        tenant, slash, device = text.partition("/")
        if not slash:
            raise InputError(f"{text[:80]!r} is not an address", remedy="expected tenant/device")
        return cls(TenantId(tenant), DeviceId(device))


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of one device. `command` is the id of a command, for `cmd` alone."""

    address: Address
    kind: Kind
    command: str = ""

    def __post_init__(self) -> None:
        fits = self.kind in _PLAIN if not self.command else self.kind == "cmd"
        if not fits or (self.command and not _COMMAND.fullmatch(f"cmd/{self.command}")):
            raise InputError(f"{self.kind!r} with command {self.command[:80]!r} is not a topic")

    def __str__(self) -> str:
        tail = f"cmd/{self.command}" if self.command else self.kind
        return f"{_ROOT}/{self.address}/{tail}"

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Read a topic.

        Raises:
            InputError: it is none of ours, or its ids are malformed.
        """
        parts = text.split("/", 4) if len(text) <= _LONGEST else []
        if len(parts) != 5 or "/".join(parts[:2]) != _ROOT:
            raise InputError(f"{text[:80]!r} is not a topic of {_ROOT}")
        address = Address(TenantId(parts[2]), DeviceId(parts[3]))
        if kind := _PLAIN.get(parts[4]):
            return cls(address, kind)
        if command := _COMMAND.fullmatch(parts[4]):
            return cls(address, "cmd", command.group(1))
        raise InputError(f"{parts[4][:80]!r} is not a kind of topic", where=address)


def subscription(kind: Kind, address: Address | None = None) -> str:
    """The filter for one kind of topic, of one device or of all."""
    tail = "cmd/+" if kind == "cmd" else kind
    return f"{_ROOT}/{address or '+/+'}/{tail}"


def may_publish(address: Address, topic: str) -> bool:
    """Whether the device may send to `topic`: its own, upward."""
    return topic in {f"{_ROOT}/{address}/{tail}" for tail in _UP}


def may_subscribe(address: Address, topic_filter: str) -> bool:
    """Whether the device may listen on `topic_filter`: its own, downward."""
    own = {subscription(kind, address) for kind in _DOWN.values()} | {subscription("cmd", address)}
    return topic_filter in own


def device_may(username: str, action: Action, topic: str) -> bool:
    """The rule for a device that logged in as `username`; False for whoever is no device."""
    try:
        address = Address.parse(username)
        if action == "publish":
            return may_publish(address, topic)
        if action == "subscribe":
            return may_subscribe(address, topic)
        found = Topic.parse(topic)
    except InputError:
        return False
    return found.address == address and found.kind not in _UP
