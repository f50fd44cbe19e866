"""Blobs in a folder, each plain or sealed, and read alike.

    blobs/sha256/<hex>            a plain blob
    blobs/sha256/<hex>.<key id>   the same, sealed under a content key

Devices, servers, operators and carried media keep their blobs so; `Parcel.name` is the file's name
and the address.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from skerry.devices.digest import Descriptor, Digest, digest_rest
from skerry.devices.errors import BundleError, DigestMismatch
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.runtime.blobs import FolderBlobs, reading
from skerry.updater.sealing.form import seal
from skerry.updater.sealing.keys import Keys
from skerry.updater.sealing.parcel import Parcel
from skerry.updater.sealing.reading import SealedFile

__all__ = ["SealedBlobs"]

_READ_BYTES = 1 << 16


class SealedBlobs:
    """`BlobStore` in a folder, whose blobs may be sealed.

    `open` reads a sealed blob with one chunk in memory. `path` opens it into anonymous memory,
    which has a path while this process lives and is no file on a disk; it takes as much memory as
    the blob has bytes, until `forget`.

    Args:
        root: the folder that holds `blobs/`; made on the first `put`.
        keys: where content keys are.
        disk: the seam through which files are written.
    """

    def __init__(self, root: Path, keys: Keys, disk: Disk | None = None) -> None:
        self._folder = root / "blobs" / "sha256"
        self._plain, self.keys = FolderBlobs(root, disk), keys
        self._disk = disk or RealDisk()
        self._memory: dict[Digest, int] = {}
        self._lock = Lock()

    def has(self, digest: Digest) -> bool:
        return self._file(digest) is not None

    def holds(self, parcel: Parcel) -> bool:
        """Whether the blob is here in this very form."""
        return self.file(parcel).is_file()

    def file(self, parcel: Parcel) -> Path:
        """Where the blob lies in this form, or would."""
        return self._folder / parcel.name

    def key_of(self, digest: Digest) -> str:
        """The id of the key under which the blob is sealed here; "" if it is plain or missing."""
        file = self._file(digest)
        return "" if file is None else file.suffix[1:]

    def open(self, digest: Digest) -> BinaryIO:
        file = self._file(digest)
        if file is None:
            raise _missing(digest)
        with reading(file):
            content = file.open("rb")
        return self._plain_of(content, digest, file.suffix[1:])

    def path(self, digest: Digest) -> Path:
        file = self._file(digest)
        if file is None:
            raise _missing(digest)
        if not file.suffix:
            return file
        with self._lock:
            if digest not in self._memory:
                self._memory[digest] = self._in_memory(digest)
            return Path(f"/proc/{os.getpid()}/fd/{self._memory[digest]}")

    def read(self, blob: Descriptor) -> bytes:
        file = self._file(blob.digest)
        if file is None or not file.suffix:
            return self._plain.read(blob)
        with self.open(blob.digest) as content:
            found = content.seek(0, os.SEEK_END)
            if found != blob.size:
                raise DigestMismatch(f"{found} bytes, expected {blob.size}", where=file)
            content.seek(0)
            data = content.read()
        blob.digest.check(data, where=file)
        return data

    def put(self, blob: Descriptor, chunks: Iterable[bytes]) -> None:
        self.put_as(Parcel(blob), chunks)

    def put_as(self, parcel: Parcel, chunks: Iterable[bytes]) -> None:
        """Store the plain `chunks` in the form that `parcel` says.

        Raises:
            DigestMismatch: they are not the blob; nothing is kept.
            TrustError: the content key is not here.
        """
        if self.holds(parcel):
            return
        if not parcel.key:
            self._plain.put(parcel.blob, chunks)
            return
        key = self.keys.content_key(parcel.key)
        try:
            self.take(parcel, seal(chunks, parcel.blob, key))
        except BundleError as error:
            raise DigestMismatch(
                f"not the {parcel.blob.size} bytes said", where=parcel.blob.digest
            ) from error

    def take(self, parcel: Parcel, chunks: Iterable[bytes]) -> None:
        """Store a parcel whose bytes come as they travel; it is opened and matched before.

        Raises:
            DigestMismatch: it is other content; nothing is kept.
            TrustError: it does not open.
        """
        if not parcel.key:
            self._plain.put(parcel.blob, chunks)
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        target, size = self.file(parcel), 0
        with replacing(target, disk=self._disk) as file:
            for chunk in chunks:
                size += len(chunk)
                if size > parcel.size:
                    raise DigestMismatch(f"more than {parcel.size} bytes", where=target.name)
                self._disk.write(file, chunk)
            file.flush()
            with os.fdopen(os.dup(file.fileno()), "rb") as written:
                written.seek(0)
                self.match(parcel, written)

    def match(self, parcel: Parcel, file: BinaryIO) -> None:
        """See that an open `file` holds `parcel`; it is closed.

        Raises:
            DigestMismatch: it holds something else.
            TrustError: it does not open, or its key is not here.
        """
        digest = parcel.blob.digest
        try:
            with self._plain_of(file, digest, parcel.key) as content:
                found = digest_rest(content)
        except BundleError as error:
            raise DigestMismatch(error.problem, where=digest) from error
        if found != parcel.blob:
            raise DigestMismatch(
                f"the bytes are other content: {found.size} with digest {found.digest.short}…",
                where=digest,
            )

    def digests(self) -> Iterator[Digest]:
        if self._folder.is_dir():
            names = {path.name.partition(".")[0] for path in self._folder.iterdir()}
            yield from (Digest.from_hex(name) for name in sorted(names) if len(name) == 64)

    def remove(self, digest: Digest) -> None:
        self.forget(digest)
        for file in (self._folder / digest.hex, *self._sealed(digest)):
            self._disk.unlink(file)

    def forget(self, *digests: Digest) -> None:
        """Give back the memory that `path` took, for these blobs or for all; the paths are gone."""
        with self._lock:
            for digest in digests or tuple(self._memory):
                handle = self._memory.pop(digest, None)
                if handle is not None:
                    os.close(handle)

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Give back, at the end, the memory that `path` takes within."""
        try:
            yield
        finally:
            self.forget()

    def _plain_of(self, file: BinaryIO, digest: Digest, key: str) -> BinaryIO:
        if not key:
            return file
        try:
            opened = SealedFile(file, digest, self.keys.content_key(key))
            return io.BufferedReader(opened, _READ_BYTES)
        except BaseException:
            file.close()
            raise

    def _in_memory(self, digest: Digest) -> int:
        handle = os.memfd_create(digest.short, os.MFD_CLOEXEC)
        try:
            with self.open(digest) as content, os.fdopen(os.dup(handle), "wb") as memory:
                while chunk := content.read(_READ_BYTES):
                    memory.write(chunk)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def _file(self, digest: Digest) -> Path | None:
        plain = self._folder / digest.hex
        with reading(plain):
            return plain if plain.is_file() else next(iter(self._sealed(digest)), None)

    def _sealed(self, digest: Digest) -> list[Path]:
        return sorted(self._folder.glob(f"{digest.hex}.*"))


def _missing(digest: Digest) -> BundleError:
    return BundleError("blob is missing", where=digest, remedy="fetch the bundle again")
