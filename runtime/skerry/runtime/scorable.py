"""The files that can be scored: which there are, where each is scored to, and what it holds.

Nothing is written here. A file may come from anywhere: what its headers claim is held against its
length before memory is taken, and it brings up no error but InputError.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import InputError, SkerryError

__all__ = ["inputs_below", "outputs_of", "parts_of", "read_inputs", "reading"]

_SUFFIXES = (".npy", ".npz")
_HEAD_BYTES = 16 << 10
"""Read of an .npy to know its header, of which numpy takes 10 000 characters."""
_EXPANDS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
"""How many bytes one of a zip member can become at most (zlib.net/zlib_tech.html)."""


def outputs_of(source: Path, out: Path) -> dict[Path, Path]:
    """Where each input is scored to: the file `source` to `out`, or every one below the folder
    `source` to an .npz at the same place below `out`. Nothing is written.

    Raises:
        InputError: there is no input; two would share an output; or an output, or what is kept
            beside it until it is whole, would take the place of an input, links resolved.
    """
    if not _is_folder(source):
        pairs = {source: out}
    elif _real(out).is_relative_to(_real(source)):
        raise InputError("lies in the folder of inputs", where=out, remedy="give another --out")
    else:
        found = inputs_below(source)
        pairs = {path: (out / path.relative_to(source)).with_suffix(".npz") for path in found}
    if not pairs:
        raise InputError("no .npz or .npy in this folder", where=source)
    inputs = {_real(path): path for path in pairs}
    holding = {folder: path for real, path in inputs.items() for folder in real.parents}
    taken: dict[Path, Path] = {}
    for path, target in pairs.items():
        lost = inputs.get(_real(target)) or holding.get(_real(parts_of(target)))
        if lost is not None:
            problem = f"would take the place of the input {lost}"
            raise InputError(problem, where=target, remedy="give another --out")
        other = taken.setdefault(_real(target), path)
        if other != path:
            problem = f"{other} and {path} would both be scored to it"
            raise InputError(problem, where=target, remedy="rename one of them")
    return pairs


def parts_of(out: Path) -> Path:
    """The folder that keeps the parts of `out` until it is whole."""
    return out.parent / f"{out.name}.parts"


def read_inputs(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz that are inputs, or the one of an .npy where there is one input.

    What else an .npz holds is left alone.

    Raises:
        InputError: it is no such file, an input is missing, or their lengths differ or are 0.
    """
    with reading(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        arrays = dict(_read(path, file, size, names))
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InputError(f"the arrays need one length above 0: {lengths}", where=path)
    return arrays


def inputs_below(folder: Path) -> list[Path]:
    """Every .npz and .npy below `folder`, sorted; hidden ones and unfinished parts are not.

    Raises:
        InputError: a folder cannot be read.
    """
    found: list[Path] = []
    for here, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = filter(_is_shown, folders)
        found += [Path(here, name) for name in filter(_is_shown, names)]
    return sorted(path for path in found if path.suffix in _SUFFIXES)


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file from anywhere, to be read in the block.

    Raises:
        InputError: whatever reading it brings up. Of damaged bytes zipfile and numpy raise errors
            of a dozen kinds, and promise none.
    """
    try:
        if path.exists() and not path.is_file():  # a FIFO would be waited for
            raise InputError("is not a file", where=path)
        with path.open("rb") as file:
            yield file
    except SkerryError:
        raise
    except OSError as error:
        _unreadable(error, path)
    except Exception as error:
        problem = f"not a file of plain arrays: {str(error) or type(error).__name__}"
        raise InputError(problem, where=path, remedy="remove it or make it again") from error


def _is_shown(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".parts")


def _is_folder(path: Path) -> bool:
    """Where that cannot be told it is none: opening it says why."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _real(path: Path) -> Path:
    """As `Path.resolve`, which fails on a link to itself."""
    return Path(os.path.realpath(path))


def _unreadable(error: OSError, path: Path | None = None) -> NoReturn:
    raise InputError(
        f"cannot be read: {error.strerror or error}",
        where=path or error.filename,
        remedy="check the path and its rights",
    ) from error


def _read(
    path: Path, file: BinaryIO, size: int, names: list[str]
) -> Iterator[tuple[str, NDArray[Any]]]:
    if path.suffix == ".npy":
        if len(names) != 1:
            raise InputError(f"is one array of {len(names)}", where=path, remedy="give an .npz")
        yield names[0], np.atleast_1d(_array(file, size))
        return
    with zipfile.ZipFile(file) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        for name in names:
            if name not in members:
                have = ", ".join(members) or "nothing"
                raise InputError(f"no array {name!r}", where=path, remedy=f"it has {have}")
            info = members[name]
            if info.compress_type not in _EXPANDS:
                raise ValueError(f"{name} is compressed as numpy never does")
            most = min(info.compress_size, size) * _EXPANDS[info.compress_type]
            with archive.open(info) as member:
                yield name, np.atleast_1d(_array(member, min(info.file_size, most)))


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of an .npy of at most `size` bytes. Its header is believed up to that."""
    head = io.BytesIO(file.read(_HEAD_BYTES))
    version = np.lib.format.read_magic(head)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(head)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(head)
    else:
        raise ValueError(f"version {version} of the format")
    claimed, held = math.prod(shape) * max(1, dtype.itemsize), size - head.tell()
    if min(shape, default=0) < 0 or claimed > held:
        raise ValueError(f"{list(shape)} {dtype} would be {claimed} bytes, there are {held}")
    file.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
