"""`slots.json` and `journal.json`: read with suspicion, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, write_atomically
from skerry.updater.store.slots import Situation, Slots, Update, recovered

__all__ = ["Journal", "read_situation"]

_SLOTS, _JOURNAL = "slots.json", "journal.json"
_LIMIT_BYTES = 1 << 20

_T = TypeVar("_T")


class Journal:
    """Keeps a `Situation` in two files, slots before journal.

    Args:
        folder: where `slots.json` and `journal.json` lie.
        disk: the seam to the filesystem.

    Raises:
        InputError: one of the files is malformed.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._slots, self._journal = folder / _SLOTS, folder / _JOURNAL
        self._disk = disk
        self._now = read_situation(folder)
        self.write(recovered(self._now))

    @property
    def now(self) -> Situation:
        """What the files say."""
        return self._now

    def write(self, after: Situation) -> None:
        """Make `after` what the files say; a file that would not change is not touched."""
        before = self._now
        if after.slots != before.slots:
            self._replace(self._slots, after.slots)
            self._now = Situation(after.slots, before.update)
        if after.update is None and before.update is not None:
            self._disk.unlink(self._journal)
            self._disk.sync_folder(self._journal.parent)
        elif after.update is not None and after.update != before.update:
            self._replace(self._journal, after.update)
        self._now = after

    def _replace(self, path: Path, value: Slots | Update) -> None:
        text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"))
        write_atomically(path, text, disk=self._disk)


def read_situation(folder: Path) -> Situation:
    """What the files in `folder` say, as they lie there.

    Raises:
        InputError: one of them is malformed.
    """
    slots = _read(folder / _SLOTS, Slots) or Slots()
    return Situation(slots, _read(folder / _JOURNAL, Update))


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read: {error.strerror}", where=path) from error
    if len(data) > _LIMIT_BYTES:
        raise InputError(f"{len(data)} bytes are too many", where=path)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise InputError(
            f"malformed: {error}", where=path, remedy="remove it; the device fetches again"
        ) from error
