"""The director: for each device one small repository that names the release it is to run.

It is signed on the server when a device asks, and lasts for hours: whoever takes the server can
withhold, or choose among signed releases, and can never make one up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from threading import RLock

from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.devices.ids import DeviceId
from skerry.updater.repository.keys import DIRECTOR_ROLES, OnlineKeys
from skerry.updater.repository.releases import Release, releases_in, target_of
from skerry.updater.repository.signing import (
    accept_roots,
    expiry,
    meta_of,
    newest,
    newest_root,
    prune,
    require_key,
    sign,
    stale,
)
from skerry.updater.repository.store import MetadataStore
from skerry.updater.trust import rules
from skerry.updater.trust.expiry import stamped
from skerry.updater.trust.rules import Refusal

__all__ = ["DirectorLimits", "DirectorRepository"]

_ROOT = re.compile(r"[1-9][0-9]{0,8}\.root\.json")
_PUBLIC = re.compile(r"timestamp\.json|[1-9][0-9]{0,8}\.(?:snapshot|targets)\.json")


@dataclass(frozen=True, slots=True)
class DirectorLimits:
    """How long an assignment lasts, and how much is kept.

    Attributes:
        life_s: seconds after which a device must have asked again; renewed at half.
        kept_versions: versions per device that stay readable.
        metadata_bytes: longest uploaded root.
    """

    life_s: float = 6 * 3_600.0
    kept_versions: int = 3
    metadata_bytes: int = 512_000


class DirectorRepository:
    """Assigns releases to devices.

    Args:
        store: where the metadata lies, `<device>/…` beside the roots; this is its only writer.
        keys: the server's online keys.
        clock: what time it is, for expiry.
        limits: lives and bounds.
    """

    def __init__(
        self,
        store: MetadataStore,
        keys: OnlineKeys,
        clock: Clock,
        limits: DirectorLimits | None = None,
    ) -> None:
        self._store, self._keys, self._clock = store, keys.director, clock
        self._limits = limits or DirectorLimits()
        self._lock = RLock()
        self._known_root: Root | None = None

    def publish(self, uploaded: Mapping[str, bytes]) -> None:
        """Take over roots that operators signed.

        Args:
            uploaded: `<version>.root.json`; what is published already may be among them.

        Raises:
            Refusal: a root does not follow from the one before; nothing was replaced.
            InputError: a file has another name or is too long, or this server's keys are not named.
        """
        for name, data in uploaded.items():
            if not _ROOT.fullmatch(name) or len(data) > self._limits.metadata_bytes:
                raise InputError(f"{name[:80]!r} cannot be published", remedy="publish roots alone")
        with self._lock:
            root, files = accept_roots(self._store, uploaded, self._clock.now())
            for role in DIRECTOR_ROLES:
                require_key(root, role, self._keys[role].public_key.keyid)
            self._store.write(files)

    def assign(self, device: DeviceId, release: Release | None) -> None:
        """Say what `device` is to run; None takes back what was said.

        Raises:
            TrustError: no root is published yet.
        """
        with self._lock:
            root = self._root()
            if not self._stands(device, root) or self._said(device) != release:
                self._sign(device, release)

    def assigned(self, device: DeviceId) -> Release | None:
        """What `device` is to run."""
        with self._lock:
            return self._said(device)

    def read(self, device: DeviceId, name: str) -> bytes | None:
        """The metadata called `name` as `device` sees it, signed afresh where that is due; or None.

        Raises:
            TrustError: no root is published yet.
        """
        if _ROOT.fullmatch(name):
            return self._store.read(name)
        if not _PUBLIC.fullmatch(name):
            return None
        if name == "timestamp.json":
            with self._lock:
                if not self._stands(device, self._root()):
                    self._sign(device, self._said(device))
        return self._store.read(f"{device}/{name}")

    def _root(self) -> Root:
        """The newest root; the store, which holds a folder per device, is not listed each time."""
        known = self._known_root
        if known is None or self._store.read(f"{known.version + 1}.root.json") is not None:
            known = self._known_root = newest_root(self._store)
        return known

    def _stands(self, device: DeviceId, root: Root) -> bool:
        """Whether what is stored for `device` is signed by today's keys and lasts long enough."""
        data = self._store.read(f"{device}/timestamp.json")
        _, targets = newest(self._store, "targets", str(device))
        if data is None or targets is None:
            return False
        try:
            timestamp = rules.verified(Timestamp, "timestamp", data, root).signed
            rules.verified(Targets, "targets", targets, root)
        except Refusal:
            return False
        return not stale(timestamp, self._clock.now(), self._limits.life_s)

    def _said(self, device: DeviceId) -> Release | None:
        """What the stored targets say, if a key of this repository signed them for this device."""
        _, data = newest(self._store, "targets", str(device))
        if data is None:
            return None
        targets = self._ever_signed(data)
        if targets is None or targets.unrecognized_fields.get("skerry") != {"device": str(device)}:
            return None
        return next(iter(releases_in(targets)), None)

    def _ever_signed(self, data: bytes) -> Targets | None:
        """`data` as targets by the keys of any root so far: those of today, or of a server before.

        What somebody slipped into the store without a key must not be signed on.
        """
        for version in range(self._root().version, 0, -1):
            root = self._store.read(f"{version}.root.json")
            try:
                if root is not None:
                    delegator = rules.pinned(root).root
                    return rules.verified(Targets, "targets", data, delegator).signed
            except Refusal:
                continue
        return None

    def _sign(self, device: DeviceId, release: Release | None) -> None:
        """Sign targets, snapshot and timestamp for `device`, each under its next version."""
        store, folder = self._store, str(device)
        now = self._clock.now()
        expires = expiry(now, self._limits.life_s)
        target = None if release is None else target_of(release)
        targets = Targets(
            version=newest(store, "targets", folder)[0] + 1,
            expires=expires,
            targets={} if target is None else {target.path: target},
            unrecognized_fields={"skerry": {"device": folder}},
        )
        said = sign(targets, [self._keys["targets"]])
        snapshot = Snapshot(
            version=newest(store, "snapshot", folder)[0] + 1,
            expires=expires,
            meta={"targets.json": meta_of(targets.version, said)},
        )
        body = sign(snapshot, [self._keys["snapshot"]])
        old = store.read(f"{folder}/timestamp.json")
        timestamp = Timestamp(
            version=1
            if old is None
            else rules.parsed(Timestamp, "timestamp", old).signed.version + 1,
            expires=expires,
            snapshot_meta=meta_of(snapshot.version, body),
            unrecognized_fields=stamped(now),
        )
        store.write(
            {
                f"{folder}/{targets.version}.targets.json": said,
                f"{folder}/{snapshot.version}.snapshot.json": body,
                f"{folder}/timestamp.json": sign(timestamp, [self._keys["timestamp"]]),
            }
        )
        prune(store, ("targets", "snapshot"), self._limits.kept_versions, folder)


def _version(timestamp: bytes | None) -> int:
    return (
        0 if timestamp is None else rules.parsed(Timestamp, "timestamp", timestamp).signed.version
    )
