"""Where calls wait while no release is loaded: a bounded number, none beyond its deadline."""

from __future__ import annotations

import time
from threading import Condition

from skerry.devices.errors import CancelledError, QuotaError

__all__ = ["Gate"]


class Gate:
    """Open, or shut for a while. Thread-safe.

    Args:
        most: calls that may wait at once.
        wait_s: how long one waits, if its deadline is not sooner.
    """

    def __init__(self, most: int, wait_s: float) -> None:
        self._most, self._wait_s = most, wait_s
        self._change = Condition()
        self._waiting = 0
        self.is_shut = False

    @property
    def waiting(self) -> int:
        """Calls that wait now."""
        return self._waiting

    def shut(self) -> None:
        """Let calls wait from now on."""
        self.is_shut = True

    def open(self) -> None:
        """Let every call go on."""
        with self._change:
            self.is_shut = False
            self._change.notify_all()

    def wait(self, until: float | None = None) -> None:
        """Return when the gate is open.

        Args:
            until: steady time (`time.monotonic`) at which the caller has no use for an answer.

        Raises:
            QuotaError: too many wait already.
            CancelledError: the gate did not open in time.
        """
        latest = time.monotonic() + self._wait_s
        latest = latest if until is None else min(latest, until)
        with self._change:
            if not self.is_shut:
                return
            if self._waiting >= self._most:
                raise QuotaError(f"{self._waiting} calls wait already for the next release")
            self._waiting += 1
            try:
                opened = self._change.wait_for(
                    lambda: not self.is_shut, max(0.0, latest - time.monotonic())
                )
            finally:
                self._waiting -= 1
        if not opened:
            raise CancelledError("no release was ready in time; it is being swapped")
