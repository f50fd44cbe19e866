"""One change of an operator's repository at a time, whichever processes make them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skerry.devices.errors import UnavailableError
from skerry.updater.repository.founding import read_places

__all__ = ["changing"]


@contextmanager
def changing(folder: Path, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the repository in `folder` while the block reads and changes it; waits for others.

    What the block goes by must be read in it. The lock ends with the process, however that ends.
    It is of a file that stays; a block within a block on the same folder waits for ever.

    Args:
        folder: an operator's repository.
        tell: told when there is somebody to wait for.

    Raises:
        InputError: `folder` is no repository.
        UnavailableError: it cannot be written, or its filesystem knows no locks.
    """
    read_places(folder)
    path = folder / "lock"
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(f"cannot open: {error.strerror}", where=path) from error
    try:
        _take(handle, path, tell or (lambda _: None))
        yield
    finally:
        os.close(handle)


def _take(handle: int, path: Path, tell: Callable[[str], None]) -> None:
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another process changes {path.parent}; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise UnavailableError(f"cannot be locked: {error.strerror}", where=path) from error
