"""What a version is called: `stable` is answered by default, `candidate` on request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from skerry.devices.errors import InputError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.runtime.blobs import reading

__all__ = ["STABLE", "Labels", "newest", "version_of"]

STABLE = "stable"
_FILE_BYTES = 1 << 20
_NUMBERS = re.compile(r"(\d+)")


def newest(versions: Iterable[str]) -> str:
    """The last of `versions`, numbers in them counted as numbers: `1.10` comes after `1.9`."""

    def rank(version: str) -> list[tuple[int, int, str]]:
        parts = [part for part in _NUMBERS.split(version) if part]
        return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]

    return max(versions, key=rank)


def version_of(wanted: str | None, versions: Iterable[str], labels: Mapping[str, str]) -> str:
    """The version that a caller means by a version, a label, or nothing.

    Args:
        versions: those there are, at least one.
        labels: label to version. Without `stable` the newest version has that label.

    Raises:
        InputError: there is none.
    """
    known = tuple(versions)
    meant = wanted or STABLE
    if meant in known:
        return meant
    meant = labels.get(meant, newest(known) if meant == STABLE else meant)
    if meant in known:
        return meant
    raise InputError(
        f"no version or label {meant[:80]!r}",
        where="version",
        remedy=f"there are {', '.join(sorted({*known, *labels, STABLE}))}",
    )


class Labels:
    """Every model's labels, kept in one JSON file: `{"model": {"stable": "1"}}`.

    Raises:
        InputError: the file is malformed.
        UnavailableError: the disk does not let it be read.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self._path, self._disk = path, disk or RealDisk()
        self._labels = _read(path)

    def of(self, model: str) -> Mapping[str, str]:
        """Label to version."""
        return self._labels.get(model, {})

    def set(self, model: str, label: str, version: str | None) -> None:
        """Give `label` to a version; None takes it away.

        Raises:
            UnavailableError: it cannot be written; nothing has changed.
        """
        mine = {name: one for name, one in self.of(model).items() if name != label}
        if version is not None:
            mine[label] = version
        labels = {**self._labels, model: mine}
        write_atomically(
            self._path, msgspec.json.encode(labels, order="deterministic"), disk=self._disk
        )
        self._labels = labels


def _read(path: Path) -> dict[str, dict[str, str]]:
    with reading(path):
        if not path.is_file():
            return {}
        if path.stat().st_size > _FILE_BYTES:
            raise InputError(f"more than {_FILE_BYTES} bytes", where=path)
        text = path.read_bytes()
    try:
        return msgspec.json.decode(text, type=dict[str, dict[str, str]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"not labels: {error}", where=path, remedy='write {"model": {"stable": "1"}}'
        ) from error
