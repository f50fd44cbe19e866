"""Whether a cache pays, judged from what its look-ups cost and saved. Rules over times."""

from __future__ import annotations

from statistics import median
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

    Times are judged by their medians: on a busy machine one call that had to wait for the processor
    would outweigh hundreds.

    Args:
        window: look-ups that are judged together.
        rest: calls for which a tier that did not pay is not asked, then tried again.
        engine_s: what a call of the engine takes, for as long as none was seen.
    """

    def __init__(self, window: int, rest: int, engine_s: float = 0.0) -> None:
        self._window, self._rest, self._engine_s = window, rest, engine_s
        self._lock = Lock()
        self._resting = 0
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
            if hit:
                self._of_hits.append(lookup_s)
            else:
                self._of_misses.append(lookup_s)
                self._of_engine.append(engine_s)
            looked = len(self._of_hits) + len(self._of_misses)
            return looked >= self._window and self._judged()

    def _judged(self) -> bool:
        hits, misses = len(self._of_hits), len(self._of_misses)
        if misses:
            self._engine_s = median(self._of_engine)
        looking = sum(len(took) * median(took) for took in (self._of_hits, self._of_misses) if took)
        worth = pays(hits + misses, hits, looking / (hits + misses), self._engine_s)
        self._begin()
        if not worth:
            self._resting = self._rest
        return not worth

    def _begin(self) -> None:
        self._of_hits: list[float] = []
        self._of_misses: list[float] = []
        self._of_engine: list[float] = []
