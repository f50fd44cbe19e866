"""A circuit breaker: after failures in a row nothing is asked for a while, then one call tries."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

__all__ = ["Breaker", "BreakerLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """When to stop asking.

    Attributes:
        failures: in a row that open the circuit.
        rest_s: how long it stays open before one call may try.
    """

    failures: int = 5
    rest_s: float = 2.0


class Breaker:
    """Closed, open, or half open with one call under way. Thread-safe; times are handed in."""

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._lock = Lock()
        self._opened = 0.0
        self._trying = False
        self.failures = 0

    @property
    def open(self) -> bool:
        """Whether calls are held back."""
        return self.failures >= self._limits.failures

    def allows(self, now: float) -> bool:
        """Whether a call may be made; whoever makes it tells how it ended."""
        if not self.open:
            return True
        with self._lock:
            if self._trying or now - self._opened < self._limits.rest_s:
                return False
            self._trying = True
            return True

    def succeeded(self) -> None:
        """A call was answered: close."""
        with self._lock:
            self.failures, self._trying = 0, False

    def abandoned(self) -> None:
        """A call told nothing of the engine: if it was the one that tries, another may."""
        with self._lock:
            self._trying = False

    def failed(self, now: float) -> None:
        """A call was not answered."""
        with self._lock:
            self.failures += 1
            self._trying = False
            if self.open:
                self._opened = now
