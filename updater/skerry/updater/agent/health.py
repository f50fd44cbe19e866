"""Whether a release on trial is well: counted from the runtime's own calls, judged by one rule."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event, Lock
from typing import Literal

from skerry.devices.clock import Clock
from skerry.devices.digest import Digest
from skerry.runtime.observe import Observation

__all__ = ["Health", "HealthLimits", "HealthWatch", "Verdict", "judge"]

_SHORTEST_S, _LONGEST_S = 0.001, 0.25  # between two looks at the stop event

Verdict = Literal["wait", "well", "ill"]

# Failures that say something of the caller, not of the release.
_CALLERS_FAULT = frozenset({"signature", "cancelled", "overload", "quota"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """What a release must stand before it is committed to.

    Attributes:
        seconds: length of the trial; without errors it ends well then.
        requests: answered calls that end it well sooner.
        errors: failed calls that are borne.
        error_share: share of failed calls that is borne beyond that, 0 to 1.
    """

    seconds: float = 10.0
    requests: int = 500
    errors: int = 0
    error_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """What was counted: calls answered, calls that failed, and how the last one failed."""

    answered: int = 0
    failed: int = 0
    last_error: str = ""

    def __str__(self) -> str:
        total = self.answered + self.failed
        return f"{self.failed} of {total} calls failed on trial, the last by {self.last_error}"


def judge(health: Health, elapsed: float, limits: HealthLimits) -> Verdict:
    """The verdict after `elapsed` seconds of trial."""
    total = health.answered + health.failed
    if health.failed > max(limits.errors, limits.error_share * total):
        return "ill"
    if elapsed >= limits.seconds or health.answered >= limits.requests:
        return "well"
    return "wait"


class HealthWatch:
    """An `Observer` that counts the calls of one release, and can be waited on.

    Args:
        manifest: the release on trial; calls of others are not counted.
    """

    def __init__(self, manifest: Digest, clock: Clock, limits: HealthLimits) -> None:
        self._manifest, self._clock, self._limits = manifest, clock, limits
        self._lock, self._news = Lock(), Event()
        self._health, self._began = Health(), clock.monotonic()

    def observed(self, call: Observation) -> None:
        """Take note of one call."""
        if call.manifest != self._manifest or call.error in _CALLERS_FAULT:
            return
        with self._lock:
            old = self._health
            if call.error is None:
                self._health = Health(old.answered + 1, old.failed, old.last_error)
            else:
                self._health = Health(old.answered, old.failed + 1, call.error)
            decided = judge(self._health, 0.0, self._limits) != "wait"
        if decided:
            self._news.set()

    @property
    def health(self) -> Health:
        """What was counted so far."""
        with self._lock:
            return self._health

    def verdict(self, stop: Event) -> Verdict:
        """Wait until the trial is decided; `wait` if `stop` was set before."""
        while not stop.is_set():
            elapsed = self._clock.monotonic() - self._began
            verdict = judge(self.health, elapsed, self._limits)
            if verdict != "wait":
                return verdict
            left = self._limits.seconds - elapsed
            self._clock.wait(self._news, min(_LONGEST_S, max(_SHORTEST_S, left)))
            self._news.clear()
        return "wait"
