"""A blob store in memory, with files only where a path is asked for."""

import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import BundleError, DigestMismatch


class FakeBlobs:
    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._folder = tempfile.TemporaryDirectory()

    def has(self, digest: Digest) -> bool:
        return digest in self._blobs

    def open(self, digest: Digest) -> BinaryIO:
        return io.BytesIO(self._of(digest))

    def path(self, digest: Digest) -> Path:
        path = Path(self._folder.name) / digest.hex
        path.write_bytes(self._of(digest))
        return path

    def read(self, blob: Descriptor) -> bytes:
        data = self._of(blob.digest)
        if len(data) != blob.size:
            raise DigestMismatch(f"{len(data)} bytes, expected {blob.size}", where=blob.digest)
        return data

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        if blob.digest in self._blobs:
            return
        data = b"".join(chunks)
        if len(data) != blob.size:
            raise DigestMismatch(f"{len(data)} bytes, expected {blob.size}", where=blob.digest)
        blob.digest.check(data, where=blob.digest)
        self._blobs[blob.digest] = data

    def digests(self) -> Iterator[Digest]:
        return iter(sorted(self._blobs))

    def remove(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)

    def _of(self, digest: Digest) -> bytes:
        if digest not in self._blobs:
            raise BundleError("blob is missing", where=digest)
        return self._blobs[digest]
