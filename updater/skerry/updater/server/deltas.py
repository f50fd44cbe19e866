"""Patches for a rollout: from each artifact that the fleet runs to the one it is to run."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from threading import Event, Lock

from skerry.devices.digest import Descriptor, Digest, digest_file, digest_rest
from skerry.devices.errors import DigestMismatch, SkerryError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.delta import chain
from skerry.updater.sealing import Parcel
from skerry.updater.server.bases import cheapest_way, most_run
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.records import Delta, PublishedRelease

__all__ = ["DeltaMaker"]

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


class DeltaMaker:
    """Makes, stores and signs patches.

    What fails is logged and left out: devices then fetch the whole blob. A patch is sealed where
    its result is, and what is sealed is opened into memory alone.

    Args:
        fleet: whose releases and devices these are.
        ending: once it is set, no more are made.
    """

    def __init__(self, fleet: Fleet, ending: Event) -> None:
        self._fleet, self._ending = fleet, ending
        self._lock, self._stirred, self._making = Lock(), Event(), Lock()
        self._queue: deque[tuple[str, str]] = deque()
        self._begun: set[tuple[str, str]] = set()

    def prepare(self, release: str) -> int:
        """Make those that lead to `release` from what most devices run; how many were made.

        Those from other bases are made once they are asked for.
        """
        devices = self._fleet.store.registry.devices()
        bases = most_run(d.active for d in devices if not d.revoked_at)
        wanted = [base for base in bases if base != release][: self._fleet.limits.delta_bases]
        return sum(self._lead(base, release) for base in wanted if self._first((base, release)))

    def ask(self, base: str, release: str) -> bool:
        """A device that runs `base` is to run `release`: whether there is room for the wish.

        One that was fulfilled, failed or waits already takes no room.
        """
        wish = (base, release)
        with self._lock:
            if not base or base == release or wish in self._begun:
                return True
            if len(self._queue) >= self._fleet.limits.delta_queue:
                return False
            self._begun.add(wish)
            self._queue.append(wish)
        self._stirred.set()
        return True

    def turn(self) -> int:
        """Fulfil the oldest wish; how many patches that made."""
        with self._lock:
            if not self._queue:
                return 0
            wish = self._queue.popleft()
        return self._lead(*wish)

    def work(self) -> None:
        """Fulfil wishes until the end."""
        while not self._ending.is_set():
            while self._queue and not self._ending.is_set():
                try:
                    self.turn()
                except Exception:  # noqa: BLE001 - one bad wish must not end all later ones
                    _LOG.exception("a delta failed")
            self._fleet.clock.wait(self._stirred, self._fleet.limits.turn_seconds)
            self._stirred.clear()

    def stir(self) -> None:
        """Look whether the end has come."""
        self._stirred.set()

    def _first(self, wish: tuple[str, str]) -> bool:
        with self._lock:
            new = wish not in self._begun
            self._begun.add(wish)
        return new

    def _lead(self, base: str, release: str) -> int:
        """Make the patches between two releases that are not known."""
        access, made = self._fleet.store.access, 0
        published = {r.release: r for r in access.releases()}
        keys = {str(r.id): r.key for r in self._fleet.image.releases()}
        key = keys.get(release, "")
        if base not in published or release not in published:
            return 0
        if keys.get(base) and not key:
            return 0  # a plain patch beside a plain result would show what was sealed
        known = {(delta.base, delta.new) for delta in access.deltas()}
        try:
            pairs = _pairs(self._open(published[base]), self._open(published[release]))
            for name, old, new in pairs:
                if (str(old.digest), str(new.digest)) not in known:
                    with self._making, self._fleet.blobs.forgetting():
                        made += self._bridge(name, old, new, key)
        except SkerryError as error:
            _LOG.warning("no delta from %s to %s: %s", base, release, error)
        return made

    def _open(self, release: PublishedRelease) -> Bundle:
        manifest = Descriptor(Digest(release.manifest), release.size)
        return Bundle.of(self._fleet.blobs, manifest)

    def _bridge(self, name: str, old: Descriptor, new: Descriptor, key: str) -> int:
        """A chain of known patches at once where that pays, then a direct one if it is smaller."""
        size, place = new.size, _MEMORY if key else None
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place) as name_of_folder:
            folder = Path(name_of_folder)
            chained = self._chained(old, new, key, folder / "chain")
            if chained is not None and chained.size < size:
                self._publish(name, old, new, folder / "chain", Parcel(chained, key))
                size = chained.size
            try:
                direct = self._created(old, new, folder / "patch")
            except SkerryError as error:
                if size == new.size:
                    raise
                _LOG.info("%s goes by a chain of patches: %s", name, error)
                return 1
            if direct.size < size:
                self._publish(name, old, new, folder / "patch", Parcel(direct, key))
            elif size == new.size:
                self._keep(name, old, new, None)
        return 1

    def _chained(self, old: Descriptor, new: Descriptor, key: str, file: Path) -> Descriptor | None:
        """A chain of patches that were made before, if there is one."""
        known, links = self._fleet.store.access.deltas(), self._fleet.limits.delta_links
        way = cheapest_way(known, str(old.digest), str(new.digest), links)
        if not way:
            return None
        blobs, names = self._fleet.blobs, [Digest(delta.patch) for delta in way]
        if not key and any(map(blobs.key_of, names)):
            return None
        try:
            chain([blobs.path(name) for name in names], new.digest, file)
        except SkerryError as error:
            _LOG.info("no chain to %s: %s", new.digest.short, error)
            return None
        return digest_file(file)

    def _created(self, old: Descriptor, new: Descriptor, file: Path) -> Descriptor:
        """A patch made anew, in a process of its own: it takes long, and may take much memory."""
        blobs, clock = self._fleet.blobs, self._fleet.clock
        for blob in (old, new):
            with blobs.open(blob.digest) as content:
                if digest_rest(content) != blob:
                    raise DigestMismatch("the blob on this server is damaged", where=blob.digest)
        words = [str(blobs.path(old.digest)), str(blobs.path(new.digest)), str(file)]
        until = clock.monotonic() + self._fleet.limits.delta_seconds
        with subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *words],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None:
                if clock.wait(self._ending, _LOOK_SECONDS) or clock.monotonic() > until:
                    process.kill()
            _, said = process.communicate()
        if process.returncode:
            last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
            problem = f"no patch was made: {last or process.returncode}"
            raise UnavailableError(problem, where=new.digest)
        return digest_file(file)

    def _publish(
        self, name: str, old: Descriptor, new: Descriptor, file: Path, patch: Parcel
    ) -> None:
        with file.open("rb") as data:
            self._fleet.blobs.put_as(patch, iter(lambda: data.read(_CHUNK_BYTES), b""))
        self._fleet.image.add_delta(old.digest, new.digest, patch)
        self._keep(name, old, new, patch.blob)

    def _keep(self, name: str, old: Descriptor, new: Descriptor, patch: Descriptor | None) -> None:
        """Remember a patch, or that the whole blob is smaller."""
        self._fleet.store.access.add_delta(
            Delta(
                str(old.digest),
                str(new.digest),
                str(patch.digest) if patch else "",
                name,
                patch.size if patch else new.size,
                new.size,
            )
        )


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
