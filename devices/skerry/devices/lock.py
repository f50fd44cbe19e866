"""One process to a home."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skerry.devices.errors import UnavailableError

__all__ = ["exclusive", "is_held"]

_PID_BYTES = 20


@contextmanager
def exclusive(
    path: Path, who: str = "agent", wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock file `path` while the block runs. It ends with the process, however that ends.

    Args:
        who: what holds it, for people.
        wait: told if another process holds it; it is waited for then, instead of refusing. A
            block within a block waits for ever.

    Raises:
        UnavailableError: another process holds it, or it cannot be made or locked.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise UnavailableError(f"cannot open: {error.strerror}", where=path) from error
    try:
        _take(handle, path, who, wait)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`."""
    try:
        with exclusive(path):
            return False
    except UnavailableError as error:
        return isinstance(error.__cause__, BlockingIOError)


def _take(handle: int, path: Path, who: str, wait: Callable[[], None] | None) -> None:
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if wait is None:
                raise UnavailableError(
                    f"another {who} runs in this home{_holder(handle)}",
                    where=path,
                    remedy="stop it first",
                ) from error
            wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise UnavailableError(f"cannot be locked: {error.strerror}", where=path) from error
    with suppress(OSError):  # the note is for people; a full disk keeps nobody from the lock
        os.ftruncate(handle, 0)
        os.pwrite(handle, b"%d\n" % os.getpid(), 0)


def _holder(handle: int) -> str:
    """Which process says that it holds the lock, for people."""
    said = os.pread(handle, _PID_BYTES, 0).strip()
    return f", process {int(said)}" if said.isdigit() else ""
