"""A store whose files are sealed: what lies on the disk shows nothing of the weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, DigestMismatch
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.updater.trust.sealing.form import (
    HEADER_BYTES,
    ContentKey,
    SealLimits,
    seal,
    unseal,
)

__all__ = ["SealedBlobs"]

_READ_BYTES = 1 << 20


class SealedBlobs:
    """`BlobStore` in a folder, each blob sealed under one key, named by its plain digest.

    `path` opens a blob into anonymous memory, which has a path for this process alone and never
    reaches a disk; it takes as much memory as the blob has bytes, until `forget` or `close`.

    Args:
        root: the folder that holds `blobs/`; made on the first `put`.
        key: seals and opens every blob. Keep it wrapped for the device's own key.
        disk: the seam through which files are written.
        limits: the length of chunks.
    """

    def __init__(
        self,
        root: Path,
        key: ContentKey,
        disk: Disk | None = None,
        limits: SealLimits | None = None,
    ) -> None:
        self._folder = root / "blobs" / "sha256"
        self._key, self._disk = key, disk or RealDisk()
        self._limits = limits or SealLimits()
        self._open: dict[Digest, int] = {}

    def has(self, digest: Digest) -> bool:
        return (self._folder / digest.hex).is_file()

    def path(self, digest: Digest) -> Path:
        if digest not in self._open:
            blob = Descriptor(digest, self._plain_size(digest))
            handle = os.memfd_create(digest.short, os.MFD_CLOEXEC)
            try:
                state = hashlib.sha256()
                with os.fdopen(os.dup(handle), "wb") as file:
                    for chunk in self._chunks(blob):
                        state.update(chunk)
                        file.write(chunk)
                _require(state.hexdigest(), digest)
            except BaseException:
                os.close(handle)
                raise
            self._open[digest] = handle
        return Path(f"/proc/self/fd/{self._open[digest]}")

    def read(self, blob: Descriptor) -> bytes:
        found = self._plain_size(blob.digest)
        if found != blob.size:
            raise DigestMismatch(f"{found} bytes, expected {blob.size}", where=blob.digest)
        data = b"".join(self._chunks(blob))
        blob.digest.check(data, where=self._folder / blob.digest.hex)
        return data

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        if self.has(blob.digest):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        state = hashlib.sha256()
        with replacing(self._folder / blob.digest.hex, disk=self._disk) as file:
            try:
                for sealed in seal(_hashed(chunks, state), blob, self._key, self._limits):
                    self._disk.write(file, sealed)
            except BundleError as error:
                raise DigestMismatch(
                    f"not the {blob.size} bytes said", where=blob.digest
                ) from error
            _require(state.hexdigest(), blob.digest)

    def digests(self) -> Iterator[Digest]:
        if self._folder.is_dir():
            for path in sorted(self._folder.iterdir()):
                if len(path.name) == 64 and not path.name.startswith("."):
                    yield Digest.from_hex(path.name)

    def remove(self, digest: Digest) -> None:
        self.forget(digest)
        self._disk.unlink(self._folder / digest.hex)

    def forget(self, digest: Digest) -> None:
        """Give back the memory that `path` took for a blob; its path is no more."""
        handle = self._open.pop(digest, None)
        if handle is not None:
            os.close(handle)

    def close(self) -> None:
        """Forget every blob."""
        for digest in list(self._open):
            self.forget(digest)

    def _plain_size(self, digest: Digest) -> int:
        try:
            with (self._folder / digest.hex).open("rb") as file:
                header = file.read(HEADER_BYTES)
        except FileNotFoundError as error:
            raise BundleError(
                "blob is missing", where=digest, remedy="fetch the bundle again"
            ) from error
        return int.from_bytes(header[16:24], "big")

    def _chunks(self, blob: Descriptor) -> Iterator[bytes]:
        with (self._folder / blob.digest.hex).open("rb") as file:
            sealed = iter(lambda: file.read(_READ_BYTES), b"")
            yield from unseal(sealed, blob, self._key, limits=self._limits)


def _hashed(chunks: Iterable[bytes], state: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        state.update(chunk)
        yield chunk


def _require(found: str, digest: Digest) -> None:
    if found != digest.hex:
        raise DigestMismatch("the bytes are other content", where=digest)
