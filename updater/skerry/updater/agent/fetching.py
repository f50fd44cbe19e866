"""What an update needs and how it comes here: a patch where one is signed, else the whole blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import (
    BundleError,
    CancelledError,
    DigestMismatch,
    SkerryError,
    UnavailableError,
)
from skerry.runtime.bundle.layout import parse_manifest
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.choose import choose
from skerry.updater.agent.download import Downloader
from skerry.updater.agent.log import Log
from skerry.updater.sealing import Parcel
from skerry.updater.store.slots import Held, Update, counted, planned, reference
from skerry.updater.store.store import Store

__all__ = ["Deltas", "Fetching", "Plan", "apply_patch", "unpack_patch"]

_CHUNK_BYTES = 1 << 20


class Deltas(Protocol):
    """Knows which signed patches there are."""

    def delta(self, base: Digest, new: Digest) -> Parcel | None:
        """The patch from `base` to `new`, or None."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The artifact chosen for this device, and the blobs it needs beside the manifest."""

    artifact: str
    parcels: tuple[Parcel, ...]


def apply_patch(
    old: Path, patch: Path, new: Path, *, cancelled: Callable[[], bool] | None = None
) -> None:
    """Make `new` from `old` and `patch`; raises as `skerry.updater.delta.apply`.

    What is made lies beside `new` until it is whole, and is gone on from after a power cut.
    """
    from skerry.updater.delta import apply

    apply(old, patch, new, work=new.with_suffix(".made"), cancelled=cancelled)


def unpack_patch(
    old: BinaryIO, patch: BinaryIO, *, cancelled: Callable[[], bool] | None = None
) -> Iterator[bytes]:
    """What `patch` makes of `old`, in chunks and on no disk; raises as `decode` of the patch."""
    from skerry.updater.delta.limits import Limits
    from skerry.updater.delta.patching import decode

    for chunk, _ in decode(old, patch, Limits()):
        if cancelled is not None and cancelled():
            raise CancelledError("the patch was not applied to its end", where="patch")
        yield chunk


