"""Metadata in memory."""

from collections.abc import Iterable, Mapping

from skerry.devices.errors import InputError
from skerry.updater.repository.store import check_name


class MemoryMetadata:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        try:
            return self.files.get(check_name(name))
        except InputError:
            return None

    def write(self, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            self.files[check_name(name)] = bytes(data)

    def names(self, folder: str = "") -> list[str]:
        prefix = f"{check_name(folder)}/" if folder else ""
        return sorted(
            name
            for name in self.files
            if name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        )

    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.files.pop(check_name(name), None)
