"""Whether a cache pays, judged from what its look-ups cost and saved. Rules over times."""

from __future__ import annotations

from threading import Lock

__all__ = ["Judge", "pays"]


def pays(lookups: int, hits: int, lookup_s: float, engine_s: float) -> bool:
    """Whether a cache saves more than it costs.

    Args:
        lookup_s: seconds that one look-up and, on a miss, keeping the answer took on average.
        engine_s: seconds of one call of the engine on average.
    """
    return hits * engine_s > lookups * lookup_s


class Judge:
    """Judges one tier after every `window` look-ups; one that did not pay rests. Thread-safe.

    Args:
        window: look-ups that are judged together.
        rest: calls for which a tier that did not pay is not asked, then tried again.
    """

    def __init__(self, window: int, rest: int) -> None:
        self._window, self._rest = window, rest
        self._lock = Lock()
        self._resting = 0
        self._engine_before = 0.0
        self.lookups = self.hits = 0
        self._begin()

    @property
    def in_use(self) -> bool:
        """Whether the tier is asked."""
        return self._resting == 0

    def asks(self) -> bool:
        """Whether to look up this call."""
        if not self._resting:
            return True
        with self._lock:
            self._resting = max(0, self._resting - 1)
        return False

    def add(self, hit: bool, lookup_s: float, engine_s: float = 0.0) -> bool:
        """Count a look-up.

        Args:
            lookup_s: what it took, and keeping the answer after a miss.
            engine_s: what the engine took after a miss.

        Returns:
            Whether the tier rests from now on.
        """
        with self._lock:
            self.lookups += 1
            self.hits += hit
            self._looked += 1
            self._hit += hit
            self._lookup_s += lookup_s
            self._engine_s += engine_s
            if self._looked < self._window:
                return False
            misses = self._looked - self._hit
            engine_mean = self._engine_s / misses if misses else self._engine_before
            worth = pays(self._looked, self._hit, self._lookup_s / self._looked, engine_mean)
            self._engine_before = engine_mean
            self._begin()
            if not worth:
                self._resting = self._rest
            return not worth

    def _begin(self) -> None:
        self._looked = self._hit = 0
        self._lookup_s = self._engine_s = 0.0
