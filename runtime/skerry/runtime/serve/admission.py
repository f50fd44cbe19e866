"""Whether a call may begin now: a token bucket, as a rule over times that are handed in."""

from __future__ import annotations

__all__ = ["TokenBucket"]

_ROUNDING = 1e-9


class TokenBucket:
    """At most `rate` per second on average, `burst` at once. Not thread-safe.

    Args:
        rate: per second, above 0.
        burst: at least 1.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._at = float(burst), 0.0

    def take(self, now: float) -> float:
        """Take one if there is one.

        Args:
            now: steady time in seconds.

        Returns:
            0.0 if taken, else how many seconds until there is one.
        """
        gained = max(0.0, now - self._at) * self._rate
        self._tokens = min(self._burst, self._tokens + gained)
        self._at = now
        if self._tokens > 1.0 - _ROUNDING:
            self._tokens = max(0.0, self._tokens - 1.0)
            return 0.0
        return (1.0 - self._tokens) / self._rate
