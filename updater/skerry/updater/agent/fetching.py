"""What an update needs and how it comes here: a patch where one is signed, else the whole blob."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import DigestMismatch, SkerryError, UnavailableError
from skerry.runtime.bundle.layout import parse_manifest
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.choose import choose
from skerry.updater.agent.download import Downloader
from skerry.updater.agent.log import Log
from skerry.updater.store.slots import Update, counted, planned, reference
from skerry.updater.store.store import Store

__all__ = ["Deltas", "Fetching", "Plan", "apply_patch"]

_CHUNK_BYTES = 1 << 20


class Deltas(Protocol):
    """Knows which signed patches there are."""

    def delta(self, base: Digest, new: Digest) -> Descriptor | None:
        """The patch from `base` to `new`, or None."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The artifact chosen for this device, and the blobs it needs beside the manifest."""

    artifact: str
    blobs: tuple[Descriptor, ...]


def apply_patch(
    old: Path, patch: Path, new: Path, *, cancelled: Callable[[], bool] | None = None
) -> None:
    """Make `new` from `old` and `patch`; raises as `skerry.updater.delta.apply`."""
    from skerry.updater.delta import apply

    apply(old, patch, new, cancelled=cancelled)


class Fetching:
    """Brings every blob of an update into the store.

    Args:
        formats: artifact formats that run here, preferred first.
        deltas: where patches are looked up.
        patcher: applies one.
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
    ) -> None:
        self._store, self._downloader, self._deltas = store, downloader, deltas
        self._formats, self._log, self._patcher = formats, log, patcher

    def plan(self, update: Update) -> Plan:
        """Fetch manifest and card of the update, and choose its artifact.

        Raises:
            BundleError: manifest or card is malformed.
            UnsupportedError: nothing in the bundle runs here.
            SkerryError: as `Downloader.get`.
        """
        manifest = update.manifest.descriptor()
        self._whole(manifest)
        card = parse_manifest(self._store.blobs.read(manifest)).card
        self._whole(card)
        bundle = Bundle.of(self._store.blobs, manifest)
        artifact = choose(bundle.card, self._formats).name
        return Plan(artifact, tuple(dict.fromkeys(bundle.needed_blobs(artifact))))

    def fetch(self, update: Update) -> Update:
        """See that every blob of the update is here; the update as the journal now has it.

        Raises:
            SkerryError: as `plan`, and QuotaError where there is no room.
        """
        self._downloader.looked()
        plan = self.plan(update)
        refs = tuple(reference(blob) for blob in plan.blobs)
        if (update.artifact, update.blobs) != (plan.artifact, refs):
            self._store.become(planned(self._store.now, plan.artifact, refs))
        self._store.make_room(plan.blobs)
        for blob in self._store.missing(plan.blobs):
            if not self._by_patch(blob):
                self._whole(blob)
        assert self._store.now.update is not None
        return self._store.now.update

    def _whole(self, blob: Descriptor) -> None:
        if not self._store.blobs.has(blob.digest):
            self._downloader.get(blob)
            self._store.become(counted(self._store.now, fetched=blob, whole=blob))

    def _by_patch(self, blob: Descriptor) -> bool:
        """Make `blob` from one that is here; whether there was a way."""
        for base, patch in self._patches(blob):
            if patch.size >= blob.size:
                continue
            try:
                self._downloader.get(patch)
                self._apply(base, patch, blob)
            except UnavailableError:
                raise
            except SkerryError as error:
                self._log("patch_failed", blob=blob.digest.short, reason=error)
                continue
            self._store.forget(patch.digest)
            self._store.become(counted(self._store.now, fetched=patch, whole=blob))
            self._log("patched", blob=blob.digest.short, fetched=patch.size, whole=blob.size)
            return True
        return False

    def _patches(self, blob: Descriptor) -> Iterator[tuple[Digest, Descriptor]]:
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

    def _apply(self, base: Digest, patch: Descriptor, blob: Descriptor) -> None:
        made = self._store.scratch(blob)
        try:
            self._patcher(self._store.blobs.path(base), self._store.blobs.path(patch.digest), made)
            if made.stat().st_size != blob.size:
                raise DigestMismatch("the patch made another length", where=patch.digest)
            self._store.blobs.put(blob, _chunks(made))
        finally:
            made.unlink(missing_ok=True)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
