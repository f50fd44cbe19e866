"""One change of an operator's repository at a time, whichever processes make them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skerry.devices.lock import exclusive
from skerry.updater.repository.founding import read_places

__all__ = ["changing"]


@contextmanager
def changing(folder: Path, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the repository in `folder` while the block reads and changes it; waits for others.

    What the block goes by must be read in it.

    Args:
        folder: an operator's repository.
        tell: told when there is somebody to wait for.

    Raises:
        InputError: `folder` is no repository.
        UnavailableError: it cannot be written, or its filesystem knows no locks.
    """
    read_places(folder)

    def wait() -> None:
        if tell is not None:
            tell(f"another process changes {folder}; waiting for it")

    with exclusive(folder / "lock", wait=wait):
        yield
