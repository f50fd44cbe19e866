"""Staying awake for the next request: the event loop polls for a moment after a quick answer.

A thread that sleeps between requests is woken for each, which costs CPU time on both sides and
delays the answer. A client that asks again at once is answered sooner, and for less, by a loop that
is still awake. So that it costs nothing where it gains nothing, it stays awake for one window after
an answer, and only where the request before came within one too. Linux's `haltpoll` is the same for
idle CPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["BusyPoll"]


class BusyPoll:
    """Keeps an event loop awake after answers, while requests follow each other closely.

    Args:
        call_soon: the loop's.
        window_s: for how long after an answer; 0 to sleep at once.
        alone: whether no other thread has work of the server's: polling would be in its way.
        now: the steady time in seconds; a loop's own may be coarse (uvloop's counts milliseconds).
    """

    def __init__(
        self,
        call_soon: Callable[[Callable[[], None]], object],
        window_s: float,
        alone: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call_soon, self._window = call_soon, window_s
        self._alone, self._now = alone, now
        self._until = 0.0
        self._soon = self._polling = False

    def arrived(self) -> None:
        """A request has come, whether the loop was awake or asleep."""
        self._soon = self._now() < self._until

    def answered(self) -> None:
        """A request was answered on the loop itself."""
        self._until = self._now() + self._window
        if self._soon and not self._polling and self._alone():
            self._polling = True
            self._call_soon(self._poll)

    def _poll(self) -> None:
        """One turn of the loop, which looks for whatever is to be done and does not sleep."""
        self._polling = self._now() < self._until and self._alone()
        if self._polling:
            self._call_soon(self._poll)
