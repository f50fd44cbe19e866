"""One TUF repository as a device sees it: what to load in which order, and what to keep.

The rules are in `rules`; this part fetches bounded bytes, asks the rules, and keeps what they
accepted under unversioned names (`root.json`, `timestamp.json`, …), each file replaced atomically.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tuf.api.metadata import Root, Signed, TargetFile, Targets

from skerry.devices.clock import Clock
from skerry.devices.errors import TrustError, UnavailableError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.updater.fetch import Fetcher, RefusedError, fetch_bytes
from skerry.updater.trust import rules
from skerry.updater.trust.expiry import ExpiryPolicy, check_clock, policy_of, signed_at
from skerry.updater.trust.rules import Refusal, Rule, Trusted

__all__ = ["RepositoryClient", "TrustLimits", "make_folder"]

_ABSENT = frozenset({403, 404})


@dataclass(frozen=True, slots=True)
class TrustLimits:
    """Bounds on what a repository may make a device fetch.

    Attributes:
        root_bytes, timestamp_bytes, snapshot_bytes, targets_bytes: longest metadata of each role,
            where no signed length says less.
        root_rotations: roots walked through in one refresh.
        delegations: targets roles visited in one search.
        manifest_bytes: longest manifest of a release.
    """

    root_bytes: int = 512_000
    timestamp_bytes: int = 16_384
    snapshot_bytes: int = 2_000_000
    targets_bytes: int = 5_000_000
    root_rotations: int = 256
    delegations: int = 32
    manifest_bytes: int = 1_048_576


def make_folder(folder: Path, disk: Disk) -> None:
    """Make `folder` and what is missing above it, so that they are there after a power cut too."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        disk.sync_folder(path.parent)


