"""A clock that moves only when it is told to, or when somebody waits on it."""

from threading import Event


class FakeClock:
    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._steady = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._steady

    def wait(self, event: Event, seconds: float) -> bool:
        if not event.is_set():
            self.advance(max(0.0, seconds))
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both clocks."""
        self._now += seconds
        self._steady += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back; steady time does not notice."""
        self._now += seconds
