"""Scoring files in batches, so that whatever stops it, the same call goes on where it was.

Every output is an .npz, written whole or not at all, whose zip comment says what made it: the
bundle, the artifact, the batch and the input's digest. One that says the same as is asked now is
done already. A long file is scored in parts, kept the same way in `OUT.npz.parts` until all are
there. The same inputs give the same bytes.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.digest import digest_file
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, RealDisk, replacing
from skerry.runtime.engine.base import Arrays
from skerry.runtime.runtime import Runtime

__all__ = ["Made", "ScoreLimits", "Scorer", "inputs_below", "read_inputs"]

_SUFFIXES = (".npy", ".npz")


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
        """Whether `out` holds what `score` would write."""
        return _made(out) == self._made_from(source)

    def score(self, source: Path, out: Path, advance: Callable[[int], None]) -> int:
        """Score every row of the file `source`, and write the outputs to `out`.

        Args:
            advance: told how many rows more are done, also those found done.

        Returns:
            Rows scored now; fewer than the file has where parts of it were done.

        Raises:
            InputError: the file does not hold the model's inputs.
            SignatureMismatch: they do not fit the signature.
            UnavailableError: the engine failed, or the disk is full.
        """
        arrays = read_inputs(source, [spec.name for spec in self._info.inputs])
        rows, made = len(next(iter(arrays.values()))), self._made_from(source)
        step = max(1, self._limits.part_rows // self._limits.batch) * self._limits.batch
        if rows <= step:
            self._write(out, self._answers(arrays, 0, rows, advance), made)
            return rows
        folder, scored = out.with_name(f"{out.name}.parts"), 0
        folder.mkdir(parents=True, exist_ok=True)
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
        digest = str(digest_file(source).digest)
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
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, disk=self._disk) as file:
            _write_npz(file, arrays, msgspec.json.encode(made))


def read_inputs(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz that are inputs, or the one of an .npy where there is one input.

    What else an .npz holds is left alone.

    Raises:
        InputError: it is no such file, an input is missing, or their lengths differ or are 0.
    """
    try:
        arrays = dict(_read(path, names))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, KeyError) as error:
        raise InputError(f"not a file of plain arrays: {error}", where=path) from error
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise InputError(f"the arrays need one length above 0: {lengths}", where=path)
    return arrays


def inputs_below(folder: Path) -> list[Path]:
    """Every .npz and .npy below `folder`, sorted; hidden ones and unfinished parts are not."""
    found = []
    for path in folder.rglob("*"):
        own = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or part.endswith(".parts") for part in own)
        if path.suffix in _SUFFIXES and not hidden and path.is_file():
            found.append(path)
    return sorted(found)


def _read(path: Path, names: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    if path.suffix == ".npy":
        if len(names) != 1:
            raise InputError(f"is one array of {len(names)}", where=path, remedy="give an .npz")
        yield names[0], np.atleast_1d(np.load(path, allow_pickle=False))
        return
    with np.load(path, allow_pickle=False) as archive:
        for name in names:
            if name not in archive.files:
                have = ", ".join(archive.files) or "nothing"
                raise InputError(f"no array {name!r}", where=path, remedy=f"it has {have}")
            yield name, np.atleast_1d(archive[name])


def _joined(paths: list[Path]) -> dict[str, NDArray[Any]]:
    parts = []
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
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
        with zipfile.ZipFile(path) as archive:
            return msgspec.json.decode(archive.comment, type=Made)
    except (OSError, zipfile.BadZipFile, msgspec.DecodeError, UnicodeDecodeError):
        return None
