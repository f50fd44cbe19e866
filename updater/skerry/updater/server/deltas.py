"""Patches for a rollout: from each artifact that the fleet runs to the one it is to run."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from skerry.devices.digest import Descriptor, Digest, digest_file
from skerry.devices.errors import DigestMismatch, SkerryError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.records import Delta, PublishedRelease

__all__ = ["make_deltas"]

_LOG = logging.getLogger(__name__)
_DEVICE_FORMATS = ("onnx", "tflite")
_CHUNK_BYTES = 1 << 20


def make_deltas(fleet: Fleet, release: str) -> int:
    """Make, store and sign the patches that lead to `release`; how many were made.

    What fails is logged and left out: devices then fetch the whole blob.
    """
    published = {r.release: r for r in fleet.store.access.releases()}
    if release not in published:
        return 0
    running = {d.active for d in fleet.store.registry.devices() if not d.revoked_at}
    known = {(delta.base, delta.new) for delta in fleet.store.access.deltas()}
    made = 0
    for base in sorted(running & (published.keys() - {release})):
        try:
            pairs = _pairs(_open(fleet, published[base]), _open(fleet, published[release]))
            for name, old, new in pairs:
                if (str(old.digest), str(new.digest)) not in known:
                    _make(fleet, name, old, new)
                    made += 1
        except (SkerryError, ImportError) as error:
            _LOG.warning("no delta from %s to %s: %s", base, release, error)
    return made


def _open(fleet: Fleet, release: PublishedRelease) -> Bundle:
    return Bundle.of(fleet.blobs, Descriptor(Digest(release.manifest), release.size))


def _pairs(base: Bundle, new: Bundle) -> list[tuple[str, Descriptor, Descriptor]]:
    """The blobs of the same artifact in two bundles, where they differ."""

    def blobs(bundle: Bundle) -> dict[str, Descriptor]:
        wanted = [a for a in bundle.card.artifacts if a.format in _DEVICE_FORMATS]
        return {artifact.name: artifact.blob.descriptor() for artifact in wanted}

    before, after = blobs(base), blobs(new)
    return [
        (name, before[name], after[name])
        for name in sorted(before.keys() & after.keys())
        if before[name] != after[name]
    ]


def _make(fleet: Fleet, name: str, old: Descriptor, new: Descriptor) -> None:
    """One patch, kept if it is smaller than what it spares."""
    from skerry.updater.delta import create

    for blob in (old, new):
        if digest_file(fleet.blobs.path(blob.digest)) != blob:
            raise DigestMismatch("the blob on this server is damaged", where=blob.digest)
    with tempfile.TemporaryDirectory(prefix="skerry-delta-") as folder:
        file = Path(folder) / "patch"
        create(fleet.blobs.path(old.digest), fleet.blobs.path(new.digest), file)
        patch = digest_file(file)
        smaller = patch.size < new.size
        if smaller:
            with file.open("rb") as data:
                fleet.blobs.put(patch, iter(lambda: data.read(_CHUNK_BYTES), b""))
            fleet.image.add_delta(old.digest, new.digest, patch)
    fleet.store.access.add_delta(
        Delta(
            str(old.digest),
            str(new.digest),
            str(patch.digest) if smaller else "",
            name,
            patch.size if smaller else new.size,
            new.size,
        )
    )
