"""How often the process began to load a release and did not live to say that it had."""

from __future__ import annotations

from pathlib import Path

import msgspec

from skerry.devices.files import Disk, write_atomically

__all__ = ["Starts"]

_LIMIT_BYTES = 4_096


class _Count(msgspec.Struct, frozen=True):
    release: str
    starts: int


class Starts:
    """A count in `starts.json`, there only while a release is being loaded.

    Args:
        folder: the store's.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._path, self._disk = folder / "starts.json", disk

    def begin(self, release: str) -> int:
        """The process is about to load `release`; how often it ended doing so before."""
        before = self._read()
        failed = before.starts if before is not None and before.release == release else 0
        data = msgspec.json.encode(_Count(release, failed + 1), order="deterministic")
        write_atomically(self._path, data, disk=self._disk)
        return failed

    def end(self) -> None:
        """The process lived."""
        self._disk.unlink(self._path)

    def _read(self) -> _Count | None:
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_LIMIT_BYTES), type=_Count)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
