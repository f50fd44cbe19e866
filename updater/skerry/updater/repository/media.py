"""Writing a folder or USB stick that devices without a network can be updated from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tuf.api.metadata import Snapshot, Timestamp

from skerry.devices.digest import Descriptor
from skerry.devices.errors import BundleError, InputError, TrustError
from skerry.devices.files import write_atomically
from skerry.devices.ids import DeviceId
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.director import DirectorRepository
from skerry.updater.repository.image import ImageRepository
from skerry.updater.sealing import Envelope, Parcel, SealedBlobs, parcels
from skerry.updater.trust import rules

__all__ = ["write_media"]

_CHUNK_BYTES = 1 << 20
_ROOTS = 1_000


def write_media(
    folder: Path,
    image: ImageRepository,
    director: DirectorRepository,
    devices: Iterable[DeviceId],
    blobs: SealedBlobs,
    hand_out: Callable[[DeviceId, str], Envelope] | None = None,
) -> list[Descriptor]:
    """Write the present metadata, the assignments of `devices`, and every blob they need.

    Args:
        folder: the medium; what is there already stays, so that it can serve further devices.
        image, director: the server's repositories.
        devices: for whom; each gets the release it is assigned now.
        blobs: where the server keeps blobs; sealed ones are carried sealed.
        hand_out: wraps a content key for a device; needed where a release is sealed.

    Returns:
        the blobs of the releases that are assigned.

    Raises:
        TrustError: nothing is published yet.
        BundleError, DigestMismatch: a blob is missing or damaged; it is not written.
    """
    image.refresh()
    store = SealedBlobs(folder, blobs.keys)
    needed: dict[str, Parcel] = {}
    for device in devices:
        _copy_set(_Read(director, device), folder / "director" / str(device))
        assigned = director.assigned(device)
        if assigned is not None:
            for parcel in parcels(Bundle.of(blobs, assigned.manifest), assigned.key):
                needed[parcel.name] = parcel
            if assigned.key and hand_out is not None:
                place = folder / "keys" / str(device)
                place.mkdir(parents=True, exist_ok=True)
                envelope = hand_out(device, assigned.key)
                write_atomically(place / f"{assigned.key}.json", envelope.encode())
    for parcel in needed.values():
        if not blobs.holds(parcel):
            raise BundleError("blob is missing", where=parcel.name)
        with blobs.file(parcel).open("rb") as file:
            store.take(parcel, _chunks(file))
    _copy_set(image, folder / "image")
    return [parcel.blob for parcel in needed.values()]


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
