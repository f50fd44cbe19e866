"""The output folder: one writer at a time, unfinished pieces apart, finished ones put in together.

Whatever is not finished lies in the folder itself, under a name of its own, since what is around it
may be on another disk or not writable.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, RealDisk, cannot_write

__all__ = ["RESULT", "only_writer", "publish", "staging"]

RESULT = "result.json"
_LOCK, _READY, _STAGING = ".lock", ".ready", ".staging-"
_ATTEMPTS = 16  # at a lock that its last owner removes meanwhile
_REAL_DISK = RealDisk()


@contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Hold `out` for this process until the block ends; made if it is not there.

    The operating system lets go of it with the process, however that ends. What a killed one left
    unfinished is removed first, and what it had finished is put in place. A folder that was made
    here and stayed empty is removed.

    Raises:
        InputError: `out` is a file.
        UnavailableError: another process writes there, or the disk is full or not writable.
    """
    try:
        is_new = not out.exists()
        if not is_new and not out.is_dir():
            raise InputError("is a file", where=out, remedy="name a folder with --out")
        lock = _locked(out)
    except OSError as error:
        raise cannot_write(error, out) from error
    try:
        _repair(out)
        yield
    finally:
        with suppress(OSError):
            (out / _LOCK).unlink()
        lock.close()
        if is_new:
            with suppress(OSError):
                out.rmdir()


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """An empty folder in `out`, gone when the block ends. For who holds `out` alone.

    Raises:
        UnavailableError: here or in the block the disk was full or not writable.
    """
    try:
        folder = Path(tempfile.mkdtemp(dir=out, prefix=_STAGING))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise cannot_write(error, out) from error


def publish(ready: Path, out: Path, disk: Disk = _REAL_DISK) -> None:
    """Put every piece of a finished folder where an older one may be: all of them, or none.

    The folder gets its name in `out` in one step; from there on the next writer completes what a
    kill cuts short. `RESULT` goes first and comes last: while it is missing, the pieces in `out`
    may be of two conversions.

    Args:
        ready: in a `staging` folder of `out`; `RESULT` is one of its pieces.

    Raises:
        OSError: something could not be moved, and `out` is as it was.
    """
    pieces = _pieces(ready)
    pending, old = out / _READY, ready.with_name("old")
    old.mkdir()
    try:
        disk.replace(ready, pending)
        disk.sync_folder(out)
        _exchange(pending, old, out, disk)
    except BaseException:
        if pending.exists():
            _undo(pieces, pending, old, out, disk)
            disk.replace(pending, ready)
        raise


def _pieces(folder: Path) -> list[str]:
    """What is in a folder, `RESULT` last."""
    names = (path.name for path in folder.iterdir())
    return sorted(names, key=lambda name: (name == RESULT, name))


def _exchange(pending: Path, old: Path, out: Path, disk: Disk) -> None:
    """Move every piece into `out`, and what was there into `old`; a second call goes on."""
    pieces = _pieces(pending)
    if RESULT in pieces and (out / RESULT).exists():
        disk.replace(out / RESULT, old / RESULT)
    for name in pieces:
        if (out / name).exists():
            disk.replace(out / name, old / name)
        disk.replace(pending / name, out / name)
    disk.sync_folder(out)
    pending.rmdir()


def _undo(pieces: list[str], pending: Path, old: Path, out: Path, disk: Disk) -> None:
    """Move every piece back that is no longer in `pending`, and the old ones to their places."""
    for name in pieces:
        if not (pending / name).exists():
            disk.replace(out / name, pending / name)
        if (old / name).exists():
            disk.replace(old / name, out / name)


def _locked(out: Path) -> BinaryIO:
    """The lock file of `out`, held."""
    path = out / _LOCK
    for _ in range(_ATTEMPTS):
        out.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # its last owner removed it, or the folder
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                    return lock
            except BlockingIOError:
                lock.close()
                break
            except BaseException:
                lock.close()
                raise
            lock.close()
    raise UnavailableError(
        "another conversion is writing here",
        where=out,
        remedy="wait until it has ended, or name another folder with --out",
    )


def _repair(out: Path) -> None:
    """Remove what a killed writer left unfinished, and complete what it was putting in place."""
    try:
        for stale in out.glob(f"{_STAGING}*"):
            shutil.rmtree(stale, ignore_errors=True)
        if (out / _READY).is_dir():
            with staging(out) as old:
                _exchange(out / _READY, old, out, _REAL_DISK)
    except OSError as error:
        raise cannot_write(error, out) from error