class RepositoryClient:
    """The metadata of one repository, fetched, verified and kept.

    Args:
        folder: where accepted metadata is kept; holds `root.json` once pinned.
        fetcher: the way to the network.
        url: base address of the metadata; a slash is added.
        clock: what time it is, for expiry.
        carried: whether the repository is read from a folder that was carried here, so that what a
            server signs may have expired for as long as the root's policy says.
        offline_targets: whether the targets are signed offline, and so are never given more time.
        disk: the seam through which files are written.
        limits: bounds on what is fetched.
    """

    def __init__(
        self,
        folder: Path,
        fetcher: Fetcher,
        *,
        url: str,
        clock: Clock,
        carried: bool = False,
        offline_targets: bool = True,
        disk: Disk | None = None,
        limits: TrustLimits | None = None,
    ) -> None:
        self._folder, self._fetcher, self._url = folder, fetcher, url.rstrip("/") + "/"
        self._clock, self._disk = clock, disk or RealDisk()
        self._limits = limits or TrustLimits()
        self._carried, self._offline_targets = carried, offline_targets
        self._trusted: Trusted | None = None
        self._proved_by: dict[str, str] = {}
        self._now, self._grace = 0.0, 0.0

    def pin(self, root: bytes) -> None:
        """Trust `root` from now on; the metadata kept before is no longer used for anything else.

        Raises:
            Refusal: it is not a root that signs itself.
        """
        rules.pinned(root)
        make_folder(self._folder, self._disk)
        self._keep("root", root)

    def refresh(self) -> Trusted:
        """Bring root, timestamp, snapshot and the top-level targets up to date.

        Raises:
            TrustError: a rule refused what the repository offers (`Refusal` names it), or no root
                was pinned; what was trusted before stays.
            RefusedError, BusyError: as `Fetcher.open` does.
        """
        self._trusted, self._proved_by = None, {}
        trusted = self._roots()
        policy = policy_of(trusted.root)
        trusted = self._remembered(trusted, "timestamp", rules.known_timestamp)
        self._now = max(self._clock.now(), signed_at(trusted.timestamp))
        self._grace = policy.media_s if self._carried else 0.0
        rules.check_root_fresh(trusted, self._now)
        trusted = self._timestamp(trusted, policy)
        trusted = self._snapshot(trusted)
        self._trusted = self._targets(trusted, "targets", trusted.root)
        return self._trusted

    @property
    def top(self) -> Targets:
        """The top-level targets of the last `refresh`."""
        return self._proved().targets["targets"]

    def target(self, path: str) -> TargetFile | None:
        """Search `path` in the top-level targets and, in their order, what they delegate to.

        Raises as `refresh` does, for the delegated metadata that it has to fetch.
        """
        pending = [("targets", "")]
        visited: set[str] = set()
        while pending and len(visited) <= self._limits.delegations:
            role, delegator = pending.pop()
            if role in visited:
                continue
            targets = self._delegated(role, delegator)
            if path in targets.targets:
                return targets.targets[path]
            visited.add(role)
            children: list[tuple[str, str]] = []
            if targets.delegations is not None:
                for child, terminating in targets.delegations.get_roles_for_target(path):
                    children.append((child, role))
                    if terminating:
                        pending = []
                        break
            pending.extend(reversed(children))
        return None

    def _proved(self) -> Trusted:
        if self._trusted is None:
            raise TrustError("nothing is proved yet", where=self._url, remedy="refresh first")
        return self._trusted

    def _delegated(self, role: str, delegator: str) -> Targets:
        trusted = self._proved()
        if role == "targets":
            return trusted.targets[role]
        # A role is proved against the one that led to it, even if another led to it before.
        if self._proved_by.get(role) != delegator:
            self._trusted = self._targets(trusted, role, trusted.targets[delegator])
            self._proved_by[role] = delegator
        return self._proved().targets[role]

    def _roots(self) -> Trusted:
        """From the root kept here, version by version, to the newest that the repository has."""
        kept = self._kept("root")
        if kept is None:
            raise TrustError("no root is pinned here", where=self._folder, remedy="enrol first")
        trusted = rules.pinned(kept)
        for _ in range(self._limits.root_rotations):
            try:
                data = self._fetch("root", self._limits.root_bytes, trusted.root.version + 1)
            except RefusedError as error:
                if error.status in _ABSENT:
                    return trusted
                raise
            trusted = rules.newer_root(trusted, data)
            self._keep("root", data)
        return trusted

    def _timestamp(self, trusted: Trusted, policy: ExpiryPolicy) -> Trusted:
        data = self._fetch("timestamp", self._limits.timestamp_bytes)
        newer = rules.newer_timestamp(trusted, data, self._now - self._grace)
        timestamp = rules.timestamp_of(newer)
        check_clock(timestamp, self._clock.now(), policy)
        self._now = max(self._now, signed_at(timestamp))
        if newer is not trusted:
            self._keep("timestamp", data)
        return newer

    def _snapshot(self, trusted: Trusted) -> Trusted:
        trusted = self._remembered(trusted, "snapshot", rules.known_snapshot)
        named = rules.timestamp_of(trusted).snapshot_meta
        known = trusted.snapshot
        if known is None or known.version != named.version or self._expired(known):
            length = self._limits.snapshot_bytes if named.length is None else named.length
            data = self._fetch("snapshot", length, self._version(trusted, named.version))
            trusted = rules.newer_snapshot(trusted, data)
            rules.require_snapshot(trusted, self._now - self._grace)
            self._keep("snapshot", data)
        return trusted

    def _targets(self, trusted: Trusted, role: str, delegator: Root | Targets) -> Trusted:
        kept = self._kept(role)
        if kept is not None:
            try:
                return self._proved_targets(trusted, kept, role, delegator)
            except Refusal:
                pass  # what is kept is old; the repository has to offer what the snapshot names
        named = rules.require_snapshot(trusted, self._now - self._grace).meta.get(f"{role}.json")
        if named is None:
            raise Refusal(Rule.NOT_LISTED, role, "the snapshot does not list this role")
        length = self._limits.targets_bytes if named.length is None else named.length
        data = self._fetch(role, length, self._version(trusted, named.version))
        trusted = self._proved_targets(trusted, data, role, delegator)
        self._keep(role, data)
        return trusted

    def _proved_targets(
        self, trusted: Trusted, data: bytes, role: str, delegator: Root | Targets
    ) -> Trusted:
        lenient = self._now - self._grace
        proved = rules.proved_targets(trusted, data, role, delegator, lenient)
        if role == "targets" and self._offline_targets:
            rules.check_fresh(role, proved.targets[role], self._now)
        return proved

    def _remembered(
        self, trusted: Trusted, role: str, rule: Callable[[Trusted, bytes], Trusted]
    ) -> Trusted:
        """`trusted` with what was kept of `role`, unless the keys that signed it are gone."""
        kept = self._kept(role)
        if kept is None:
            return trusted
        try:
            return rule(trusted, kept)
        except Refusal:
            return trusted

    def _expired(self, signed: Signed) -> bool:
        return signed.is_expired(datetime.fromtimestamp(self._now - self._grace, UTC))

    @staticmethod
    def _version(trusted: Trusted, version: int) -> int | None:
        return version if trusted.root.consistent_snapshot else None

    def _fetch(self, role: str, max_bytes: int, version: int | None = None) -> bytes:
        name = f"{quote(role, safe='')}.json"
        url = self._url + (name if version is None else f"{version}.{name}")
        return fetch_bytes(self._fetcher, url, max_bytes)

    def _path(self, role: str) -> Path:
        return self._folder / f"{quote(role, safe='')}.json"

    def _kept(self, role: str) -> bytes | None:
        try:
            return self._path(role).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UnavailableError(
                f"cannot read: {error.strerror}", where=self._path(role), remedy="check the disk"
            ) from error

    def _keep(self, role: str, data: bytes) -> None:
        write_atomically(self._path(role), data, disk=self._disk)
