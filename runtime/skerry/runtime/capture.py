"""Keeping raw inputs on the device: off, but for a verified order, and then within a quota.

Without an order this costs one comparison a call. With one, calls are copied off their path and
written to `FOLDER/<order>/<n>.npz`; the folder is also what tells that an order was carried out.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread
from typing import NamedTuple

import msgspec
import numpy as np

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.errors import TrustError, UnavailableError
from skerry.devices.files import Disk, RealDisk, write_atomically
from skerry.runtime.capture_order import CaptureOrder
from skerry.runtime.engine.base import Arrays
from skerry.runtime.observe import Observation

__all__ = ["Capture", "CaptureLimits", "Captured"]

_ASKED = "asked to end"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureLimits:
    """What a device keeps at most, whatever an order asks.

    Attributes:
        bytes: of all orders together, on the disk.
        seconds: how long one order is followed.
        waiting: calls that wait to be written; while so many do, further ones are passed over.
    """

    bytes: int = 64 << 20
    seconds: float = 86_400.0
    waiting: int = 16


class Captured(msgspec.Struct, frozen=True):
    """What came of an order: calls and bytes kept, calls passed over, and why it ended."""

    order: str
    calls: int
    bytes: int
    passed_over: int
    ended: str


class _Call(NamedTuple):
    inputs: Arrays
    outputs: Arrays


class Capture:
    """`Observer` that keeps what an order asks for. Thread-safe.

    Args:
        folder: where it is kept, readable by this user alone.
        model: the model whose calls are observed.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        limits: CaptureLimits | None = None,
        *,
        clock: Clock | None = None,
        disk: Disk | None = None,
    ) -> None:
        self._folder, self._model = folder, model
        self._limits, self._disk = limits or CaptureLimits(), disk or RealDisk()
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._order: CaptureOrder | None = None
        self._queue: Queue[_Call | None] = Queue(self._limits.waiting)
        self._thread: Thread | None = None
        self._latest = 0.0
        self._seen = self._calls = self._bytes = self._passed_over = 0
        self._ended = ""
        self._last = ""

    def begin(self, order: CaptureOrder) -> None:
        """Follow an order that `verified_order` gave, in place of any other.

        Raises:
            TrustError: it is about another model, or was carried out before.
            UnavailableError: the folder cannot be written.
        """
        if order.model != self._model:
            raise TrustError(f"is about the model {order.model!r}", where="capture order")
        self.end()
        own = self._folder / order.id
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            own.mkdir(mode=0o700)
        except FileExistsError as error:
            raise TrustError("was carried out before", where=f"order {order.id}") from error
        except OSError as error:
            raise UnavailableError(f"cannot write: {error.strerror}", where=own) from error
        with self._lock:
            self._seen = self._calls = self._bytes = self._passed_over = 0
            self._ended, self._last = "", order.id
            self._latest = self._clock.monotonic() + self._limits.seconds
            self._order = order
        self._thread = Thread(target=self._work, args=(order,), name="skerry-capture", daemon=True)
        self._thread.start()

    def observed(self, call: Observation) -> None:
        """Keep a copy of an answered call, if an order asks for it."""
        order = self._order
        if order is None or call.error is not None:
            return
        with self._lock:
            self._seen += 1
            if self._seen % order.every:
                return
        if self._is_over(order):
            return
        try:
            self._queue.put_nowait(_Call(_copied(call.inputs), _copied(call.outputs)))
        except Full:
            with self._lock:
                self._passed_over += 1

    def found(self) -> Captured:
        """What came of the order that is followed, or was followed last."""
        with self._lock:
            return Captured(self._last, self._calls, self._bytes, self._passed_over, self._ended)

    def end(self) -> None:
        """Follow no order any more; what was copied already is written."""
        self._stop(_ASKED)
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _is_over(self, order: CaptureOrder) -> bool:
        if self._clock.now() >= order.until or self._clock.monotonic() >= self._latest:
            self._stop("time")
            return True
        return False

    def _stop(self, why: str) -> None:
        with self._lock:
            self._order = None
            if self._ended in ("", _ASKED):
                self._ended = why

    def _work(self, order: CaptureOrder) -> None:
        quota, over = min(order.bytes, self._limits.bytes - _size(self._folder)), ""
        while (call := self._queue.get()) is not None:
            if not over and (over := self._keep(order, call, quota)):
                self._stop(over)

    def _keep(self, order: CaptureOrder, call: _Call, quota: int) -> str:
        """Write one call. Returns why it was the last one, if it was."""
        data = _packed(call)
        if self._bytes + len(data) > quota:
            return "quota"
        path = self._folder / order.id / f"{self._calls:06d}.npz"
        try:
            write_atomically(path, data, mode=0o600, disk=self._disk)
        except UnavailableError as error:
            return str(error)
        with self._lock:
            self._calls += 1
            self._bytes += len(data)
        return "calls" if self._calls >= order.calls else ""


def _packed(call: _Call) -> bytes:
    file = io.BytesIO()
    named = {f"input/{name}": array for name, array in call.inputs.items()}
    named |= {f"output/{name}": array for name, array in call.outputs.items()}
    np.savez(file, allow_pickle=False, **named)
    return file.getvalue()


def _copied(arrays: Arrays) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.npz"):
        with suppress(OSError):
            total += path.stat().st_size
    return total
