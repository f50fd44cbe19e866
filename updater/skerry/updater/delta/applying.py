"""Apply a patch from file to file, whole or not at all, and go on where an interruption stopped.

The result grows in `WORK.0.part`; a chain's next ones in `WORK.1.part` and so on. `WORK.at` says
how far the last of them is. What is not as it says is made anew.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from skerry.devices.errors import CancelledError, InputError, TrustError, UnavailableError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.updater.delta.limits import Limits
from skerry.updater.delta.outputs import check_output
from skerry.updater.delta.patching import Checkpoint, Decoding, Links
from skerry.updater.delta.wire import Readable

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

__all__ = ["apply"]

_CHUNK_BYTES = 1 << 20
_PLACE_BYTES = 4096


class _Place(msgspec.Struct, frozen=True):
    """Which patch of a chain is being decoded, and how far it is."""

    link: int
    checkpoint: Checkpoint


def apply(
    old: Path,
    patch: Path,
    new: Path,
    *,
    work: Path | None = None,
    limits: Limits | None = None,
    reached: Callable[[Checkpoint], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    disk: Disk | None = None,
) -> None:
    """Make `new` from the base `old` and the patch, whole or not at all.

    Args:
        old: the base; it is only read.
        patch: what `create` or `chain` wrote.
        new: where the result goes, `old` too if need be; replaced atomically.
        work: how the files in which it grows are called, on the filesystem of `new`. Those that an
            application left there when it was cancelled, killed or out of space are gone on from,
            once their bytes are verified. Without it nothing is kept.
        limits: what the patch may ask for.
        reached: told after each segment.
        cancelled: asked before each piece is written.
        disk: the seam through which is written.

    Raises:
        DigestMismatch: `old` is not the base of this patch, or the result is not what it says.
        BundleError: the patch is malformed or asks for more than `limits`.
        CancelledError: `cancelled` said so.
        InputError: a file cannot be read; `new` is the patch, or a folder.
        UnavailableError: the disk is full or not writable.
    """
    check_output(new, patch=patch)
    name = work or new.with_name(f".{new.name}.{secrets.token_hex(4)}")
    control = _Control(
        limits or Limits(), reached or (lambda _: None), cancelled or (lambda: False)
    )
    application = _Application(name, control, disk or RealDisk(), kept=work is not None)
    try:
        application.run(old, patch, new)
    except BaseException as error:
        if work is None or isinstance(error, InputError | TrustError):
            application.clear()
        raise


@dataclass(frozen=True, slots=True)
class _Control:
    limits: Limits
    reached: Callable[[Checkpoint], None]
    cancelled: Callable[[], bool]


class _Application:
    def __init__(self, work: Path, control: _Control, disk: Disk, *, kept: bool) -> None:
        self._work, self._control, self._disk, self._kept = work, control, disk, kept

    def run(self, old: Path, patch: Path, new: Path) -> None:
        """Make the result and put it in its place."""
        try:
            begun = self._begun() if self._kept else None
            try:
                made = self._decode(old, patch, begun)
            except (InputError, TrustError):
                if begun is None:
                    raise
                self.clear()  # what was left there is not of this patch
                made = self._decode(old, patch, None)
            self._disk.replace(made, new)
            self._disk.sync_folder(new.parent)
            self.clear()
        except OSError as error:
            problem = f"cannot write: {error.strerror}"
            remedy = "free some space and try again"
            raise UnavailableError(problem, where=new, remedy=remedy) from error

    def clear(self) -> None:
        """Remove every file of this application."""
        with suppress(OSError):
            name = glob.escape(self._work.name)
            for made in (f"{name}.[0-9]*.part", f"{name}.at"):
                for path in sorted(self._work.parent.glob(made)):
                    self._disk.unlink(path)

    def _decode(self, old: Path, patch: Path, begun: _Place | None) -> Path:
        """Decode every link; the file with the result."""
        with _open(patch) as packed:
            links, base, done = Links(packed, self._control.limits), old, None
            for number, (link, allowed) in enumerate(links):
                if begun is None or number >= begun.link:
                    done = self._link(number, base, link, allowed, begun)
                base = self._part(number)
            assert done is not None
            links.end(done.digest, done.made)
            return base

    def _link(
        self, number: int, base: Path, packed: Readable, limits: Limits, begun: _Place | None
    ) -> Decoding:
        """Decode one patch into its file."""
        if number > 1:
            self._disk.unlink(self._part(number - 2))
        at = begun.checkpoint if begun is not None and begun.link == number else None
        path = self._part(number)
        with _open(base) as source, path.open("r+b" if at else "wb") as result:
            state = hashlib.sha256()
            if at is not None:
                state = _hashed(result, at.new_bytes)
                result.truncate(at.new_bytes)
            decoding = Decoding(source, packed, limits, at, state)
            for chunk, checkpoint in decoding:
                if self._control.cancelled():
                    raise CancelledError("the patch was not applied to its end", where=path)
                self._disk.write(result, chunk)
                if checkpoint is not None:
                    self._keep(result, _Place(number, checkpoint))
                    self._control.reached(checkpoint)
            os.fchmod(result.fileno(), 0o644)
            self._disk.sync(result)
            return decoding

    def _keep(self, result: BinaryIO, place: _Place) -> None:
        """See that a later application can go on from here."""
        if self._kept:
            self._disk.sync(result)
            write_atomically(self._at, msgspec.json.encode(place), disk=self._disk)

    def _begun(self) -> _Place | None:
        """Where an earlier application stopped, if its bytes are still what they were."""
        try:
            with self._at.open("rb") as file:
                place = msgspec.json.decode(file.read(_PLACE_BYTES), type=_Place)
            with self._part(place.link).open("rb") as made:
                digest = _hashed(made, place.checkpoint.new_bytes).hexdigest()
        except (OSError, msgspec.MsgspecError):
            return None
        return place if digest == place.checkpoint.new_digest else None

    @property
    def _at(self) -> Path:
        return self._work.with_name(f"{self._work.name}.at")

    def _part(self, link: int) -> Path:
        return self._work.with_name(f"{self._work.name}.{link}.part")


def _hashed(file: BinaryIO, count: int) -> Hash:
    """SHA-256 over the next `count` bytes of a file, or over fewer if it ends."""
    state = hashlib.sha256()
    while count > 0 and (chunk := file.read(min(count, _CHUNK_BYTES))):
        state.update(chunk)
        count -= len(chunk)
    return state


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=path) from error
