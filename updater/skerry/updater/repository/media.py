"""Writing a folder or USB stick that devices without a network can be updated from."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Snapshot, Timestamp

from skerry.devices.digest import digest_file
from skerry.devices.errors import BundleError, InputError, TrustError, UnavailableError
from skerry.devices.files import confined, write_atomically
from skerry.devices.ids import DeviceId
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.repository.director import DirectorRepository
from skerry.updater.repository.image import ImageRepository
from skerry.updater.sealing import Envelope, Parcel, SealedBlobs, parcel_of, parcels
from skerry.updater.trust import rules

__all__ = ["Medium", "collect_media", "write_media"]

_CHUNK_BYTES = 1 << 20
_ROOTS = 1_000


@dataclass(frozen=True, slots=True)
class Medium:
    """What a medium holds for one device.

    Attributes:
        files: path below the medium to bytes: metadata, and envelopes of content keys. Timestamps
            come last, so that a medium that was pulled out too early is no newer than before.
        parcels: the blobs that belong to it, as they lie on the server.
    """

    files: Mapping[str, bytes]
    parcels: tuple[Parcel, ...]

    def document(self) -> dict[str, Any]:
        """As JSON: `files` in base64, `blobs` as [name, bytes]."""
        files = {name: base64.b64encode(data).decode() for name, data in self.files.items()}
        return {"files": files, "blobs": [[one.name, one.size] for one in self.parcels]}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Medium:
        """Read `document`.

        Raises:
            InputError: it is none.
        """
        try:
            wire = msgspec.convert(document, _Wire)
            files = {n: base64.b64decode(text, validate=True) for n, text in wire.files.items()}
        except (msgspec.ValidationError, binascii.Error, ValueError) as error:
            raise InputError(f"is no list of a medium: {error}", where="server") from error
        return cls(files, tuple(parcel_of(name, size) for name, size in wire.blobs))

    def place(self, folder: Path, parcel: Parcel) -> Path:
        """Where a blob lies on the medium in `folder`."""
        return folder / "blobs" / "sha256" / parcel.name

    def missing(self, folder: Path) -> list[Parcel]:
        """The blobs that are not there, or damaged.

        A plain blob is hashed. Of a sealed one the length alone can be judged without its key.
        """
        return [one for one in self.parcels if not _is_there(self.place(folder, one), one)]

    def make_folders(self, folder: Path) -> None:
        """Make the folders for all that belongs to it.

        Raises:
            InputError: a name would leave the folder.
            UnavailableError: one cannot be made.
        """
        files = [confined(folder, name) for name in self.files]
        for path in sorted({path.parent for path in files} | {folder / "blobs" / "sha256"}):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UnavailableError(
                    f"cannot make the folder: {error.strerror}",
                    where=path,
                    remedy="check that the medium is there, is a folder, and can be written",
                ) from error

    def write(self, folder: Path) -> None:
        """Write everything but the blobs.

        Raises:
            InputError: a name would leave the folder.
            UnavailableError: the medium cannot be written.
        """
        self.make_folders(folder)
        for name, data in self.files.items():
            write_atomically(confined(folder, name), data)


class _Wire(msgspec.Struct, frozen=True):
    files: dict[str, str]
    blobs: list[tuple[str, int]]


def collect_media(
    image: ImageRepository,
    director: DirectorRepository,
    device: DeviceId,
    blobs: SealedBlobs,
    hand_out: Callable[[DeviceId, str], Envelope] | None = None,
) -> Medium:
    """What a medium for `device` holds: the release that it is assigned now.

    Args:
        image, director: the server's repositories.
        blobs: where the server keeps blobs; sealed ones are carried sealed.
        hand_out: wraps a content key for a device; needed where the release is sealed.

    Raises:
        TrustError: nothing is published yet, or the content key is not here.
        BundleError, DigestMismatch: manifest or card is missing or damaged.
    """
    image.refresh()
    files: dict[str, bytes] = {}
    needed: tuple[Parcel, ...] = ()
    own = _set(lambda name: director.read(device, name), f"director/{device}")
    assigned = director.assigned(device)
    if assigned is not None:
        needed = parcels(Bundle.of(blobs, assigned.manifest), assigned.key)
        if assigned.key and hand_out is not None:
            name = f"keys/{device}/{assigned.key}.json"
            files[name] = hand_out(device, assigned.key).encode()
    files |= {**own, **_set(image.read, "image")}
    return Medium(files, needed)


def write_media(
    folder: Path,
    image: ImageRepository,
    director: DirectorRepository,
    devices: Iterable[DeviceId],
    blobs: SealedBlobs,
    hand_out: Callable[[DeviceId, str], Envelope] | None = None,
) -> list[Parcel]:
    """Write the present metadata, the assignments of `devices`, and every blob they need.

    Args:
        folder: the medium; what is there already stays, so that it can serve further devices.
        devices: for whom; each gets the release it is assigned now.
        image, director, blobs, hand_out: as for `collect_media`.

    Returns:
        the blobs of the releases that are assigned.

    Raises:
        TrustError, BundleError, DigestMismatch: as `collect_media`, and for a blob that is missing
            or damaged; it is not written.
    """
    store = SealedBlobs(folder, blobs.keys)
    found: dict[Parcel, None] = {}
    for device in devices:
        medium = collect_media(image, director, device, blobs, hand_out)
        for parcel in medium.parcels:
            if not blobs.holds(parcel):
                raise BundleError("blob is missing", where=parcel.name)
            with blobs.file(parcel).open("rb") as file:
                store.take(parcel, iter(lambda: file.read(_CHUNK_BYTES), b""))
            found[parcel] = None
        medium.write(folder)
    return list(found)


def _set(read: Callable[[str], bytes | None], folder: str) -> dict[str, bytes]:
    """Every root, and what the present timestamp leads to; the timestamp last."""
    timestamp = read("timestamp.json")
    if timestamp is None:
        raise TrustError("nothing is published yet", where=folder)
    version = rules.parsed(Timestamp, "timestamp", timestamp).signed.snapshot_meta.version
    names = [f"{version}.snapshot.json"]
    snapshot = rules.parsed(Snapshot, "snapshot", _must(read, names[0])).signed
    names += [f"{meta.version}.{file}" for file, meta in snapshot.meta.items()]
    for number in range(1, _ROOTS):
        if read(f"{number}.root.json") is None:
            break
        names.append(f"{number}.root.json")
    found = {f"{folder}/{name}": _must(read, name) for name in names}
    return {**found, f"{folder}/timestamp.json": timestamp}


def _must(read: Callable[[str], bytes | None], name: str) -> bytes:
    data = read(name)
    if data is None:
        raise InputError("is not in the repository", where=name)
    return data


def _is_there(path: Path, parcel: Parcel) -> bool:
    try:
        if path.stat().st_size != parcel.size:
            return False
        return bool(parcel.key) or digest_file(path) == parcel.blob
    except OSError:
        return False
