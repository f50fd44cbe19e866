"""Bundles on a device's disk, one a subfolder, within a quota: what was not used longest goes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from skerry.devices.errors import InputError, QuotaError, UnavailableError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.runtime.blobs import FolderBlobs, reading
from skerry.runtime.bundle.reader import Bundle

__all__ = ["Key", "Stock", "StockLimits"]

_CHUNK_BYTES = 1 << 20
_COMING, _GOING = ".skerry-in-", ".skerry-out-"


class Key(NamedTuple):
    """One version of one model."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model} {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StockLimits:
    """What a stock may hold.

    Attributes:
        bytes: of all bundles together on the disk; 0 for no limit.
    """

    bytes: int = 0


class Stock:
    """The bundles below `folder`. One thread at a time.

    Raises:
        InputError: two bundles are the same version of the same model.
        BundleError: a subfolder with an OCI layout is no bundle.
        UnavailableError: the disk does not let it be read.
    """

    def __init__(
        self, folder: Path, limits: StockLimits | None = None, disk: Disk | None = None
    ) -> None:
        self._folder, self._limits = folder, limits or StockLimits()
        self._disk = disk or RealDisk()
        self._paths: dict[Key, Path] = {}
        with reading(folder):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.name.startswith((_COMING, _GOING)):
                    shutil.rmtree(path, ignore_errors=True)  # left by a power cut
                elif (path / "oci-layout").is_file():
                    self._take(path)

    def __iter__(self) -> Iterator[Key]:
        return iter(tuple(self._paths))

    def __contains__(self, key: Key) -> bool:
        return key in self._paths

    def open(self, key: Key) -> Bundle:
        """The bundle of `key`.

        Raises:
            InputError: it is not here.
            BundleError, DigestMismatch: it is damaged.
        """
        if key not in self._paths:
            raise InputError("is not here", where=key)
        return Bundle.open(self._paths[key])

    def used(self, key: Key) -> None:
        """Remember, also over a restart, that `key` is of use now."""
        now = time.time()
        with suppress(OSError, KeyError):  # a read-only disk has nothing removed from it either
            os.utime(self._paths[key], (now, now))

    @property
    def bytes(self) -> int:
        """Of all bundles together."""
        return sum(_size(path) for path in self._paths.values())

    def add(self, source: Path, keep: Callable[[Key], bool]) -> Key:
        """Copy the bundle at `source`, whole or not at all, after its digests were checked.

        Args:
            keep: whether a bundle must not be removed to make room.

        Raises:
            BundleError, DigestMismatch: it is no bundle, or damaged.
            InputError: this version is here already.
            QuotaError: there is no room for it.
            UnavailableError: the disk is full or not writable.
        """
        bundle = Bundle.open(source)
        key = Key(bundle.card.model, bundle.card.version)
        if key in self._paths:
            raise InputError("is here already", where=key, remedy="remove it first")
        bundle.verify()
        self._make_room(_size(source), key, keep)
        target = self._folder / f"{bundle.manifest.digest.hex[:16]}"
        try:
            part = Path(tempfile.mkdtemp(prefix=_COMING, dir=self._folder))
            try:
                _copy(bundle, source, part, self._disk)
                self._disk.replace(part, target)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            self._disk.sync_folder(self._folder)
        except OSError as error:
            raise UnavailableError(f"cannot store it: {error.strerror}", where=key) from error
        self._paths[key] = target
        return key

    def remove(self, key: Key) -> None:
        """Remove a bundle; no error if it is not here."""
        path = self._paths.pop(key, None)
        if path is not None:
            gone = path.with_name(_GOING + path.name)
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _make_room(self, size: int, wanted: Key, keep: Callable[[Key], bool]) -> None:
        quota, held = self._limits.bytes, self.bytes
        if not quota:
            return
        going = []
        for key in sorted(self._paths, key=lambda key: self._paths[key].stat().st_mtime):
            if held + size <= quota:
                break
            if not keep(key):
                going.append(key)
                held -= _size(self._paths[key])
        if held + size > quota:
            raise QuotaError(
                f"needs {size} bytes on the disk, {max(0, quota - held)} can be had",
                where=wanted,
                remedy="raise the quota, or remove a version that has a label",
            )
        for key in going:
            self.remove(key)

    def _take(self, path: Path) -> None:
        card = Bundle.open(path).card
        key = Key(card.model, card.version)
        if key in self._paths:
            raise InputError(f"two bundles of {key}", where=path)
        self._paths[key] = path


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _copy(bundle: Bundle, source: Path, target: Path, disk: Disk) -> None:
    """Copy a bundle, every blob matched to its digest on the way."""
    blobs = FolderBlobs(target, disk)
    for blob in (bundle.manifest, *bundle.descriptors()):
        with bundle.blobs.path(blob.digest).open("rb") as file:
            blobs.put(blob, iter(lambda file=file: file.read(_CHUNK_BYTES), b""))  # type: ignore[misc]
    for name in ("index.json", "oci-layout"):
        write_atomically(target / name, (source / name).read_bytes(), disk=disk)
