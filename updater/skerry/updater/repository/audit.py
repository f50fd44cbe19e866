"""Looking a repository over: does everything hold that a device would ask for?"""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.metadata import Root, Targets

from skerry.devices.errors import SkerryError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.releases import releases_in
from skerry.updater.repository.signing import newest, versions
from skerry.updater.repository.store import FolderMetadata
from skerry.updater.trust import rules
from skerry.updater.trust.rules import Refusal, Rule

__all__ = ["Finding", "look_over"]

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: a file or a release.
        good: whether it holds.
        said: what was found.
    """

    what: str
    good: bool
    said: str


def look_over(repository: OfflineRepository, now: float) -> list[Finding]:
    """Verify roots, thresholds, expiry, releases and blobs of an operator's repository.

    Args:
        repository: what to verify; nothing in it is changed.
        now: the time, in seconds since the epoch.
    """
    found = []
    image, said = _chain(repository.image, "image", now)
    found += said
    found += _chain(repository.director, "director", now)[1]
    if image is None:
        return found
    version, data = newest(repository.image, "targets")
    name = f"image/{version}.targets.json"
    try:
        targets = rules.verified(Targets, "targets", data or b"", image).signed
        rules.check_fresh("targets", targets, now)
        releases = releases_in(targets)
    except Refusal as error:
        return [*found, Finding(name, False, error.problem)]
    days = (targets.expires.timestamp() - now) / _DAY_S
    count = "1 release" if len(releases) == 1 else f"{len(releases)} releases"
    found.append(Finding(name, True, f"{count}, signed for {days:.0f} more days"))
    for release in releases:
        try:
            checked = Bundle.of(repository.blobs, release.manifest).verify()
        except SkerryError as error:
            found.append(Finding(str(release.id), False, str(error)))
        else:
            found.append(Finding(str(release.id), True, f"{len(checked)} blobs match"))
    return found


def _chain(store: FolderMetadata, name: str, now: float) -> tuple[Root | None, list[Finding]]:
    """Every root from the first to the newest, each signed by the one before it."""
    found: list[Finding] = []
    trusted = None
    for version in versions(store, "root"):
        what = f"{name}/{version}.root.json"
        data = store.read(f"{version}.root.json") or b""
        try:
            if trusted is None and version != 1:
                raise Refusal(Rule.ROLLBACK, "root", "the roots before it are missing")
            trusted = rules.pinned(data) if trusted is None else rules.newer_root(trusted, data)
        except Refusal as error:
            return None, [*found, Finding(what, False, error.problem)]
        role = trusted.root.roles["root"]
        keys = f"{role.threshold} of {len(role.keyids)} keys"
        found.append(Finding(what, True, f"signed, {keys}"))
    if trusted is None:
        return None, [Finding(f"{name}/1.root.json", False, "is missing")]
    try:
        rules.check_root_fresh(trusted, now)
    except Refusal as error:
        found.append(Finding(f"{name}/{trusted.root.version}.root.json", False, error.problem))
    return trusted.root, found
