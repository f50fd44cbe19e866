"""Work that need not be done again: results by the content of all that went into them.

A key covers source, data, configuration, the versions of the libraries and this package's own code.
Entries lie in the output folder; those that the last conversion did not use are removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from skerry.converter.data.base import Dataset
from skerry.converter.documents import library_versions
from skerry.converter.userfile import imported_files
from skerry.devices.digest import digest_file

__all__ = [
    "Cache",
    "code_fingerprint",
    "dataset_fingerprint",
    "file_fingerprints",
    "fingerprint",
    "imported_fingerprints",
    "machine",
    "module_fingerprint",
]

_KEY_HEX = 32


class Cache:
    """Entries, each a folder under a key.

    Args:
        folder: where they lie; made when the first is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def entry(self, parts: object, make: Callable[[Path], None]) -> tuple[Path, bool]:
        """The folder of an entry, and whether it was there already.

        Args:
            parts: everything the content depends on; values that msgspec can encode.
            make: fills an empty folder with the content.
        """
        key = fingerprint(parts)
        self._used.add(key)
        target = self._folder / key
        if target.is_dir():
            return target, True
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._only_maker(key):
            if target.is_dir():
                return target, True
            part = Path(tempfile.mkdtemp(dir=self._folder, prefix=".part-"))
            try:
                make(part)
                part.rename(target)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            shutil.rmtree(self.unfinished(parts), ignore_errors=True)
        return target, False

    @contextmanager
    def _only_maker(self, key: str) -> Iterator[None]:
        """Wait for another process that makes this entry, so that none is made twice."""
        path = self._folder / f"{key}.lock"
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
            path.unlink(missing_ok=True)  # the entry is there, so whoever comes next needs none

    def unfinished(self, parts: object) -> Path:
        """A folder for the state of an entry that is still being made; it outlasts interruptions,
        and is gone once the entry is there."""
        return self._folder / f"{fingerprint(parts)}.unfinished"

    def arrays(
        self, parts: object, make: Callable[[], Mapping[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """Arrays by name; made, and kept, unless they are there."""

        def write(folder: Path) -> None:
            contiguous = {name: np.ascontiguousarray(one) for name, one in make().items()}
            save_file(contiguous, folder / "arrays.safetensors")

        folder, _ = self.entry(parts, write)
        return dict(load_file(folder / "arrays.safetensors"))

    def forget_unused(self) -> None:
        """Remove what this conversion did not ask for, and the locks of makers that are gone.

        For who holds the output folder alone: no other process may be making an entry.
        """
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.is_file():
                with suppress(OSError):
                    path.unlink()
            elif path.name not in self._used:
                shutil.rmtree(path, ignore_errors=True)


def fingerprint(parts: object) -> str:
    """A short digest of values."""
    encoded = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:_KEY_HEX]


@cache
def code_fingerprint() -> str:
    """Of this package's code and of the libraries it works with."""
    root = Path(str(files("skerry.converter")))
    own = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.py"))}
    return fingerprint([file_fingerprints(own), library_versions()])


def file_fingerprints(paths: Mapping[str, Path]) -> dict[str, str]:
    """The digest of each file, and of the Python files that lie beside one that is Python."""
    found = {name: digest_file(path).digest.hex for name, path in paths.items()}
    for path in paths.values():
        if path.suffix == ".py":
            beside = {f"{one.name} beside": one for one in path.parent.glob("*.py")}
            found |= {name: digest_file(one).digest.hex for name, one in beside.items()}
    return found


def imported_fingerprints(known: Iterable[Path]) -> dict[str, str]:
    """The digest of each file of the user's own code that was imported, by module.

    Args:
        known: files in a key already, as by `file_fingerprints`; what lies beside a Python file
            among them is left out.
    """
    folders = {path.parent for path in known if path.suffix == ".py"}
    return {
        f"{name} imported": digest_file(path).digest.hex
        for name, path in imported_files().items()
        if not (path.suffix == ".py" and path.parent in folders)
    }


def module_fingerprint(model: nn.Module) -> str:
    """Of every weight and buffer; a factory may take them from files that nobody names."""
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        array = np.ascontiguousarray(tensor.numpy())
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(array.data)
    return state.hexdigest()


def dataset_fingerprint(data: Dataset | None) -> str:
    """Of every row and label."""
    if data is None:
        return ""
    state = hashlib.sha256()
    for name, array in [*data.inputs.items(), ("label", data.labels)]:
        state.update(f"{name} {array.dtype} {array.shape}".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def machine() -> list[str]:
    """What a latency depends on besides the file."""
    return [platform.node(), platform.machine(), platform.processor(), str(os.cpu_count())]
