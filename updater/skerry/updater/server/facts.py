"""What a rollout may know of its devices, and what an event means to one of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from skerry.devices.errors import InputError
from skerry.devices.ids import ReleaseId
from skerry.devices.profile import Profile
from skerry.updater.rollout import (
    Assignment,
    DeviceEvent,
    DeviceFacts,
    Health,
    Rollout,
    device_after,
)
from skerry.updater.server.records import Device, StoredEvent, Totals

__all__ = ["HOLDING", "check_fallback", "facts_of", "formats_of", "moved", "told"]

HOLDING = ("running", "paused", "done")
"""The states in which a rollout says what its devices run."""
_FAILED_WORDS = {
    "golden_failed": "golden test failed",
    "rolled_back": "rolled back",
    "refused": "refused",
}
_replace = msgspec.structs.replace


@lru_cache(maxsize=10_000)
def formats_of(profile: str) -> frozenset[str]:
    """The artifact formats that a machine runs, from its profile as JSON; none if it says none."""
    try:
        return frozenset(Profile.decode(profile.encode()).formats)
    except InputError:
        return frozenset()


def moved(before: Assignment, event: DeviceEvent, now: float) -> Assignment:
    """The assignment after `event`, by the table of states."""
    state = device_after(before.state, event)
    return before if state == before.state else _replace(before, state=state, since=now)


def told(before: Assignment, event: StoredEvent) -> Assignment:
    """The assignment after what the device told of it."""
    after = moved(before, event.kind, event.received)
    if after.state == "failed" and before.state != "failed":
        words = _FAILED_WORDS[event.kind]
        after = _replace(after, reason=f"{words}: {event.reason}" if event.reason else words)
    if after.state == "succeeded":
        after = _replace(after, reason="")
    if event.full_bytes:
        after = _replace(after, delta_bytes=event.delta_bytes, full_bytes=event.full_bytes)
    return after


def facts_of(
    rollout: Rollout,
    devices: Iterable[Device],
    totals: Iterable[Totals],
    rollouts: Sequence[Rollout],
    manifest: str,
) -> list[DeviceFacts]:
    """What `plan` may know: the devices that no newer rollout holds."""
    taken = {
        a.device
        for other in rollouts
        if other.state in HOLDING and other.started_at > rollout.started_at
        for a in other.assignments
        if a.state != "withdrawn"
    }
    health = {t.device: t for t in totals if t.manifest == manifest}
    return [
        DeviceFacts(
            device.id,
            device.online,
            "" if device.busy else device.active,
            _health(health.get(device.id)),
        )
        for device in devices
        if device.id not in taken
    ]


def _health(totals: Totals | None) -> Health:
    if totals is None:
        return Health()
    p99 = 1000 * totals.latency.quantile(0.99)
    return Health(totals.requests, totals.errors, p99, totals.drift)


def check_fallback(release: str, fallback: str, published: set[str]) -> None:
    """Refuse a fallback that devices would not take.

    Raises:
        InputError: it is not published, of another model, or its counter is not higher.
    """
    if not fallback:
        return
    there, back = ReleaseId.parse(release), ReleaseId.parse(fallback)
    if back.model != there.model or back.counter <= there.counter or str(back) not in published:
        raise InputError(
            "is no way back: it must be published, of the same model, with a higher counter",
            where=f"fallback {fallback}",
            remedy="sign the older bundle again; it gets the next counter",
        )
