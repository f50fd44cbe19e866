"""`slots.json` and `journal.json`: read with suspicion, written whole or not at all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, write_atomically
from skerry.updater.store.slots import Situation, Slots, Update, check, recovered

__all__ = ["Journal", "read_situation"]

_SLOTS, _COPY, _JOURNAL = "slots.json", "slots.copy.json", "journal.json"
_LIMIT_BYTES = 1 << 20

_T = TypeVar("_T", Slots, Update)


class Journal:
    """Keeps a `Situation` in two files, slots before journal, and the slots in a second copy.

    A device must start whatever its flash did to a file: malformed slots are replaced by the copy,
    a malformed journal is dropped, and the update begins anew.

    Args:
        folder: where `slots.json` and `journal.json` lie.
        disk: the seam to the filesystem.

    Raises:
        UnavailableError: a file cannot be read or written.
    """

    def __init__(self, folder: Path, disk: Disk) -> None:
        self._folder, self._disk = folder, disk
        self._now = _salvaged(folder)
        self.write(recovered(self._now))

    @property
    def now(self) -> Situation:
        """What the files say."""
        return self._now

    def write(self, after: Situation) -> None:
        """Make `after` what the files say; a file that would not change is not touched."""
        before = self._now
        if after.slots != before.slots:
            self._replace(_SLOTS, after.slots)
            self._now = Situation(after.slots, before.update)
            self._replace(_COPY, after.slots)
        if after.update is None and before.update is not None:
            self._disk.unlink(self._folder / _JOURNAL)
            self._disk.sync_folder(self._folder)
        elif after.update is not None and after.update != before.update:
            self._replace(_JOURNAL, after.update)
        self._now = after

    def _replace(self, name: str, value: Slots | Update) -> None:
        text = msgspec.json.format(msgspec.json.encode(value, order="deterministic"))
        write_atomically(self._folder / name, text, disk=self._disk)


def read_situation(folder: Path) -> Situation:
    """What the files in `folder` say, as they lie there.

    Raises:
        InputError: one of them is malformed.
    """
    slots = _read(folder / _SLOTS, Slots) or Slots()
    return Situation(slots, _read(folder / _JOURNAL, Update))


def _salvaged(folder: Path) -> Situation:
    slots, update = Slots(), None
    for name in (_SLOTS, _COPY):
        with suppress(InputError):
            slots = _read(folder / name, Slots) or Slots()
            break
    with suppress(InputError):
        update = _read(folder / _JOURNAL, Update)
    return Situation(slots, update)


def _read(path: Path, kind: type[_T]) -> _T | None:
    value = _decoded(path, kind)
    if value is not None:
        check(value)
    return value


def _decoded(path: Path, kind: type[_T]) -> _T | None:
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"cannot read: {error.strerror}", where=path) from error
    if len(data) > _LIMIT_BYTES:
        raise InputError(f"more than {_LIMIT_BYTES} bytes", where=path)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"malformed: {error}", where=path) from error
