"""Calls that take turns, each no longer than it has use for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from skerry.devices.errors import CancelledError
from skerry.runtime.engine.base import refuse_late


@contextmanager
def turn(lock: Lock, until: float | None) -> Iterator[None]:
    """Hold `lock`.

    Raises:
        CancelledError: it could not be had by `until` (`time.monotonic`).
    """
    refuse_late(until)
    timeout = -1.0 if until is None else max(0.0, until - time.monotonic())
    if not lock.acquire(timeout=timeout):
        raise CancelledError("no turn in time", where="engine")
    try:
        yield
    finally:
        lock.release()
