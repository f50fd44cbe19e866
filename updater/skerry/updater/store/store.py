"""A device's store: content-addressed blobs, the slots that name them, and room for both."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from skerry.devices.digest import Descriptor, Digest, digest_rest
from skerry.devices.errors import InputError, QuotaError, SkerryError, UnavailableError
from skerry.devices.files import Disk, RealDisk
from skerry.updater.sealing import Keyring, NoKeys, Parcel, SealedBlobs
from skerry.updater.store.journal import Journal
from skerry.updater.store.partial import Partial
from skerry.updater.store.slots import Held, Situation, forgotten, keys_named, named
from skerry.updater.store.starts import Starts

__all__ = ["Store", "StoreLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """How much a store may hold.

    Attributes:
        quota_bytes: blobs and partial downloads together.
        free_bytes: what is left free on the filesystem at least.
        checkpoint_bytes: how many bytes of a download a power cut may cost.
    """

    quota_bytes: int = 2 << 30
    free_bytes: int = 16 << 20
    checkpoint_bytes: int = 1 << 20


class Store:
    """Blobs, slots, journal and downloads below one folder.

    Opening it finishes what a power cut interrupted. One process at a time. `starts` counts loads
    of the active release that the process did not survive.

    Args:
        root: the folder; made if missing.
        disk: the seam to the filesystem.
        limits: how much it may hold.
        keys: opens what is sealed; None where nothing is.

    Raises:
        UnavailableError: the folder cannot be made, read or written.
    """

    def __init__(
        self,
        root: Path,
        *,
        disk: Disk | None = None,
        limits: StoreLimits | None = None,
        keys: Keyring | None = None,
    ) -> None:
        self.root, self.limits = root, limits or StoreLimits()
        self._disk = disk or RealDisk()
        self._folder, self._downloads = root / "blobs" / "sha256", root / "downloads"
        for folder in (self._folder, self._downloads):
            self._make(folder)
        self._sweep()
        self.keys = keys
        self.blobs = SealedBlobs(root, keys or NoKeys(), self._disk)
        self.starts = Starts(root, self._disk)
        self._journal = Journal(root, self._disk)
        if self.now.update is None:
            self.collect()

    @property
    def now(self) -> Situation:
        """The slots, and the update in progress."""
        return self._journal.now

    def become(self, after: Situation) -> None:
        """Make `after` the situation, so that a power cut leaves this one or that one."""
        self._journal.write(after)

    # Blobs

    def missing(self, parcels: Iterable[Parcel]) -> list[Parcel]:
        """Those of `parcels` whose blobs are not here in any form, each once."""
        return [one for one in dict.fromkeys(parcels) if not self.blobs.has(one.blob.digest)]

    def damaged(self, held: Held) -> list[Descriptor]:
        """The blobs of `held` that cannot be read as what they are; changed ones are removed.

        One whose key is not here stays: it is the key that has to be fetched.
        """
        bad = []
        for ref in (held.manifest, *held.blobs):
            blob = ref.descriptor()
            with suppress(SkerryError, OSError), self.blobs.open(blob.digest) as file:
                if digest_rest(file) == blob:
                    continue
            bad.append(blob)
            key = self.blobs.key_of(blob.digest)
            if not key or (self.keys is not None and self.keys.has(key)):
                self.blobs.remove(blob.digest)
        return bad

    def partial(self, parcel: Parcel) -> Partial:
        """The download of `parcel`, where it was left."""
        return Partial(
            self._downloads, parcel, self._disk, checkpoint_bytes=self.limits.checkpoint_bytes
        )

    def adopt(self, partial: Partial) -> None:
        """Make a finished download a blob.

        Raises:
            DigestMismatch: it is not what was asked for; nothing of it is kept.
        """
        partial.finish(self.blobs.file(partial.parcel), self.blobs.match)

    def scratch(self, blob: Descriptor) -> Path:
        """A file that may be written freely on the way to `blob`; a restart removes it."""
        return self._downloads / f"{blob.digest.hex}.tmp"

    def forget(self, digest: Digest) -> None:
        """Remove a blob that no slot names, such as a patch that was applied.

        Raises:
            InputError: a slot names it.
        """
        if digest in named(self.now):
            raise InputError("a slot names this blob", where=digest)
        self.blobs.remove(digest)

    # Room

    def used_bytes(self) -> int:
        """What blobs and partial downloads take."""
        return sum(_size(path) for folder in self._folders() for path in folder.iterdir())

    def make_room(self, wanted: Iterable[Parcel]) -> None:
        """See that `wanted` fits: collect what nothing names, then let go of the previous release.

        Raises:
            QuotaError: it does not fit all the same.
        """
        need = sum(
            max(0, parcel.size - _size(self._downloads / f"{parcel.name}.part"))
            for parcel in self.missing(wanted)
        )
        if self._lacks(need) <= 0:
            return
        self.collect()
        if self._lacks(need) > 0 and self.now.slots.previous is not None:
            self.become(forgotten(self.now))
            self.collect()
        lack = self._lacks(need)
        if lack > 0:
            raise QuotaError(
                f"{need} more bytes do not fit, {lack} too many",
                where=self.root,
                remedy="raise the quota or free some space",
            )

    def collect(self) -> int:
        """Remove what no slot and no update names, and downloads that are done; how many files."""
        keep = {digest.hex for digest in named(self.now)}
        here = {digest.hex for digest in self.blobs.digests()}
        cleared = self._clear(self._folder, keep) + self._clear(self._downloads, keep - here)
        if self.keys is not None:
            used = {self.blobs.key_of(digest) for digest in self.blobs.digests()}
            self.keys.collect(used | keys_named(self.now))
        return cleared

    def _clear(self, folder: Path, keep: set[str]) -> int:
        useless = [path for path in folder.iterdir() if path.name.partition(".")[0] not in keep]
        for path in sorted(useless):
            self._disk.unlink(path)
        if useless:
            self._disk.sync_folder(folder)
        return len(useless)

    def _lacks(self, need: int) -> int:
        over_quota = self.used_bytes() + need - self.limits.quota_bytes
        free = shutil.disk_usage(self.root).free
        return max(over_quota, need + self.limits.free_bytes - free if need else 0)

    def _folders(self) -> tuple[Path, Path]:
        return self._folder, self._downloads

    def _make(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                self._disk.sync_folder(path.parent)
        except OSError as error:
            raise UnavailableError(f"cannot make it: {error.strerror}", where=folder) from error

    def _sweep(self) -> None:
        """Remove temporary files that a crash left behind."""
        for folder in (self.root, *self._folders()):
            for path in folder.iterdir():
                if path.name.endswith(".tmp") or (
                    path.name.startswith(".") and path.name.endswith(".part")
                ):
                    self._disk.unlink(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
