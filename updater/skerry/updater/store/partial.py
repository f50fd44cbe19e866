"""A download in progress: bytes that survive, and how many of them are known to be good.

`<hex>.part` grows at its end; `<hex>.mark` says how many of its bytes were synced, and their hash.
After a crash only what the mark vouches for is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import DigestMismatch, TrustError, UnavailableError
from skerry.devices.files import Disk, write_atomically
from skerry.updater.sealing import Parcel

__all__ = ["Partial"]

_CHUNK_BYTES = 1 << 20


class _Mark(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class Partial:
    """The bytes of `parcel` that are here so far, as they travel.

    Args:
        folder: where partial downloads lie; must exist.
        parcel: what is being fetched.
        disk: the seam to the filesystem.
        checkpoint_bytes: how many new bytes are worth a sync.

    Attributes:
        size: bytes that are here.
        resumed: whether some were here before.

    Raises:
        UnavailableError: the files cannot be read or written.
    """

    def __init__(self, folder: Path, parcel: Parcel, disk: Disk, *, checkpoint_bytes: int) -> None:
        self.parcel = parcel
        self.path = folder / f"{parcel.name}.part"
        self._mark = folder / f"{parcel.name}.mark"
        self._disk, self._every = disk, checkpoint_bytes
        self._state, self.size = hashlib.sha256(), 0
        self._marked = 0
        try:
            self._file = self._open()
        except OSError as error:
            raise UnavailableError(f"cannot write: {error.strerror}", where=self.path) from error

    def append(self, chunk: bytes) -> None:
        """Add bytes at the end.

        Raises:
            DigestMismatch: there are more than the blob has.
            UnavailableError: the disk is full.
        """
        if self.size + len(chunk) > self.parcel.size:
            problem = f"more than {self.parcel.size} bytes"
            raise DigestMismatch(problem, where=self.parcel.blob.digest)
        try:
            self._disk.write(self._file, chunk)
        except OSError as error:
            raise UnavailableError(f"cannot write: {error.strerror}", where=self.path) from error
        self._state.update(chunk)
        self.size += len(chunk)
        if self.size - self._marked >= self._every:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make what is here survive a power cut."""
        if self.size == self._marked:
            return
        mark = _Mark(self.size, self._state.hexdigest())
        try:
            self._disk.sync(self._file)
        except OSError as error:
            raise UnavailableError(f"cannot write: {error.strerror}", where=self.path) from error
        self._disk.sync_folder(self.path.parent)
        write_atomically(self._mark, msgspec.json.encode(mark), disk=self._disk)
        self._marked = self.size

    def restart(self) -> None:
        """Forget every byte: the sender begins at the first one."""
        self._disk.unlink(self._mark)
        self._file.truncate(0)
        self._file.seek(0)
        self._state, self.size, self._marked = hashlib.sha256(), 0, 0

    def finish(self, target: Path, match: Callable[[Parcel, BinaryIO], None]) -> None:
        """Move the whole blob to `target`.

        Args:
            match: sees that a file holds a parcel, or raises TrustError.

        Raises:
            DigestMismatch: the bytes are not the blob; they are forgotten.
        """
        try:
            self._require_whole(match)
        except TrustError:
            self.discard()
            raise
        try:
            self._disk.sync(self._file)
            self._file.close()
            self._disk.replace(self.path, target)
            self._disk.sync_folder(target.parent)
            self._disk.unlink(self._mark)
        except OSError as error:
            raise UnavailableError(f"cannot write: {error.strerror}", where=target) from error

    def discard(self) -> None:
        """Remove what was fetched."""
        self._file.close()
        self._disk.unlink(self._mark)
        self._disk.unlink(self.path)

    def close(self) -> None:
        """Stop here; what the last checkpoint covers is kept."""
        self._file.close()

    def _require_whole(self, match: Callable[[Parcel, BinaryIO], None]) -> None:
        blob = self.parcel.blob
        found = Descriptor(Digest.from_hex(self._state.hexdigest()), self.size)
        try:
            if self.parcel.key and self.size == self.parcel.size:
                match(self.parcel, self.path.open("rb"))
            elif found != blob:
                raise DigestMismatch(
                    f"{found.size} bytes with digest {found.digest.short}…, expected {blob.size}"
                )
        except TrustError as error:
            raise DigestMismatch(
                f"what was fetched is other content: {error.problem}",
                where=f"blob {blob.digest.short}…",
                remedy="what the server holds was changed or damaged after it was signed",
            ) from error

    def _open(self) -> BinaryIO:
        good = self._good_bytes()
        file = self.path.open("r+b" if good else "w+b", buffering=0)
        file.truncate(good)
        file.seek(good)
        self.size = self._marked = good
        self.resumed = good > 0
        return file

    def _good_bytes(self) -> int:
        """How many bytes the mark vouches for; leaves the hash at their end."""
        try:
            mark = msgspec.json.decode(self._mark.read_bytes(), type=_Mark)
            with self.path.open("rb") as file:
                left = mark.size
                while left > 0 and (chunk := file.read(min(left, _CHUNK_BYTES))):
                    self._state.update(chunk)
                    left -= len(chunk)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._state = hashlib.sha256()
            return 0
        if left or mark.size > self.parcel.size or self._state.hexdigest() != mark.sha256:
            self._state = hashlib.sha256()
            return 0
        return mark.size
