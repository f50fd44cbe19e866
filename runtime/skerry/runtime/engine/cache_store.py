"""Remembered answers on the disk, in SQLite: the tier that outlives a restart.

One file serves every artifact: the key is the SHA-256 of the artifact's digest, the engine's name
and version, and every input's name, dtype, shape and bytes. A row carries a checksum of its own. A
file that cannot be used is done without: it is a cache.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays

__all__ = ["CacheStore", "key_of"]

_VERSION = 1
_SUM_BYTES = 16
_ROW_BYTES = 120
_TOUCHED = 256
_BUSY_S = 0.05
_KEEP = 0.9

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[TensorSpec, bytes]]).decode


def key_of(artifact: str, engine: str, inputs: Arrays) -> bytes:
    """What tells a call of one artifact in one engine from every other, in 32 bytes."""
    state = hashlib.sha256()
    for text in (artifact, engine):
        _add(state, text.encode())
    for name, array in sorted(inputs.items()):
        _add(state, f"{name}|{array.dtype.str}|{array.shape}".encode())
        _add(state, array.tobytes())
    return state.digest()


class CacheStore:
    """Answers by key in the file `path`, the least recently used going first. Thread-safe.

    Args:
        most: bytes of keys, answers and bookkeeping together.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._most = path, most
        self._lock = Lock()
        self._touched: dict[bytes, int] = {}
        self._database: sqlite3.Connection | None = None
        self.bytes = 0
        self.problem = ""
        self._open()

    def get(self, key: bytes) -> dict[str, NDArray[Any]] | None:
        """The answer under `key`, the caller's own; None where there is none or it is damaged."""
        with self._lock:
            row = self._do("select value from answers where key = ?", key)
            if not row:
                return None
            found = _unpacked(key, row[0][0])
            if found is None:
                self._do("delete from answers where key = ?", key)
                return None
            self._touched[key] = _now()
            if len(self._touched) >= _TOUCHED:
                self._touch()
            return found

    def put(self, key: bytes, answer: Arrays) -> None:
        """Keep `answer`, unless it is more than an eighth of all there is room for."""
        value = _packed(key, answer)
        size = len(value) + _ROW_BYTES
        if size > self._most // 8:
            return
        with self._lock:
            self._do("insert or replace into answers values (?, ?, ?, ?)", key, value, size, _now())
            self.bytes += size
            if self.bytes > self._most:
                self._make_room()

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._touch()
            self._fail("closed")

    def _open(self) -> None:
        for again in (False, True):
            self.problem = ""
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):
                    os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                self._database = sqlite3.connect(
                    self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
                )
            except (OSError, sqlite3.Error) as error:
                self._fail(str(error))
                return
            self._do("pragma journal_mode = wal")
            self._do("pragma synchronous = off")
            version = self._do("pragma user_version")
            if version and version[0][0] in (0, _VERSION):
                self._do(
                    "create table if not exists answers "
                    "(key blob primary key, value blob, bytes int, used int) without rowid"
                )
                self._do("create index if not exists by_use on answers (used)")
                self._do(f"pragma user_version = {_VERSION}")
            if (total := self._do("select coalesce(sum(bytes), 0) from answers")) and (
                not self.problem
            ):
                self.bytes = int(total[0][0])
                return
            self._fail(self.problem or "of another version")
            if not again:  # a damaged one is begun anew, once
                for name in (self._path.name, f"{self._path.name}-wal", f"{self._path.name}-shm"):
                    with suppress(OSError):
                        self._path.with_name(name).unlink()

    def _do(self, sql: str, *values: object) -> list[Any]:
        """Run one statement. The tier is out of use after one that fails, but for a busy file."""
        if self._database is None:
            return []
        try:
            return self._database.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_BUSY:
                self._fail(str(error))
            return []

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._touched.clear()
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.close()

    def _touch(self) -> None:
        for key, used in self._touched.items():
            self._do("update answers set used = ? where key = ?", used, key)
        self._touched.clear()

    def _make_room(self) -> None:
        self._touch()
        total = self._do("select coalesce(sum(bytes), 0) from answers")
        self.bytes = int(total[0][0]) if total else 0
        while self.bytes > self._most * _KEEP:
            oldest = self._do("select key, bytes from answers order by used limit 64")
            if not oldest:
                return
            for key, size in oldest:
                self._do("delete from answers where key = ?", key)
                self.bytes -= size
                if self.bytes <= self._most * _KEEP:
                    break


def _add(state: Any, data: bytes) -> None:
    """Hash `data` so that no two sequences of parts are the same bytes."""
    state.update(len(data).to_bytes(8, "little"))
    state.update(data)


def _packed(key: bytes, answer: Arrays) -> bytes:
    parts = [
        (TensorSpec(name, array.dtype.str, array.shape), array.tobytes())
        for name, array in answer.items()
    ]
    data = _encode(parts)
    return hashlib.blake2b(data, digest_size=_SUM_BYTES, key=key).digest() + data


def _unpacked(key: bytes, value: bytes) -> dict[str, NDArray[Any]] | None:
    data = value[_SUM_BYTES:]
    if hashlib.blake2b(data, digest_size=_SUM_BYTES, key=key).digest() != value[:_SUM_BYTES]:
        return None
    return {
        spec.name: np.frombuffer(raw, np.dtype(spec.dtype), math.prod(spec.shape))
        .reshape(spec.shape)
        .copy()
        for spec, raw in _decode(data)
    }


def _now() -> int:
    return time.time_ns()
