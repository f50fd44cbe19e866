"""What the device tells its fleet: events of an update, and what its slots hold."""

from __future__ import annotations

from typing import Protocol

from skerry.devices.clock import Clock
from skerry.devices.profile import Profile
from skerry.devices.targets import target_of
from skerry.telemetry.messages import Event, EventKind, SlotReport, TwinReported
from skerry.telemetry.outbox import Outbox, Priority
from skerry.updater.store.slots import Held, Slots, Update

__all__ = ["OutboxReporter", "Reporter"]

_REASON_CHARS = 2_000


class Reporter(Protocol):
    """Receives what happens; it is safe when a call returns."""

    def event(
        self, kind: EventKind, release: str, *, reason: str = "", update: Update | None = None
    ) -> None:
        """Something happened to the update to `release` ("" where it is about none)."""

    def slots(self, slots: Slots) -> None:
        """The slots are these now."""


class OutboxReporter:
    """`Reporter` into the outbox, from where it goes to the server when there is a way.

    Args:
        profile: the machine, reported with the slots.
    """

    def __init__(self, outbox: Outbox, clock: Clock, profile: Profile) -> None:
        self._outbox, self._clock = outbox, clock
        self._profile: dict[str, str | int | float | bool] = {
            "arch": profile.arch,
            "isa": " ".join(profile.isa),
            "target": target_of(profile),
            "cores": profile.cores,
            "memory": profile.memory,
            "formats": " ".join(profile.formats),
            "system": profile.system,
            **{f"engine.{name}": version for name, version in profile.engines.items()},
        }
        self._version = 0

    def event(
        self, kind: EventKind, release: str, *, reason: str = "", update: Update | None = None
    ) -> None:
        event = Event(
            kind=kind,
            at=self._clock.now(),
            release=release,
            reason=reason[:_REASON_CHARS],
            delta_bytes=update.delta_bytes if update else 0,
            full_bytes=update.full_bytes if update else 0,
            details={"artifact": update.artifact} if update and update.artifact else {},
        )
        self._outbox.put("event", event.encode(), priority=Priority.EVENT)

    def slots(self, slots: Slots) -> None:
        self._version += 1
        twin = TwinReported(
            at=self._clock.now(),
            active=_report(slots.active),
            previous=_report(slots.previous),
            candidate=_report(slots.candidate),
            profile=self._profile,
            version=self._version,
        )
        self._outbox.put("twin/reported", twin.encode(), priority=Priority.TWIN)


def _report(held: Held | None) -> SlotReport | None:
    if held is None:
        return None
    return SlotReport(held.release, held.manifest.digest, held.artifact)
