"""What every part of the server works on, put together once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from skerry.devices.clock import Clock
from skerry.devices.enrolment import MqttAddress
from skerry.devices.ids import TenantId
from skerry.updater.repository import DirectorRepository, ImageRepository, MetadataStore
from skerry.updater.sealing import SealedBlobs
from skerry.updater.server.ca import FleetAuthority
from skerry.updater.server.keyroom import KeyRoom
from skerry.updater.server.store import FleetStore

__all__ = ["Fleet", "ServerLimits"]


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What the server takes, keeps and hands out.

    Attributes:
        enrolment_bytes: longest body of whoever is not known yet.
        json_bytes: longest body of an ordinary call.
        body_seconds: how long any body but a blob's may take to arrive.
        release_bytes: longest body of a publication (metadata in base64).
        blob_bytes: largest blob.
        reserve_bytes: what uploads leave free on the disk.
        form_bytes: longest form of the console.
        claim_minutes: longest life of a claim.
        session_hours: life of a console session.
        events: most events in one answer.
        turn_seconds: longest wait between two looks at the rollouts.
        refresh_seconds: time between two looks at expiring signatures.
        event_batch: most events applied in one transaction.
        window_days, event_days: how long windows and events are kept; sums are kept for ever, and
            sketches in the newest `drift_windows` alone.
        prune_seconds: time between two looks at what is too old.
        delta_seconds: longest that one patch may take to make.
        delta_bases: from how many releases patches are made before a rollout goes on: those that
            most devices run.
        delta_queue: most patches from other releases that wait to be made.
        delta_links: most patches in a chain.
        drift_windows: newest windows of a device that a drift verdict rests on.
        drift_seconds: least time between two drift verdicts on one device.
    """

    enrolment_bytes: int = 1 << 16
    json_bytes: int = 1 << 20
    body_seconds: float = 60.0
    release_bytes: int = 32 << 20
    blob_bytes: int = 8 << 30
    reserve_bytes: int = 64 << 20
    form_bytes: int = 4096
    claim_minutes: float = 7 * 24 * 60
    session_hours: float = 12
    events: int = 1000
    turn_seconds: float = 1.0
    refresh_seconds: float = 60.0
    event_batch: int = 500
    window_days: float = 30
    event_days: float = 365
    prune_seconds: float = 3600.0
    delta_seconds: float = 1800.0
    delta_bases: int = 4
    delta_queue: int = 64
    delta_links: int = 4
    drift_windows: int = 60
    drift_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """One tenant's fleet.

    Attributes:
        url: the server's canonical URL: where devices go, and the audience of their assertions.
        mqtt: where the broker listens.
        ca: PEM of the authority that devices verify this server by; "" for the system's.
        folder: the server's home.
        keys: content keys of sealed releases.
        director_store: beside the director, for its first root.
    """

    tenant: TenantId
    folder: Path
    url: str
    store: FleetStore
    blobs: SealedBlobs
    keys: KeyRoom
    image: ImageRepository
    director: DirectorRepository
    director_store: MetadataStore
    authority: FleetAuthority
    clock: Clock
    mqtt: MqttAddress | None = None
    ca: str = ""
    limits: ServerLimits = field(default_factory=ServerLimits)
