"""Time is handed in, so that rules about it can be tested without waiting."""

from __future__ import annotations

import time
from threading import Event
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Wall time, steady time, and waiting."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC. May jump."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point. Never runs backward."""

    def wait(self, event: Event, seconds: float) -> bool:
        """Wait until `event` is set or `seconds` have passed; whether it was set."""


class SystemClock:
    """`Clock` on the operating system's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: Event, seconds: float) -> bool:
        return event.wait(max(0.0, seconds))
