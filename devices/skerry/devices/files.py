"""Files that survive a power cut, and paths that stay where they belong.

`Disk` is the seam to the filesystem for everything whose order of writes matters: the slot store,
the journal and the blob store go through it, so a test can cut the power at any operation.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from skerry.devices.errors import InputError, UnavailableError

__all__ = ["Disk", "RealDisk", "cannot_write", "confined", "replacing", "write_atomically"]

_FULL = {errno.ENOSPC, errno.EDQUOT}


class Disk(Protocol):
    """The operations on a filesystem whose order decides what a power cut leaves."""

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Append `data` to an open file."""

    def sync(self, file: BinaryIO) -> None:
        """Flush `file` and force its bytes to the medium."""

    def replace(self, source: Path, target: Path) -> None:
        """Rename `source` over `target`, atomically."""

    def unlink(self, path: Path) -> None:
        """Remove a file; no error if it is gone already."""

    def sync_folder(self, folder: Path) -> None:
        """Force the entries of `folder` (renames, unlinks) to the medium."""


class RealDisk:
    """`Disk` on the operating system's filesystem."""

    def write(self, file: BinaryIO, data: bytes) -> None:
        file.write(data)

    def sync(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)  # noqa: PTH105 - the atomic call by its own name

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_REAL_DISK = RealDisk()


def cannot_write(error: OSError, where: object) -> UnavailableError:
    """The error for what the operating system refused, with the remedy for that."""
    full = error.errno in _FULL
    remedy = "free some space and try again" if full else "check the folder and its rights"
    problem = f"cannot write: {error.strerror or error}"
    return UnavailableError(problem, where=where, remedy=remedy)


@contextmanager
def replacing(path: Path, *, mode: int = 0o644, disk: Disk = _REAL_DISK) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` that takes its place when the block ends well.

    The bytes are synced before the rename and the folder after it, so after a power cut `path`
    holds either the old content or the new, whole. If the block raises, the temporary file is
    removed and `path` is as it was.

    Raises:
        UnavailableError: the disk is full or not writable.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise cannot_write(error, path) from error
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            disk.sync(file)
        disk.replace(part, path)
        disk.sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            disk.unlink(part)
        raise cannot_write(error, path) from error
    except BaseException:
        with suppress(OSError):
            disk.unlink(part)
        raise


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o644, disk: Disk = _REAL_DISK
) -> None:
    """Make `data` the content of `path`, whole or not at all, also across a power cut."""
    with replacing(path, mode=mode, disk=disk) as file:
        disk.write(file, data)


def confined(root: Path, name: str) -> Path:
    """The path of `name` below `root`.

    Args:
        root: the folder that must not be left.
        name: a relative POSIX path from an untrusted source.

    Raises:
        InputError: `name` is absolute, empty, has `..`, a NUL or a backslash, or leads through a
            symbolic link out of `root`.
    """
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or set(name) & {"\0", "\\"}:
        raise InputError(f"the path {name!r} would leave its folder", where=root)
    path = root / pure
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"the path {name!r} leads out of its folder by a link", where=root)
    return path
