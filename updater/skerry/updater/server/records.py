"""What the server remembers, as values."""

from __future__ import annotations

from typing import Literal

import msgspec

from skerry.telemetry.histogram import Histogram
from skerry.telemetry.messages import EventKind

__all__ = [
    "AuditEntry",
    "Claim",
    "Delta",
    "Device",
    "Operator",
    "PublishedRelease",
    "StoredEvent",
    "Totals",
]


class Device(msgspec.Struct, frozen=True):
    """One enrolled machine.

    Attributes:
        id: unique in the tenant.
        key_digest: of the SubjectPublicKeyInfo of the device's key.
        certificate: PEM; holds the public key.
        not_after: end of the certificate, seconds since the epoch.
        enrolled_at, revoked_at, last_seen: seconds since the epoch; 0 for never.
        profile: the machine, as JSON.
        online, boot: as its `state` topic says.
        active, active_manifest, artifact: what the active slot holds, or "".
        busy: whether a candidate slot is filled.
        dropped: messages that its outbox has lost to its quota, ever.
    """

    id: str
    key_digest: str
    certificate: str
    not_after: float
    enrolled_at: float
    profile: str = "{}"
    revoked_at: float = 0.0
    online: bool = False
    boot: str = ""
    last_seen: float = 0.0
    active: str = ""
    active_manifest: str = ""
    artifact: str = ""
    busy: bool = False
    dropped: int = 0


class Claim(msgspec.Struct, frozen=True):
    """The right to enrol one device, once.

    Attributes:
        token_hash: SHA-256 of the token, hex. The token itself is not kept.
        device: the id the device must take, or "" for any.
        used_at, used_by, key_digest: when, by which device, with which key; 0 and "" before.
    """

    token_hash: str
    created_at: float
    expires_at: float
    device: str = ""
    used_at: float = 0.0
    used_by: str = ""
    key_digest: str = ""


class Operator(msgspec.Struct, frozen=True):
    """Somebody who may change the fleet, known by a token whose hash alone is kept."""

    name: str
    token_hash: str
    created_at: float
    role: Literal["admin", "viewer"] = "admin"
    revoked_at: float = 0.0


class PublishedRelease(msgspec.Struct, frozen=True):
    """A release that the image repository has accepted.

    Attributes:
        release: `model/counter`.
        manifest: digest of the bundle's manifest.
        size: of the manifest, bytes.
    """

    release: str
    version: str
    manifest: str
    size: int
    published_at: float


class Delta(msgspec.Struct, frozen=True):
    """A patch from one blob to another, as it was made for a rollout.

    Attributes:
        base, new: digests of the blobs.
        patch: digest of the patch, or "" where it would not have been smaller.
        artifact: name of the artifact in its bundles.
        patch_bytes, full_bytes: what a device fetches with it, and without.
    """

    base: str
    new: str
    patch: str
    artifact: str
    patch_bytes: int
    full_bytes: int


class StoredEvent(msgspec.Struct, frozen=True):
    """What happened to an update, as a device told it.

    Attributes:
        number: grows in the order of arrival.
        at: by the device's clock. received: by ours.
    """

    number: int
    device: str
    kind: EventKind
    at: float
    received: float
    release: str
    rollout: str
    reason: str
    delta_bytes: int
    full_bytes: int


class Totals(msgspec.Struct, frozen=True):
    """All windows of one device under one manifest, added up.

    Attributes:
        windows: how many. last_end: end of the newest, seconds since the epoch.
        latency: seconds of answered calls, merged.
        drift: the verdict on the recent windows, "" before the first.
    """

    device: str
    manifest: str
    artifact: str
    windows: int
    requests: int
    rows: int
    errors: int
    latency: Histogram
    last_end: float
    rss_bytes: int
    drift: str = ""


class AuditEntry(msgspec.Struct, frozen=True):
    """One thing that somebody did; `digest` covers it and, through `previous`, all before it."""

    seq: int
    at: float
    actor: str
    action: str
    subject: str
    details: str
    previous: str
    digest: str
