"""The seam to the database: everything the server must not forget, for one tenant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from skerry.telemetry.collector import Record
from skerry.updater.rollout import Assignment, Policy, Rollout, RolloutState
from skerry.updater.server.records import (
    AuditEntry,
    Claim,
    Delta,
    Device,
    Operator,
    PublishedRelease,
    StoredEvent,
    Totals,
)

__all__ = ["Access", "AuditLog", "FleetStore", "Registry", "Rollouts", "Telemetry"]


class Registry(Protocol):
    """Devices and the claims by which they come in."""

    def add_claim(self, claim: Claim) -> None:
        """Keep a new claim."""

    def claim(self, token_hash: str) -> Claim | None:
        """One claim."""

    def claims(self) -> list[Claim]:
        """Every claim, newest first."""

    def enrol(self, token_hash: str, device: Device, now: float) -> Device:
        """Use the claim up and keep the device, both or neither.

        The same claim with the same key answers again with the device that it made.

        Raises:
            TrustError: the claim is unknown, expired, used by another key, or for another id.
            InputError: the id is taken.
        """

    def device(self, device_id: str) -> Device | None:
        """One device, revoked or not."""

    def devices(self) -> list[Device]:
        """Every device, by id."""

    def renew(self, device_id: str, certificate: str, key_digest: str, not_after: float) -> None:
        """Replace a device's certificate."""

    def revoke(self, device_id: str, now: float) -> bool:
        """Deny the device from now on; whether it is one that was not denied already."""

    def presence(self, device_id: str, online: bool, boot: str, at: float) -> None:
        """Note that a device is connected, or no more."""

    def all_offline(self) -> None:
        """Note that no device is connected: the broker has just started."""


class Access(Protocol):
    """Operators, releases and deltas."""

    def add_operator(self, operator: Operator) -> None:
        """Keep an operator."""

    def operator(self, token_hash: str) -> Operator | None:
        """Whose token it is; None if nobody's or revoked."""

    def add_release(self, release: PublishedRelease) -> None:
        """Keep a release; no error if it is there."""

    def releases(self) -> list[PublishedRelease]:
        """Every release, newest first."""

    def add_delta(self, delta: Delta) -> None:
        """Keep what a patch came to; replaces an earlier one for the same pair."""

    def deltas(self) -> list[Delta]:
        """Every patch that was made."""


class Rollouts(Protocol):
    """Rollouts and the devices in them."""

    def add(self, release: str, policy: Policy, targets: Sequence[str], now: float) -> Rollout:
        """A new draft, with the next id."""

    def get(self, rollout_id: str) -> Rollout | None:
        """One rollout with its assignments."""

    def all(self) -> list[Rollout]:
        """Every rollout with its assignments, oldest first."""

    def save(self, rollout: Rollout, *, was: RolloutState) -> bool:
        """Keep what changed of the rollout itself, if its state still is `was`; whether it was."""

    def put(self, rollout_id: str, assignment: Assignment) -> None:
        """Keep one assignment, new or changed."""

    def unapplied(self, limit: int) -> list[StoredEvent]:
        """Events that no rollout has looked at, in the order of arrival."""

    def apply(
        self, changed: Sequence[tuple[str, Assignment]], events: Sequence[StoredEvent]
    ) -> None:
        """Keep (rollout id, assignment) pairs and that `events` were looked at, both or neither."""


class Telemetry(Protocol):
    """What devices sent."""

    def store(self, batch: Sequence[Record]) -> list[Record]:
        """Keep records in one transaction; returns those that were new."""

    def events(self, limit: int, device: str = "") -> list[StoredEvent]:
        """The newest events, newest first."""

    def totals(self) -> list[Totals]:
        """Sums by device and manifest."""

    def sketches(self, device: str, manifest: str, limit: int) -> list[bytes]:
        """The encoded sketches of the newest windows, newest first, empty ones left out."""

    def slim(self, keep: int) -> bool:
        """Forget the sketches and latencies of a device's windows under one manifest.

        The `keep` newest keep them. The others keep their counts, and what tells that one is
        sent again. A bounded number at a time; whether there may be more.
        """

    def prune(self, windows_before: float, events_before: float) -> int:
        """Forget windows and twins, and applied events, received earlier; how many went.

        Sums and device rows stay. A message forgotten and sent again would count twice, so keep
        more than the longest life of a message in an outbox.
        """

    def set_drift(self, device: str, manifest: str, verdict: str) -> None:
        """Keep a drift verdict."""


class AuditLog(Protocol):
    """Who did what, chained so that no entry can be changed or left out unseen."""

    def append(self, actor: str, action: str, subject: str, details: str, at: float) -> AuditEntry:
        """Add an entry behind the last."""

    def entries(self, after: int = 0, limit: int = 1000) -> list[AuditEntry]:
        """Entries with `seq` above `after`, in order."""


class FleetStore(Protocol):
    """All of them on one database."""

    @property
    def registry(self) -> Registry:
        """Devices and claims."""

    @property
    def access(self) -> Access:
        """Operators, releases and deltas."""

    @property
    def rollouts(self) -> Rollouts:
        """Rollouts."""

    @property
    def telemetry(self) -> Telemetry:
        """Windows and events."""

    @property
    def audit(self) -> AuditLog:
        """The log."""

    def close(self) -> None:
        """Let go of the database."""
