"""The image repository on the server: verifies what operators sign, and signs what is current.

The server holds no key that could sign a release. It signs snapshot and timestamp, so that devices
know what is current, and the role `deltas`, which only says how to get from one signed blob to
another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from threading import RLock

from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from skerry.devices.clock import Clock
from skerry.devices.digest import Digest
from skerry.devices.errors import InputError, TrustError
from skerry.updater.repository.keys import OnlineKeys
from skerry.updater.repository.releases import Release, releases_in
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
from skerry.updater.sealing import Parcel
from skerry.updater.trust import rules
from skerry.updater.trust.assignment import delta_path, patch_of
from skerry.updater.trust.expiry import stamped
from skerry.updater.trust.rules import Refusal, Rule

__all__ = ["ImageLimits", "ImageRepository"]


_PUBLIC = re.compile(r"timestamp\.json|[1-9][0-9]{0,8}\.(?:root|snapshot|targets|deltas)\.json")
_UPLOAD = re.compile(r"[1-9][0-9]{0,8}\.(?:root|targets)\.json")


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """How long the server's signatures last, and how much it keeps.

    Attributes:
        timestamp_s, snapshot_s, deltas_s: life of what is signed here, in seconds; renewed at half.
        deltas: most patches listed; the oldest go.
        kept_versions: versions of snapshot, targets and deltas that stay readable.
        metadata_bytes: longest uploaded file.
    """

    timestamp_s: float = 86_400.0
    snapshot_s: float = 7 * 86_400.0
    deltas_s: float = 30 * 86_400.0
    deltas: int = 256
    kept_versions: int = 16
    metadata_bytes: int = 5_000_000


class ImageRepository:
    """Publishes what operators signed.

    Args:
        store: where the metadata lies; this is its only writer.
        keys: the server's online keys.
        clock: what time it is, for expiry.
        limits: lives and bounds.
    """

    def __init__(
        self,
        store: MetadataStore,
        keys: OnlineKeys,
        clock: Clock,
        limits: ImageLimits | None = None,
    ) -> None:
        self._store, self._keys, self._clock = store, keys.image, clock
        self._limits = limits or ImageLimits()
        self._lock = RLock()

    def check(self, uploaded: Mapping[str, bytes]) -> list[Release]:
        """Verify `uploaded` as `publish` does, and say which releases it would add."""
        with self._lock:
            return self._verified(uploaded)[1]

    def publish(self, uploaded: Mapping[str, bytes]) -> list[Release]:
        """Take over roots and targets that operators signed, and sign that they are current.

        Args:
            uploaded: `<version>.root.json` and `<version>.targets.json`; what is published already
                may be among them.

        Returns:
            the releases that are new.

        Raises:
            Refusal: a signature, version, expiry or release is wrong; nothing was replaced.
            InputError: a file has another name or is too long, or this server's keys are not named.
        """
        with self._lock:
            files, added = self._verified(uploaded)
            if files:
                self._store.write(files)
                self._sign_current()
            return added

    def add_delta(self, base: Digest, new: Digest, patch: Parcel) -> None:
        """Sign that `patch` turns the blob `base` into the blob `new`.

        Raises:
            TrustError: nothing is published yet.
        """
        with self._lock:
            now = self._clock.now()
            deltas = self._deltas()
            path = delta_path(base, new)
            named = {"key": patch.key} if patch.key else {}
            added = {"custom": {"skerry": {"added": int(now), **named}}}
            known = deltas.targets.get(path)
            if known is not None and patch_of(known, "deltas") == patch:
                return
            hashes = {"sha256": patch.blob.digest.hex}
            deltas.targets[path] = TargetFile(patch.blob.size, hashes, path, added)
            newest_last = sorted(deltas.targets.values(), key=_added)
            deltas.targets = {t.path: t for t in newest_last[-self._limits.deltas :]}
            self._sign_deltas(deltas, now)
            self._sign_current()

    def refresh(self) -> bool:
        """Sign anew what is past half its life; whether anything was. Call it every few minutes.

        Raises:
            TrustError: nothing is published yet.
        """
        with self._lock:
            root, now, limits = newest_root(self._store), self._clock.now(), self._limits
            if newest(self._store, "targets")[1] is None:
                return False
            timestamp, snapshot = (
                self._store.read("timestamp.json"),
                newest(self._store, "snapshot")[1],
            )
            fresh = (
                timestamp is not None
                and snapshot is not None
                and self._names_newest(snapshot, root)
                and not stale(_timestamp(timestamp), now, limits.timestamp_s)
                and not stale(_snapshot(snapshot), now, limits.snapshot_s)
                and not stale(self._deltas(), now, limits.deltas_s)
            )
            if not fresh:
                self._sign_current()
            return not fresh

    def expires(self) -> dict[str, float]:
        """When what operators signed expires, in seconds since the epoch: `root` and `targets`.

        They alone can renew it (`skerry keys renew`); after that devices refuse every update.

        Raises:
            TrustError: nothing is published yet.
        """
        with self._lock:
            found = {"root": newest_root(self._store).expires.timestamp()}
            targets = self._targets()
            if targets is not None:
                found["targets"] = targets.expires.timestamp()
            return found

    def read(self, name: str) -> bytes | None:
        """The public metadata called `name`, or None."""
        return self._store.read(name) if _PUBLIC.fullmatch(name) else None

    def releases(self) -> list[Release]:
        """Every published release, by model and counter."""
        with self._lock:
            targets = self._targets()
            return [] if targets is None else releases_in(targets)

    def _verified(self, uploaded: Mapping[str, bytes]) -> tuple[dict[str, bytes], list[Release]]:
        """The files of `uploaded` that are new, all verified, and the releases they add."""
        for name, file in uploaded.items():
            if not _UPLOAD.fullmatch(name) or len(file) > self._limits.metadata_bytes:
                raise InputError(
                    f"{name[:80]!r} cannot be published",
                    remedy="publish <version>.root.json and <version>.targets.json",
                )
        now = self._clock.now()
        root, files = accept_roots(self._store, uploaded, now)
        for role in ("snapshot", "timestamp"):
            require_key(root, role, self._keys[role].public_key.keyid)
        version, current = newest(self._store, "targets")
        offered = [name for name in uploaded if name.endswith(".targets.json")]
        if len(offered) > 1:
            raise InputError("several versions of targets", remedy="publish the newest alone")
        data = uploaded.get(offered[0]) if offered else current
        if data is None:
            raise InputError("no targets are published yet", remedy="publish targets as well")
        targets = rules.verified(Targets, "targets", data, root).signed
        rules.check_fresh("targets", targets, now)
        require_key(targets, "deltas", self._keys["deltas"].public_key.keyid)
        if data == current:
            return files, []
        if offered[0] != f"{targets.version}.targets.json" or targets.version <= version:
            problem = f"{offered[0]} holds version {targets.version}, and {version} is published"
            raise Refusal(Rule.ROLLBACK, "targets", problem, remedy="sign it as the next version")
        added = _added_releases(self._targets(), targets)
        return {**files, offered[0]: data}, added

    def _targets(self) -> Targets | None:
        _, data = newest(self._store, "targets")
        if data is None:
            return None
        return rules.parsed(Targets, "targets", data).signed

    def _deltas(self) -> Targets:
        """The patches listed so far; none where the key for them has changed."""
        targets, data = self._targets(), newest(self._store, "deltas")[1]
        try:
            if targets is not None and data is not None:
                return rules.verified(Targets, "deltas", data, targets).signed
        except Refusal:
            pass  # not by the key that the operator names today: start anew
        return Targets(version=1, expires=expiry(0, 0))

    def _sign_deltas(self, deltas: Targets, now: float) -> None:
        deltas.version = newest(self._store, "deltas")[0] + 1
        deltas.expires = expiry(now, self._limits.deltas_s)
        data = sign(deltas, [self._keys["deltas"]])
        self._store.write({f"{deltas.version}.deltas.json": data})

    def _sign_current(self) -> None:
        """Sign that the newest targets and deltas are the current ones."""
        root, now, limits = newest_root(self._store), self._clock.now(), self._limits
        if stale(self._deltas(), now, limits.deltas_s):
            self._sign_deltas(self._deltas(), now)
        meta = {}
        for role in ("targets", "deltas"):
            version, data = newest(self._store, role)
            if data is None:
                raise TrustError("nothing is published yet", where=role)
            meta[f"{role}.json"] = meta_of(version, data)
        snapshot = Snapshot(
            version=newest(self._store, "snapshot")[0] + 1,
            expires=expiry(now, limits.snapshot_s),
            meta=meta,
        )
        body = sign(snapshot, [self._keys["snapshot"]])
        old = self._store.read("timestamp.json")
        version = 0 if old is None else _timestamp(old).version
        timestamp = Timestamp(
            version=version + 1,
            expires=expiry(now, limits.timestamp_s),
            snapshot_meta=meta_of(snapshot.version, body),
            unrecognized_fields=stamped(now),
        )
        last = sign(timestamp, [self._keys["timestamp"]])
        rules.verified(Timestamp, "timestamp", last, root)
        self._store.write({f"{snapshot.version}.snapshot.json": body, "timestamp.json": last})
        prune(self._store, ("snapshot", "targets", "deltas"), limits.kept_versions)

    def _names_newest(self, snapshot: bytes, root: Root) -> bool:
        """Whether the snapshot is signed by today's key and names the newest of each role."""
        try:
            meta = rules.verified(Snapshot, "snapshot", snapshot, root).signed.meta
        except Refusal:
            return False
        return all(
            f"{role}.json" in meta and meta[f"{role}.json"].version == newest(self._store, role)[0]
            for role in ("targets", "deltas")
        )


def _timestamp(data: bytes) -> Timestamp:
    return rules.parsed(Timestamp, "timestamp", data).signed


def _snapshot(data: bytes) -> Snapshot:
    return rules.parsed(Snapshot, "snapshot", data).signed


def _added(target: TargetFile) -> int:
    return int(target.custom["skerry"]["added"])


def _added_releases(old: Targets | None, new: Targets) -> list[Release]:
    """The releases of `new` that `old` does not have; one that stays must not change."""
    before = {} if old is None else {release.id: release for release in releases_in(old)}
    added = []
    for release in releases_in(new):
        known = before.get(release.id)
        if known is None:
            added.append(release)
        elif known != release:
            problem = f"{release.id} was published with other content"
            raise Refusal(Rule.FORM, "targets", problem, remedy="sign it under the next counter")
    return added
