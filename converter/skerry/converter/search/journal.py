"""The journal of a search: what was decided and what came out, one line each, never changed.

A line is on the disk before anything follows from it. One that a kill cut short is dropped when the
journal is read again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from skerry.converter.search.budget import Merit
from skerry.devices.errors import InputError
from skerry.devices.files import cannot_write

__all__ = ["Entry", "Header", "Journal", "StepOutcome", "Unseen"]

_LARGEST_BYTES = 256 << 20


class Header(msgspec.Struct, frozen=True, tag="search"):
    """What the search is about; another search does not go on in its folder.

    Attributes:
        version: of the journal's form.
        recipe: fingerprint of the recipe, its space included.
        budgets: as they were given.
        seed: of every proposal.
        latency: how latency is judged.
        contents: fingerprints of what the recipe names: its files, and the model and data as read.
    """

    recipe: str
    budgets: tuple[str, ...]
    seed: int
    latency: str
    contents: dict[str, str] = {}
    version: int = 3


class StepOutcome(msgspec.Struct, frozen=True):
    """What a step did to a candidate: seconds it took, points and parameters behind it."""

    kind: str
    seconds: float
    metric: float
    parameters: int


class Unseen(msgspec.Struct, frozen=True):
    """What a candidate reaches on rows that played no part in choosing it.

    Attributes:
        rows: how many there are.
        metric: points; drop: points below the source on the same rows.
    """

    rows: int
    metric: float
    drop: float


class Entry(msgspec.Struct, frozen=True, tag="trial"):
    """One candidate at one rung.

    Attributes:
        trial: its number.
        rung: how far it went; the last is the whole recipe.
        values: of the space's keys.
        merit: what it came to, or None where it failed; its points are those of the rows that
            candidates are chosen by.
        problem: why it failed.
        quantized_metric: points of the model before the artifact was emitted.
        steps: what each step did.
        seconds: it took.
        unseen: its points on the other rows, at the last rung.
        sha256: of the artifact, at the last rung.
        measured_ms, measured_ratio: latency by the clock, at the last rung.
    """

    trial: int
    rung: int
    values: dict[str, Any]
    merit: Merit | None
    problem: str = ""
    quantized_metric: float = 0.0
    steps: tuple[StepOutcome, ...] = ()
    seconds: float = 0.0
    unseen: Unseen | None = None
    sha256: str = ""
    measured_ms: float = 0.0
    measured_ratio: float = 0.0


class Journal:
    """The file of one search.

    Args:
        path: of the file; begun with the header where there is none.
        header: what the search is about.

    Raises:
        InputError: the file belongs to another search, or is no journal.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self.entries: dict[tuple[int, int], Entry] = {}
        if path.exists():
            self._resume(header)
        else:
            self._append(header)

    def record(self, entry: Entry) -> None:
        """Keep an entry for good.

        Raises:
            UnavailableError: the disk is full or not writable.
        """
        self._append(entry)
        self.entries[entry.trial, entry.rung] = entry

    def _append(self, line: Header | Entry) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(line, order="deterministic") + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(error, self._path) from error

    def _resume(self, header: Header) -> None:
        if self._path.stat().st_size > _LARGEST_BYTES:
            raise InputError(f"more than {_LARGEST_BYTES} bytes", where=self._path)
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        lines = whole.splitlines()
        if not lines:
            self._append(header)
            return
        try:
            found = msgspec.json.decode(lines[0], type=Header)
            for line in lines[1:]:
                entry = msgspec.json.decode(line, type=Entry)
                self.entries[entry.trial, entry.rung] = entry
        except msgspec.DecodeError as error:
            raise InputError(
                f"is no journal of a search: {error}", where=self._path, remedy="give another --out"
            ) from error
        _compare(found, header, self._path)


def _compare(found: Header, header: Header, path: Path) -> None:
    """Raise InputError where a journal was begun with something else."""
    if found.version != header.version:
        raise InputError(
            "was begun by another version of skerry, which noted down other things",
            where=path,
            remedy="give another --out",
        )
    for name in ("recipe", "budgets", "seed", "latency"):
        if getattr(found, name) != getattr(header, name):
            raise InputError(
                f"belongs to a search with another {name}",
                where=path,
                remedy="give another --out, or the recipe and options that it was begun with",
            )
    for name in sorted(found.contents.keys() | header.contents.keys()):
        if found.contents.get(name) != header.contents.get(name):
            raise InputError(
                f"{name} has changed since the search began",
                where=path,
                remedy="give another --out, or what it was begun with",
            )
