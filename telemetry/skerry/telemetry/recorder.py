"""Counts calls into windows, on the device, while they are served."""

from __future__ import annotations

import importlib.util
import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import InputError
from skerry.runtime.features import features
from skerry.runtime.observe import Observation
from skerry.runtime.sketches import SketchSet
from skerry.telemetry.histogram import Histogram
from skerry.telemetry.window import ClockState, Window, WindowLimits

__all__ = ["Recorder"]

_STATM = Path("/proc/self/statm")
_KIND_CHARS = 64
_REST_OF_WINDOW_BYTES = 48 << 10


@dataclass(slots=True)
class _Counts:
    sketches: SketchSet | None
    requests: int = 0
    rows: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)


class Recorder:
    """An `Observer` that turns calls into one window for each artifact that was called.

    Args:
        clock: for the windows' start and end.
        sample_every: sketch the arrays of one answered call in so many; counts are of all calls.
        clock_state: tells whether the device's clock is known to be right.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        sample_every: int = 1,
        clock_state: Callable[[], ClockState] = lambda: "unknown",
        limits: WindowLimits | None = None,
    ) -> None:
        if sample_every < 1:
            raise InputError(f"sample_every is {sample_every}", remedy="use 1 or more")
        self._clock, self._every, self._clock_state = (
            clock or SystemClock(),
            sample_every,
            clock_state,
        )
        self._limits = limits or WindowLimits()
        self._can_sketch = importlib.util.find_spec("datasketches") is not None
        self._lock = Lock()
        self._counts: dict[tuple[str, str], _Counts] = {}
        self._began, self._cpu = self._clock.now(), time.process_time()
        self._calls = 0

    def observed(self, call: Observation) -> None:
        """Take note of one call. Any thread."""
        seen = None
        self._calls += 1
        if call.error is None and self._can_sketch and self._calls % self._every == 0:
            seen = features(call.inputs, call.outputs)
        with self._lock:
            counts = self._of(call)
            counts.requests += 1
            if call.error is not None:
                self._failed(counts, call.error)
                return
            counts.rows += call.rows
            counts.latency.add(max(0.0, call.seconds))
            if seen is not None and counts.sketches is not None:
                try:
                    counts.sketches.add(call.rows, *seen)
                except InputError:
                    counts.sketches = None

    def rotate(self) -> list[Window]:
        """One window for each artifact called since the last time, and begin anew."""
        with self._lock:
            counted, self._counts = self._counts, {}
            began, self._began = self._began, self._clock.now()
            cpu, self._cpu = self._cpu, time.process_time()
        end = max(began, self._began)
        rss, state = _rss_bytes(), self._clock_state()
        return [
            Window(
                start=began,
                end=end,
                clock=state,
                manifest=manifest,
                artifact=artifact,
                requests=counts.requests,
                rows=counts.rows,
                errors=counts.errors,
                latency=counts.latency,
                classes=counts.sketches.classes if counts.sketches else {},
                sketches=self._encoded(counts.sketches),
                rss_bytes=rss,
                cpu_seconds=max(0.0, self._cpu - cpu),
            )
            for (manifest, artifact), counts in counted.items()
        ]

    def _of(self, call: Observation) -> _Counts:
        key = (str(call.manifest), call.artifact)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts(SketchSet() if self._can_sketch else None)
        return counts

    def _failed(self, counts: _Counts, error: str) -> None:
        kind = error[:_KIND_CHARS] or "unknown"
        if kind not in counts.errors and len(counts.errors) >= self._limits.errors - 1:
            kind = "other"
        counts.errors[kind] = counts.errors.get(kind, 0) + 1

    def _encoded(self, sketches: SketchSet | None) -> bytes:
        """The sketches, or nothing where they would not fit into a window."""
        if sketches is None or not sketches.rows:
            return b""
        data = sketches.encode()
        return data if len(data) <= self._limits.window_bytes - _REST_OF_WINDOW_BYTES else b""


def _rss_bytes() -> int:
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
