"""Scoring files in batches, so that whatever stops it, the same call goes on where it was.

Every output is an .npz, written whole or not at all, whose zip comment says what made it: the
bundle, the artifact, the batch and the input's digest. One that says the same as is asked now is
done already. A long file is scored in parts, kept the same way in `OUT.npz.parts` until all are
there. The same inputs give the same bytes.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.digest import digest_rest
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.runtime.engine.base import Arrays
from skerry.runtime.runtime import Runtime
from skerry.runtime.scorable import parts_of, read_inputs, reading

__all__ = ["Made", "OutputError", "ScoreLimits", "Scorer", "make_folder"]


class OutputError(UnavailableError):
    """An output cannot be written, and so most likely the next one neither."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreLimits:
    """How scoring goes on.

    Attributes:
        batch: rows of one call.
        part_rows: rows after which a part is written, and scoring can go on from there.
    """

    batch: int = 64
    part_rows: int = 16384


class Made(msgspec.Struct, frozen=True):
    """What an output was made from. `start` is the part's first row; -1 for a whole file."""

    manifest: str
    artifact: str
    engine: str
    batch: int
    input: str
    start: int = -1


class Scorer:
    """Scores files with the release that is active in `runtime`.

    Raises:
        UnavailableError: none is.
    """

    def __init__(
        self, runtime: Runtime, limits: ScoreLimits | None = None, disk: Disk | None = None
    ) -> None:
        info = runtime.info()
        if info is None:
            raise UnavailableError("no model is active", remedy="activate a bundle first")
        self._runtime, self._info = runtime, info
        self._limits, self._disk = limits or ScoreLimits(), disk or RealDisk()

    def is_done(self, source: Path, out: Path) -> bool:
        """Whether `out` holds what `score` would write.

        Raises:
            InputError: there is an output, and `source` cannot be read.
        """
        made = _made(out)
        return made is not None and made == self._made_from(source)

    def score(self, source: Path, out: Path, advance: Callable[[int], None]) -> int:
        """Score every row of the file `source`, and write the outputs to `out`.

        Args:
            advance: told how many rows more are done, also those found done.

        Returns:
            Rows scored now; fewer than the file has where parts of it, or all, were done.

        Raises:
            InputError: the file does not hold the model's inputs, or `out` is a folder.
            SignatureMismatch: they do not fit the signature.
            OutputError: the disk is full, or what is there may not be written.
            UnavailableError: the engine failed.
        """
        made = self._made_from(source)
        arrays = read_inputs(source, [spec.name for spec in self._info.inputs])
        rows = len(next(iter(arrays.values())))
        _make_room(out)
        if _made(out) == made:
            advance(rows)
            return 0
        step = max(1, self._limits.part_rows // self._limits.batch) * self._limits.batch
        if rows <= step:
            self._write(out, self._answers(arrays, 0, rows, advance), made)
            return rows
        folder, scored = parts_of(out), 0
        make_folder(folder)
        paths = []
        for start in range(0, rows, step):
            path, stop = folder / f"{start:012d}.npz", min(start + step, rows)
            wanted = msgspec.structs.replace(made, start=start)
            if _made(path) == wanted:
                advance(stop - start)
            else:
                self._write(path, self._answers(arrays, start, stop, advance), wanted)
                scored += stop - start
            paths.append(path)
        self._write(out, _joined(paths), made)
        shutil.rmtree(folder, ignore_errors=True)
        return scored

    def _made_from(self, source: Path) -> Made:
        info = self._info
        with reading(source) as file:
            digest = str(digest_rest(file).digest)
        return Made(info.manifest, info.artifact, info.engine, self._limits.batch, digest)

    def _answers(
        self, arrays: Arrays, start: int, stop: int, advance: Callable[[int], None]
    ) -> dict[str, NDArray[Any]]:
        parts = []
        for first in range(start, stop, self._limits.batch):
            last = min(first + self._limits.batch, stop)
            parts.append(
                self._runtime.predict({name: array[first:last] for name, array in arrays.items()})
            )
            advance(last - first)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _write(self, path: Path, arrays: Arrays, made: Made) -> None:
        try:
            with replacing(path, disk=self._disk) as file:
                _write_npz(file, arrays, msgspec.json.encode(made))
        except UnavailableError as error:
            raise OutputError(error.problem, where=error.where, remedy=error.remedy) from error


def make_folder(path: Path) -> None:
    """Make a folder for outputs, and those above it; one that is there is as good.

    Raises:
        InputError: a file lies there, or above.
        OutputError: it may not be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            "a file lies where a folder is needed", where=path, remedy="give another --out"
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _make_room(out: Path) -> None:
    """Make the folder of `out`, and see that a file can take its place."""
    make_folder(out.parent)
    try:
        taken = out.is_dir()
    except OSError as error:
        raise _unwritable(out, error) from error
    if taken:
        raise InputError("is a folder", where=out, remedy="give the name of a file")


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write: {error.strerror}", where=path, remedy="check the folder and its rights"
    )


def _joined(paths: list[Path]) -> dict[str, NDArray[Any]]:
    parts = []
    for path in paths:
        with reading(path) as file, np.load(file, allow_pickle=False) as archive:
            parts.append({name: archive[name] for name in archive.files})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _write_npz(file: BinaryIO, arrays: Arrays, comment: bytes) -> None:
    """As `np.savez`, without the time, and with a comment."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = comment
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _made(path: Path) -> Made | None:
    """What an output says it was made from; None where it is not there, or not one of ours."""
    try:
        # Opened first: a ZipFile that finds no file would lose a Ctrl-C in its `__del__`.
        with reading(path) as file, zipfile.ZipFile(file) as archive:
            return msgspec.json.decode(archive.comment, type=Made)
    except InputError:
        return None
