"""Writing a folder or USB stick that devices without a network can be updated from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tuf.api.metadata import Snapshot, Timestamp

from skerry.devices.digest import Descriptor
from skerry.devices.errors import InputError, TrustError
from skerry.devices.files import write_atomically
from skerry.devices.ids import DeviceId
from skerry.runtime.blobs import BlobStore, FolderBlobs
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.director import DirectorRepository
from skerry.updater.repository.image import ImageRepository
from skerry.updater.trust import rules

__all__ = ["write_media"]

_CHUNK_BYTES = 1 << 20
_ROOTS = 1_000


def write_media(
    folder: Path,
    image: ImageRepository,
    director: DirectorRepository,
    devices: Iterable[DeviceId],
    blobs: BlobStore,
) -> list[Descriptor]:
    """Write the present metadata, the assignments of `devices`, and every blob they need.

    Args:
        folder: the medium; what is there already stays, so that it can serve further devices.
        image, director: the server's repositories.
        devices: for whom; each gets the release it is assigned now.
        blobs: where the server keeps blobs.

    Returns:
        the blobs of the releases that are assigned.

    Raises:
        TrustError: nothing is published yet.
        BundleError, DigestMismatch: a blob is missing or damaged; it is not written.
    """
    image.refresh()
    store = FolderBlobs(folder)
    needed: dict[str, Descriptor] = {}
    for device in devices:
        _copy_set(_Read(director, device), folder / "director" / str(device))
        assigned = director.assigned(device)
        if assigned is not None:
            bundle = Bundle.of(blobs, assigned.manifest)
            for blob in (*bundle.descriptors(), bundle.manifest):
                needed[blob.digest.hex] = blob
    for blob in needed.values():
        with blobs.path(blob.digest).open("rb") as file:
            store.put(blob, _chunks(file))
    _copy_set(image, folder / "image")
    return list(needed.values())


class _Read:
    """One device's repository, read as the image repository is."""

    def __init__(self, director: DirectorRepository, device: DeviceId) -> None:
        self._director, self._device = director, device

    def read(self, name: str) -> bytes | None:
        return self._director.read(self._device, name)


def _copy_set(source: ImageRepository | _Read, folder: Path) -> None:
    """Copy every root, and what the present timestamp leads to; the timestamp last."""
    folder.mkdir(parents=True, exist_ok=True)
    timestamp = source.read("timestamp.json")
    if timestamp is None:
        raise TrustError("nothing is published yet", where=folder)
    version = rules.parsed(Timestamp, "timestamp", timestamp).signed.snapshot_meta.version
    names = [f"{version}.snapshot.json"]
    snapshot = rules.parsed(Snapshot, "snapshot", _must(source, names[0])).signed
    names += [f"{meta.version}.{file}" for file, meta in snapshot.meta.items()]
    for number in range(1, _ROOTS):
        if source.read(f"{number}.root.json") is None:
            break
        names.append(f"{number}.root.json")
    for name in names:
        write_atomically(folder / name, _must(source, name))
    write_atomically(folder / "timestamp.json", timestamp)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def _must(source: ImageRepository | _Read, name: str) -> bytes:
    data = source.read(name)
    if data is None:
        raise InputError("is not in the repository", where=name)
    return data
