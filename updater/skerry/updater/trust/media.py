"""Updates that are carried: a folder or USB stick with the same metadata and blobs as a server.

    MEDIA/image/1.root.json, timestamp.json, …
    MEDIA/director/<device>/1.root.json, timestamp.json, …
    MEDIA/blobs/sha256/<hex>, <hex>.<key id>
    MEDIA/keys/<device>/<key id>.json

A device reads it through the same client and the same rules as a server's answers:
`TrustedClient(…, FolderFetcher(media), server=MEDIA_URL, carried=True)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from skerry.devices.errors import InputError
from skerry.devices.files import confined
from skerry.updater.fetch import Body, BusyError, RefusedError, too_long

__all__ = ["MEDIA_URL", "FolderFetcher"]

MEDIA_URL = "media:"
"""The server's address that a `FolderFetcher` answers to."""

_CHUNK_BYTES = 65_536


class FolderFetcher:
    """`Fetcher` over a folder.

    Args:
        root: the folder that was carried here. Nothing in it is trusted.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def open(self, url: str, *, max_bytes: int, start: int = 0) -> Iterator[Body]:
        path = self._path(url)
        try:
            size = path.stat().st_size
            if not path.is_file():
                raise self._absent(path)
            if size > max_bytes:
                raise too_long(str(path), max_bytes)
            if start and start >= size:
                raise RefusedError(f"ends before byte {start}", status=416, where=path)
            with path.open("rb") as file:
                file.seek(start)
                yield _FileBody(file, path, start, max_bytes)
        except FileNotFoundError as error:
            raise self._absent(path) from error
        except OSError as error:
            raise BusyError(f"cannot be read: {error.strerror}", where=path) from error

    def _absent(self, path: Path) -> RefusedError:
        """As a server's 404: who asks goes by the status."""
        if not (self._root / "image").is_dir():
            return RefusedError(
                "holds no medium",
                status=404,
                where=self._root,
                remedy="is it plugged in and mounted there? `skerry fleet media` writes one",
            )
        return RefusedError(
            "is not on the medium",
            status=404,
            where=path,
            remedy="write the medium anew for this device with `skerry fleet media`",
        )

    def _path(self, url: str) -> Path:
        name = url.removeprefix(MEDIA_URL).lstrip("/")
        if not url.startswith(MEDIA_URL):
            raise InputError("is not on this medium", where=url[:200])
        return confined(self._root, name)


class _FileBody:
    """The rest of a file, counted: it may grow while it is read."""

    def __init__(self, file: BinaryIO, path: Path, start: int, max_bytes: int) -> None:
        self.start = start
        self._file, self._path, self._max = file, path, max_bytes

    def __iter__(self) -> Iterator[bytes]:
        taken = self.start
        while True:
            try:
                chunk = self._file.read(_CHUNK_BYTES)
            except OSError as error:
                problem = f"cannot be read after {taken} bytes: {error.strerror}"
                raise BusyError(problem, where=self._path) from error
            if not chunk:
                return
            taken += len(chunk)
            if taken > self._max:
                raise too_long(str(self._path), self._max)
            yield chunk
