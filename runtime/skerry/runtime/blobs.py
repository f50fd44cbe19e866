"""Blobs by content: `blobs/sha256/<hex>`, as in an OCI image layout and in a device's store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, DigestMismatch, UnavailableError
from skerry.devices.files import Disk, RealDisk, replacing

__all__ = ["BlobStore", "FolderBlobs", "reading"]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around reading `path`.

    Raises:
        UnavailableError: the disk does not let it be read.
    """
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"cannot read: {error.strerror or error}", where=path, remedy="check its rights"
        ) from error


class BlobStore(Protocol):
    """Immutable bytes, each found by its digest. UnavailableError where the disk refuses."""

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here, whole."""

    def open(self, digest: Digest) -> BinaryIO:
        """The blob as a file to read; BundleError if it is not here."""

    def path(self, digest: Digest) -> Path:
        """Where the blob's file is, for an engine to load; BundleError if it is not here."""

    def read(self, blob: Descriptor) -> bytes:
        """The blob's bytes, matched to digest and size before they are returned."""

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        """Store the joined chunks; DigestMismatch, and nothing kept, if they are not `blob`."""

    def digests(self) -> Iterator[Digest]:
        """Every blob that is here."""

    def remove(self, digest: Digest) -> None:
        """Forget a blob; no error if it is not here."""


class FolderBlobs:
    """`BlobStore` in a folder.

    Args:
        root: the folder that holds `blobs/`; made on the first `put`.
        disk: the seam through which files are written.
    """

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._folder = root / "blobs" / "sha256"
        self._disk = disk or RealDisk()

    def has(self, digest: Digest) -> bool:
        path = self._folder / digest.hex
        with reading(path):
            return path.is_file()

    def open(self, digest: Digest) -> BinaryIO:
        path = self.path(digest)
        with reading(path):
            return path.open("rb")

    def path(self, digest: Digest) -> Path:
        path = self._folder / digest.hex
        if not self.has(digest):
            raise BundleError("blob is missing", where=digest, remedy="fetch the bundle again")
        return path

    def read(self, blob: Descriptor) -> bytes:
        path = self.path(blob.digest)
        with reading(path):
            found = path.stat().st_size
            if found != blob.size:
                raise DigestMismatch(f"{found} bytes, expected {blob.size}", where=path)
            data = path.read_bytes()
        blob.digest.check(data, where=path)
        return data

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        if self.has(blob.digest):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state, size = hashlib.sha256(), 0
        with replacing(self._folder / blob.digest.hex, disk=self._disk) as file:
            for chunk in chunks:
                size += len(chunk)
                if size > blob.size:
                    raise DigestMismatch(f"more than {blob.size} bytes", where=blob.digest)
                state.update(chunk)
                self._disk.write(file, chunk)
            if size != blob.size or state.hexdigest() != blob.digest.hex:
                raise DigestMismatch(f"the {size} bytes given are other content", where=blob.digest)

    def digests(self) -> Iterator[Digest]:
        if self._folder.is_dir():
            for path in sorted(self._folder.iterdir()):
                if len(path.name) == 64 and not path.name.startswith("."):
                    yield Digest.from_hex(path.name)

    def remove(self, digest: Digest) -> None:
        self._disk.unlink(self._folder / digest.hex)