class Fetching:
    """Brings every blob of an update into the store.

    Args:
        formats: artifact formats that run here, preferred first.
        deltas: where patches are looked up.
        patcher: applies one to a plain blob, by files.
        unpacker: applies one to what is sealed again, chunk by chunk.
    """

    def __init__(
        self,
        store: Store,
        downloader: Downloader,
        deltas: Deltas,
        *,
        formats: tuple[str, ...],
        log: Log,
        patcher: Callable[[Path, Path, Path], None] = apply_patch,
        unpacker: Callable[[BinaryIO, BinaryIO], Iterator[bytes]] = unpack_patch,
    ) -> None:
        self._store, self._downloader, self._deltas = store, downloader, deltas
        self._formats, self._log, self._patcher = formats, log, patcher
        self._unpacker = unpacker

    def plan(self, update: Update) -> Plan:
        """Fetch manifest and card of the update, and choose its artifact.

        Raises:
            BundleError: manifest or card is malformed.
            UnsupportedError: nothing in the bundle runs here.
            SkerryError: as `Downloader.get`.
        """
        bundle = self._opened(update.manifest.descriptor(), self._whole)
        artifact = choose(bundle.card, self._formats).name
        return Plan(artifact, _parcels(bundle, artifact, update.key))

    def restore(self, held: Held) -> None:
        """Fetch again what is missing of a release that was here whole.

        Raises:
            SkerryError: as `plan`.
        """
        bundle = self._opened(held.manifest.descriptor(), self._downloader.get)
        if held.key:
            self._downloader.key(held.key)
            self._store.damaged(held)  # what could not be judged without its key
        for parcel in self._store.missing(_parcels(bundle, held.artifact, held.key)):
            self._downloader.get(parcel)

    def _opened(self, manifest: Descriptor, get: Callable[[Parcel], None]) -> Bundle:
        """The bundle, once its manifest and card are here. They are never sealed."""
        get(Parcel(manifest))
        get(Parcel(parse_manifest(self._store.blobs.read(manifest)).card))
        return Bundle.of(self._store.blobs, manifest)

    def fetch(self, update: Update) -> Update:
        """See that every blob of the update is here; the update as the journal now has it.

        Raises:
            SkerryError: as `plan`, and QuotaError where there is no room.
        """
        self._downloader.looked()
        plan = self.plan(update)
        refs = tuple(reference(parcel.blob) for parcel in plan.parcels)
        if (update.artifact, update.blobs) != (plan.artifact, refs):
            self._store.become(planned(self._store.now, plan.artifact, refs))
        if update.key:
            self._downloader.key(update.key)
        self._store.make_room(plan.parcels)
        for parcel in self._store.missing(plan.parcels):
            if not self._by_patch(parcel):
                self._whole(parcel)
        assert self._store.now.update is not None
        return self._store.now.update

    def _whole(self, parcel: Parcel) -> None:
        if not self._store.blobs.has(parcel.blob.digest):
            self._downloader.get(parcel)
            self._count(parcel, parcel)

    def _count(self, fetched: Parcel, whole: Parcel) -> None:
        self._store.become(counted(self._store.now, fetched=fetched.size, whole=whole.size))

    def _by_patch(self, whole: Parcel) -> bool:
        """Make a blob from one that is here; whether there was a way."""
        for base, patch in self._patches(whole.blob):
            if patch.size >= whole.size:
                continue
            try:
                if patch.key:
                    self._downloader.key(patch.key)
                self._downloader.get(patch)
                self._apply(base, patch.blob, whole)
            except UnavailableError:
                raise
            except SkerryError as error:
                self._log("patch_failed", blob=whole.blob.digest.short, reason=error)
                continue
            self._store.forget(patch.blob.digest)
            self._count(patch, whole)
            self._log("patched", blob=whole.blob.digest.short, fetched=patch.size, whole=whole.size)
            return True
        return False

    def _patches(self, blob: Descriptor) -> Iterator[tuple[Digest, Parcel]]:
        slots = self._store.now.slots
        bases = [ref for held in (slots.active, slots.previous) if held for ref in held.blobs]
        for ref in dict.fromkeys(bases):
            base = ref.descriptor().digest
            if base == blob.digest or not self._store.blobs.has(base):
                continue
            try:
                patch = self._deltas.delta(base, blob.digest)
            except UnavailableError:
                raise
            except SkerryError as error:
                self._log("patch_refused", blob=blob.digest.short, reason=error)
                return
            if patch is not None:
                yield base, patch

    def _apply(self, base: Digest, patch: Descriptor, whole: Parcel) -> None:
        blobs, blob = self._store.blobs, whole.blob
        with blobs.open(patch.digest) as packed:
            if _claimed(packed) not in (None, blob.size):
                raise DigestMismatch("the patch makes another length", where=patch.digest)
        if whole.key:
            with blobs.open(base) as old, blobs.open(patch.digest) as packed:
                blobs.put_as(whole, self._unpacker(old, packed))
            return
        made = self._store.scratch(blob)
        try:
            with blobs.forgetting():
                self._patcher(blobs.path(base), blobs.path(patch.digest), made)
            if made.stat().st_size != blob.size:
                raise DigestMismatch("the patch made another length", where=patch.digest)
            blobs.put(blob, _chunks(made))
        finally:
            made.unlink(missing_ok=True)


def _claimed(packed: BinaryIO) -> int | None:
    """How long the result of a patch will be: a small one may claim a terabyte. None if it is none,
    which is for the one who applies it to say."""
    from skerry.updater.delta.limits import Limits
    from skerry.updater.delta.wire import PatchFile, read_header

    try:
        return read_header(PatchFile(packed), Limits()).new_size
    except BundleError:
        return None


def _parcels(bundle: Bundle, artifact: str, key: str) -> tuple[Parcel, ...]:
    shown = bundle.card_blob
    needed = dict.fromkeys(bundle.needed_blobs(artifact))
    return tuple(Parcel(blob, "" if blob == shown else key) for blob in needed)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
