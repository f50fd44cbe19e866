"""A prediction cache around an engine, that stays out of the way where it does not pay.

It belongs to one loaded artifact and dies with it, so no answer can cross models or versions. The
key is every input's name, dtype, shape and bytes: the bytes themselves where they are few, else
their SHA-256, which an adversary cannot make collide. Behind it there may be a file that outlives a
restart. Each of the two is judged by itself, and rests where it costs more than it saves.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays, Engine
from skerry.runtime.engine.cache_store import CacheStore, key_of
from skerry.runtime.engine.paying import Judge

__all__ = ["CacheLimits", "CacheStats", "CachingEngine"]

_Key = tuple[object, ...]
_PLAIN_BYTES = 256
_ENTRY_BYTES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """What a cache may take, and when it gives up.

    Attributes:
        bytes: keys, outputs and bookkeeping together; the least recently used go first.
        window_calls: after so many look-ups it is judged whether they paid.
        rest_calls: for so many calls a cache that did not pay is not asked, then tried again.
        store: a file for answers that outlive a restart, shared by every artifact; or None.
        store_bytes: the same of that file; the least recently used go first.
    """

    bytes: int = 16 << 20
    window_calls: int = 512
    rest_calls: int = 16384
    store: Path | None = None
    store_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Since the engine was opened: look-ups and hits in memory, what is held there, and whether it
    is in use; and the same of the file, all zero without one."""

    lookups: int
    hits: int
    entries: int
    bytes: int
    in_use: bool
    store_lookups: int = 0
    store_hits: int = 0
    store_bytes: int = 0
    store_in_use: bool = False


class CachingEngine:
    """`Engine` that remembers the answers of another.

    Args:
        artifact: the digest of the artifact that `engine` has loaded.
        engine_s: what a call of `engine` takes, until it is known better.
    """

    def __init__(
        self, engine: Engine, limits: CacheLimits, artifact: str = "", engine_s: float = 0.0
    ) -> None:
        self._engine, self._limits, self._artifact = engine, limits, artifact
        self._lock = Lock()
        self._kept: OrderedDict[_Key, tuple[dict[str, NDArray[Any]], int]] = OrderedDict()
        self._bytes = 0
        self._judge = Judge(limits.window_calls, limits.rest_calls, engine_s)
        self._behind: _Behind | None = None
        if limits.store is not None:
            self._behind = _Behind(limits.store, limits, engine_s)

    @property
    def name(self) -> str:
        """The engine's own."""
        return self._engine.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The engine's own."""
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The engine's own."""
        return self._engine.outputs

    @property
    def stats(self) -> CacheStats:
        """What the cache has done."""
        with self._lock:
            judge, behind = self._judge, self._behind
            memory = (judge.lookups, judge.hits, len(self._kept), self._bytes, judge.in_use)
        if behind is None:
            return CacheStats(*memory)
        judge = behind.judge
        return CacheStats(
            *memory, judge.lookups, judge.hits, behind.store.bytes, behind.in_use and judge.in_use
        )

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        """The remembered outputs for these inputs, or the engine's."""
        if not self._judge.asks():
            return self._beneath(inputs, until)
        began = time.perf_counter()
        key = _key(inputs)
        found = self._get(key)
        if found is not None:
            answer = {name: array.copy() for name, array in found.items()}
            self._told(True, time.perf_counter() - began, 0.0)
            return answer
        asked = time.perf_counter()
        answer = self._beneath(inputs, until)
        answered = time.perf_counter()
        self._put(key, {name: array.copy() for name, array in answer.items()})
        took = (asked - began) + (time.perf_counter() - answered)
        self._told(False, took, answered - asked)
        return answer

    def close(self) -> None:
        """Forget what is in memory and close the engine."""
        with self._lock:
            self._forget()
        if self._behind is not None:
            self._behind.store.close()
        self._engine.close()

    def _beneath(self, inputs: Arrays, until: float | None) -> dict[str, NDArray[Any]]:
        """The answer of the file, or the engine's."""
        behind = self._behind
        if behind is None or not behind.in_use or not behind.judge.asks():
            return self._engine.run(inputs, until)
        began = time.perf_counter()
        key = key_of(self._artifact, self._engine.name, inputs)
        found = behind.store.get(key)
        asked = time.perf_counter()
        if found is not None:
            behind.judge.add(True, asked - began)
            return found
        answer = self._engine.run(inputs, until)
        answered = time.perf_counter()
        behind.store.put(key, answer)
        took = (asked - began) + (time.perf_counter() - answered)
        behind.judge.add(False, took, answered - asked)
        return answer

    def _get(self, key: _Key) -> dict[str, NDArray[Any]] | None:
        with self._lock:
            entry = self._kept.get(key)
            if entry is None:
                return None
            self._kept.move_to_end(key)
            return entry[0]

    def _put(self, key: _Key, answer: dict[str, NDArray[Any]]) -> None:
        size = _ENTRY_BYTES + sum(array.nbytes for array in answer.values())
        size += sum(len(part) for part in key if isinstance(part, bytes))
        if size > self._limits.bytes // 8:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = (answer, size)
            self._bytes += size
            while self._bytes > self._limits.bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed

    def _told(self, hit: bool, lookup_s: float, engine_s: float) -> None:
        if self._judge.add(hit, lookup_s, engine_s):
            with self._lock:
                self._forget()

    def _forget(self) -> None:
        self._kept.clear()
        self._bytes = 0


class _Behind:
    """The file behind the memory, and whether it pays."""

    def __init__(self, path: Path, limits: CacheLimits, engine_s: float) -> None:
        self.store = CacheStore(path, limits.store_bytes)
        self.judge = Judge(limits.window_calls, limits.rest_calls, engine_s)

    @property
    def in_use(self) -> bool:
        """Whether the file can be used at all."""
        return not self.store.problem


def _key(inputs: Arrays) -> _Key:
    """What tells these inputs from any others."""
    parts: list[object] = []
    for name, array in sorted(inputs.items()) if len(inputs) > 1 else inputs.items():
        data = array.tobytes()
        if len(data) > _PLAIN_BYTES:
            data = hashlib.sha256(data).digest()
        parts += (name, array.dtype.str, array.shape, data)
    return tuple(parts)
