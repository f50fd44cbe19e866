"""Where a repository's metadata lies: names to bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from skerry.devices.errors import InputError
from skerry.devices.files import Disk, RealDisk, confined, write_atomically
from skerry.updater.trust.client import make_folder

__all__ = ["FolderMetadata", "MetadataStore", "check_name"]

_NAME = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._%-]{0,127}/)?[A-Za-z0-9][A-Za-z0-9._%-]{0,127}")


def check_name(name: str) -> str:
    """`name`, if it may be stored: `file` or `folder/file`.

    Raises:
        InputError: it may not.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise InputError(f"{name[:80]!r} is not a name of metadata")
    return name


class MetadataStore(Protocol):
    """The seam to where metadata is kept. One writer at a time."""

    def read(self, name: str) -> bytes | None:
        """The bytes called `name`; None if there are none. A name of another form has none."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """Keep `files`, in the order given, each whole or not at all.

        Whoever reads meanwhile sees every file that comes before one that it sees.
        """

    def names(self, folder: str = "") -> list[str]:
        """The full names in `folder` (not in folders below it), sorted."""

    def remove(self, names: Iterable[str]) -> None:
        """Forget them; no error for one that is not here."""


class FolderMetadata:
    """`MetadataStore` in a folder.

    Args:
        root: the folder, made on the first write.
        disk: the seam through which files are written.
    """

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self._root, self._disk = root, disk or RealDisk()

    def read(self, name: str) -> bytes | None:
        try:
            return confined(self._root, check_name(name)).read_bytes()
        except (InputError, FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def write(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            path = confined(self._root, check_name(name))
            make_folder(path.parent, self._disk)
            write_atomically(path, data, disk=self._disk)

    def names(self, folder: str = "") -> list[str]:
        place = confined(self._root, check_name(folder)) if folder else self._root
        if not place.is_dir():
            return []
        prefix = f"{folder}/" if folder else ""
        return sorted(
            prefix + path.name
            for path in place.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self._disk.unlink(confined(self._root, check_name(name)))
