"""A prediction cache around an engine, that stays out of the way where it does not pay.

It belongs to one loaded artifact and dies with it, so no answer can cross models or versions. The
key is every input's name, dtype, shape and bytes: the bytes themselves where they are few, else
their SHA-256, which an adversary cannot make collide.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.engine.base import Arrays, Engine

__all__ = ["CacheLimits", "CacheStats", "CachingEngine", "pays"]

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
    """

    bytes: int = 16 << 20
    window_calls: int = 512
    rest_calls: int = 16384


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Since the engine was opened: look-ups, hits, what is held; and whether it is in use."""

    lookups: int
    hits: int
    entries: int
    bytes: int
    in_use: bool


def pays(lookups: int, hits: int, lookup_s: float, engine_s: float) -> bool:
    """Whether a cache saves more than it costs.

    Args:
        lookup_s: seconds that one look-up and, on a miss, keeping the answer took on average.
        engine_s: seconds of one call of the engine on average.
    """
    return hits * engine_s > lookups * lookup_s


class CachingEngine:
    """`Engine` that remembers the answers of another."""

    def __init__(self, engine: Engine, limits: CacheLimits) -> None:
        self._engine, self._limits = engine, limits
        self._lock = Lock()
        self._kept: OrderedDict[_Key, tuple[dict[str, NDArray[Any]], int]] = OrderedDict()
        self._bytes = 0
        self._lookups = self._hits = 0
        self._window = _Window()
        self._resting = 0

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
            return CacheStats(
                self._lookups, self._hits, len(self._kept), self._bytes, self._resting == 0
            )

    def run(self, inputs: Arrays, until: float | None = None) -> dict[str, NDArray[Any]]:
        """The remembered outputs for these inputs, or the engine's."""
        if self._resting:
            self._rest()
            return self._engine.run(inputs, until)
        began = time.perf_counter()
        key = _key(inputs)
        found = self._get(key)
        if found is not None:
            answer = {name: array.copy() for name, array in found.items()}
            self._judge(1, time.perf_counter() - began, 0.0)
            return answer
        asked = time.perf_counter()
        answer = self._engine.run(inputs, until)
        answered = time.perf_counter()
        self._put(key, {name: array.copy() for name, array in answer.items()})
        took = (asked - began) + (time.perf_counter() - answered)
        self._judge(0, took, answered - asked)
        return answer

    def close(self) -> None:
        """Forget everything and close the engine."""
        with self._lock:
            self._forget()
        self._engine.close()

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

    def _judge(self, hit: int, lookup_s: float, engine_s: float) -> None:
        with self._lock:
            self._lookups += 1
            self._hits += hit
            window = self._window
            window.add(hit, lookup_s, engine_s)
            if window.lookups < self._limits.window_calls:
                return
            if not window.pays():
                self._resting = self._limits.rest_calls
                self._forget()
            self._window = _Window(window.mean_engine_s)

    def _rest(self) -> None:
        with self._lock:
            self._resting = max(0, self._resting - 1)

    def _forget(self) -> None:
        self._kept.clear()
        self._bytes = 0


class _Window:
    """Look-ups since the last judgement.

    Args:
        engine_s: what a call of the engine took before, for a window of hits alone.
    """

    __slots__ = ("_before", "_engine_s", "_lookup_s", "hits", "lookups")

    def __init__(self, engine_s: float = 0.0) -> None:
        self._before = engine_s
        self.lookups = self.hits = 0
        self._lookup_s = self._engine_s = 0.0

    def add(self, hit: int, lookup_s: float, engine_s: float) -> None:
        self.lookups += 1
        self.hits += hit
        self._lookup_s += lookup_s
        self._engine_s += engine_s

    @property
    def mean_engine_s(self) -> float:
        misses = self.lookups - self.hits
        return self._engine_s / misses if misses else self._before

    def pays(self) -> bool:
        return pays(self.lookups, self.hits, self._lookup_s / self.lookups, self.mean_engine_s)


def _key(inputs: Arrays) -> _Key:
    """What tells these inputs from any others."""
    parts: list[object] = []
    for name, array in sorted(inputs.items()) if len(inputs) > 1 else inputs.items():
        data = array.tobytes()
        if len(data) > _PLAIN_BYTES:
            data = hashlib.sha256(data).digest()
        parts += (name, array.dtype.str, array.shape, data)
    return tuple(parts)
