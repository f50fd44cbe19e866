"""Round after round: do what is to be done, pause, look again, or at once when woken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from threading import Event

from skerry.devices.clock import Clock
from skerry.devices.errors import CancelledError, SkerryError
from skerry.updater.agent.log import Log
from skerry.updater.agent.schedule import (
    ScheduleLimits,
    pause_after_failures,
    pause_between_polls,
)

__all__ = ["Rounds", "guarded"]


class Rounds:
    """Does `work` again and again, and `besides` before it, whose failures slow nothing down.

    Args:
        work: what decides how soon the next round comes.
        progress: grows where a round that failed brought something all the same, such as bytes.
        stop: set, with `wake`, to end.
        wake: set to begin the next round now.
    """

    def __init__(
        self,
        work: Callable[[], object],
        besides: Sequence[Callable[[], object]],
        progress: Callable[[], int],
        *,
        clock: Clock,
        stop: Event,
        wake: Event,
        log: Log,
        limits: ScheduleLimits,
        chance: random.Random,
    ) -> None:
        self._work, self._besides, self._progress = work, besides, progress
        self._clock, self._stop, self._wake = clock, stop, wake
        self._log, self._limits, self._chance = log, limits, chance
        self._failures = 0

    def run(self) -> None:
        """Go round until `stop` is set."""
        while not self._stop.is_set():
            self._wake.clear()
            pause = self.once()
            if not self._stop.is_set() and self._clock.wait(self._wake, pause):
                self._clock.wait(self._stop, self._chance.uniform(0, self._limits.wake_spread_s))

    def once(self) -> float:
        """One round; the seconds to pause after it."""
        before = self._progress()
        for work in self._besides:
            guarded(work, self._log)
        error = guarded(self._work, self._log)
        if error is None:
            self._failures = 0
            return pause_between_polls(self._limits, self._chance)
        if isinstance(error, CancelledError):
            return 0.0
        self._failures = 1 if self._progress() > before else self._failures + 1
        asked = getattr(error, "retry_after", None)
        return pause_after_failures(self._failures, asked, self._limits, self._chance)


def guarded(work: Callable[[], object], log: Log) -> Exception | None:
    """Do `work`; what went wrong, logged. Serving goes on whatever it was."""
    try:
        work()
    except SkerryError as error:
        log("later", reason=error)
        return error
    except Exception as error:  # noqa: BLE001 - a fault in updating must not end serving
        log("fault", reason=f"{type(error).__name__}: {error}")
        return error
    return None
