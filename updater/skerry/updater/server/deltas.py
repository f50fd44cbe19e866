"""Patches for a rollout: from each artifact that the fleet runs to the one it is to run."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from threading import Event

from skerry.devices.digest import Descriptor, Digest, digest_file, digest_rest
from skerry.devices.errors import DigestMismatch, SkerryError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.sealing import Parcel
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.records import Delta, PublishedRelease

__all__ = ["make_deltas"]

_LOG = logging.getLogger(__name__)
_DEVICE_FORMATS = ("onnx", "tflite")
_CHUNK_BYTES = 1 << 20
_PREFIX = "skerry-delta-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own within, mode 0700
_LOOK_SECONDS = 0.02
_PROGRAM = (
    "import sys; from pathlib import Path; from skerry.updater.delta import create; "
    "create(*map(Path, sys.argv[1:]))"
)


def make_deltas(fleet: Fleet, release: str, ending: Event) -> int:
    """Make, store and sign the patches that lead to `release`; how many were made.

    What fails is logged and left out: devices then fetch the whole blob. Once `ending` is set, no
    more are made.
    """
    published = {r.release: r for r in fleet.store.access.releases()}
    if release not in published:
        return 0
    keys = {str(r.id): r.key for r in fleet.image.releases()}
    key = keys.get(release, "")
    running = {d.active for d in fleet.store.registry.devices() if not d.revoked_at}
    known = {(delta.base, delta.new) for delta in fleet.store.access.deltas()}
    made = 0
    for base in sorted(running & (published.keys() - {release})):
        if keys.get(base) and not key:
            continue  # a plain patch beside a plain result would show what was sealed
        try:
            pairs = _pairs(_open(fleet, published[base]), _open(fleet, published[release]))
            for name, old, new in pairs:
                if (str(old.digest), str(new.digest)) not in known:
                    _make(fleet, name, old, new, key, ending)
                    made += 1
        except SkerryError as error:
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


def _make(
    fleet: Fleet, name: str, old: Descriptor, new: Descriptor, key: str, ending: Event
) -> None:
    """One patch, kept if it is smaller than what it spares; sealed where its result is.

    What is sealed is opened into memory alone.
    """
    for blob in (old, new):
        with fleet.blobs.open(blob.digest) as content:
            if digest_rest(content) != blob:
                raise DigestMismatch("the blob on this server is damaged", where=blob.digest)
    place = _MEMORY if key else None
    with fleet.blobs.forgetting(), tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as folder:
        file = Path(folder) / "patch"
        _create(fleet.blobs.path(old.digest), fleet.blobs.path(new.digest), file, fleet, ending)
        patch = digest_file(file)
        smaller = patch.size < new.size
        if smaller:
            with file.open("rb") as data:
                parcel = Parcel(patch, key)
                fleet.blobs.put_as(parcel, iter(lambda: data.read(_CHUNK_BYTES), b""))
            fleet.image.add_delta(old.digest, new.digest, parcel)
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


def _create(old: Path, new: Path, patch: Path, fleet: Fleet, ending: Event) -> None:
    """Make the patch in a process of its own: it takes long, and may take much memory."""
    words = [sys.executable, "-c", _PROGRAM, str(old), str(new), str(patch)]
    clock = fleet.clock
    until = clock.monotonic() + fleet.limits.delta_seconds
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if clock.wait(ending, _LOOK_SECONDS) or clock.monotonic() > until:
                process.kill()
        _, said = process.communicate()
    if process.returncode:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise UnavailableError(f"no patch was made: {last or process.returncode}", where=new.name)
