"""Ends runs of ONNX Runtime at their deadline: it looks at a flag between two operators.

One thread for the whole process looks every `_TICK_S` at the runs that have a deadline, and sleeps
while there are none.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread

import onnxruntime

_TICK_S = 0.005


class Terminator:
    """Sets the flag of runs whose deadline has come."""

    def __init__(self) -> None:
        self._lock, self._work = Lock(), Event()
        self._runs: dict[int, tuple[float, onnxruntime.RunOptions]] = {}
        self._thread: Thread | None = None

    @contextmanager
    def watching(self, until: float) -> Iterator[onnxruntime.RunOptions]:
        """Options for one run that shall end at `until` (`time.monotonic`)."""
        options = onnxruntime.RunOptions()
        number = id(options)
        with self._lock:
            self._runs[number] = (until, options)
            if self._thread is None:
                self._thread = Thread(target=self._watch, name="skerry-deadlines", daemon=True)
                self._thread.start()
        if not self._work.is_set():
            self._work.set()
        try:
            yield options
        finally:
            with self._lock:
                del self._runs[number]

    def _watch(self) -> None:
        while True:
            self._work.wait()
            time.sleep(_TICK_S)
            now = time.monotonic()
            with self._lock:
                for until, options in self._runs.values():
                    if now >= until:
                        options.terminate = True
                if not self._runs:
                    self._work.clear()


TERMINATOR = Terminator()
