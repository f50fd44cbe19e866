"""Whether a release on trial is well: counted from the runtime's own calls, judged by one rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event, Lock
from typing import Literal

from skerry.devices.clock import Clock
from skerry.devices.digest import Digest
from skerry.runtime.observe import Observation
from skerry.telemetry.histogram import Histogram

__all__ = [
    "Health",
    "HealthLimits",
    "HealthWatch",
    "Latencies",
    "Verdict",
    "complaint",
    "judge",
]

_SHORTEST_S, _LONGEST_S = 0.001, 0.25  # between two looks at the stop event

_RELEASES = 2

Verdict = Literal["wait", "well", "ill"]

# Failures that say something of the caller, not of the release.
_CALLERS_FAULT = frozenset({"signature", "cancelled", "overload", "quota"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthLimits:
    """What a release must stand before it is committed to.

    Attributes:
        seconds: length of the trial; without complaints it ends well then.
        requests: answered calls that end it well sooner.
        errors: failed calls that are borne.
        error_share: share of failed calls that is borne beyond that, 0 to 1.
        latency_ratio: how many times as long as the previous release's a call may take, at
            `latency_rank`; 0 to judge no latency.
        latency_slack_s: seconds borne beyond that: what chance does to quick calls.
        latency_rank: the rank that is compared, 0 to 1.
        latency_calls: answered calls of each release without which latency is not judged.
        agreement: share of rows whose answer must be the previous release's, 0 to 1; 0 does not ask
            the previous release. Asking costs its time again, off the callers' path.
        agreement_rows: rows without which agreement is not judged.
    """

    seconds: float = 10.0
    requests: int = 500
    errors: int = 0
    error_share: float = 0.0
    latency_ratio: float = 3.0
    latency_slack_s: float = 0.010
    latency_rank: float = 0.95
    latency_calls: int = 100
    agreement: float = 0.0
    agreement_rows: int = 50


@dataclass(frozen=True, slots=True)
class Health:
    """What was observed of a release on trial.

    Attributes:
        answered, failed: calls; last_error: how the last one failed.
        latency_s, before_s: seconds of a call at the rank that is compared, of this release and of
            the one before; 0 where too few were counted.
        agreement: share of rows answered as the previous release does; None where too few were.
    """

    answered: int = 0
    failed: int = 0
    last_error: str = ""
    latency_s: float = 0.0
    before_s: float = 0.0
    agreement: float | None = None


def complaint(health: Health, limits: HealthLimits) -> str:
    """What is wrong with a release, in words; "" if nothing is."""
    total = health.answered + health.failed
    if health.failed > max(limits.errors, limits.error_share * total):
        return f"{health.failed} of {total} calls failed on trial, the last by {health.last_error}"
    now, before = health.latency_s, health.before_s
    if (
        limits.latency_ratio
        and before
        and now > limits.latency_ratio * before + limits.latency_slack_s
    ):
        return (
            f"calls took {1e3 * now:.1f} ms on trial (rank {limits.latency_rank:g}), and "
            f"{1e3 * before:.1f} ms before: more than {limits.latency_ratio:g} times"
        )
    if health.agreement is not None and health.agreement < limits.agreement:
        return (
            f"{health.agreement:.1%} of answers on trial were the previous release's, "
            f"and {limits.agreement:.1%} must be"
        )
    return ""


def judge(health: Health, elapsed: float, limits: HealthLimits) -> Verdict:
    """The verdict after `elapsed` seconds of trial. Errors end it at once, all else at its end."""
    if complaint(Health(health.answered, health.failed), limits):
        return "ill"
    if elapsed < limits.seconds and health.answered < limits.requests:
        return "wait"
    return "ill" if complaint(health, limits) else "well"


class Latencies:
    """An `Observer` that knows how long calls of a release took lately.

    Of each release the newest calls are kept, `span` to twice as many, and of the two releases
    called last.
    """

    def __init__(self, span: int = 5_000) -> None:
        self._span, self._lock = span, Lock()
        self._known: dict[Digest, tuple[Histogram, Histogram]] = {}

    def observed(self, call: Observation) -> None:
        """Take note of one call."""
        if call.error is not None:
            return
        with self._lock:
            older, newer = self._known.pop(call.manifest, (Histogram(), Histogram()))
            if newer.count >= self._span:
                older, newer = newer, Histogram()
            newer.add(max(0.0, call.seconds))
            self._known[call.manifest] = (older, newer)
            while len(self._known) > _RELEASES:
                del self._known[next(iter(self._known))]

    def of(self, manifest: Digest) -> Histogram:
        """Seconds of the newest answered calls of a release."""
        found = Histogram()
        with self._lock:
            for part in self._known.get(manifest, ()):
                found.merge(part)
        return found


class HealthWatch:
    """An `Observer` that counts the calls of one release, and can be waited on.

    Args:
        manifest: the release on trial; calls of others are not counted.
        before: how long calls of the previous release took.
        agreement: rows compared with the previous release so far, and the share that agreed.
    """

    def __init__(
        self,
        manifest: Digest,
        clock: Clock,
        limits: HealthLimits,
        *,
        before: Histogram | None = None,
        agreement: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
    ) -> None:
        self._manifest, self._clock, self._limits = manifest, clock, limits
        self._before, self._agreement = before or Histogram(), agreement
        self._lock, self._news = Lock(), Event()
        self._counts, self._latency = Health(), Histogram()
        self._began = clock.monotonic()

    def observed(self, call: Observation) -> None:
        """Take note of one call."""
        if call.manifest != self._manifest or call.error in _CALLERS_FAULT:
            return
        with self._lock:
            old = self._counts
            if call.error is None:
                self._counts = replace(old, answered=old.answered + 1)
                self._latency.add(max(0.0, call.seconds))
            else:
                self._counts = replace(old, failed=old.failed + 1, last_error=call.error)
            decided = judge(self._counts, 0.0, self._limits) != "wait"
        if decided:
            self._news.set()

    @property
    def health(self) -> Health:
        """What was observed so far."""
        limits = self._limits
        rows, agreed = self._agreement()
        with self._lock:
            enough = min(self._latency.count, self._before.count) >= limits.latency_calls
            return replace(
                self._counts,
                latency_s=self._latency.quantile(limits.latency_rank) if enough else 0.0,
                before_s=self._before.quantile(limits.latency_rank) if enough else 0.0,
                agreement=agreed if rows >= limits.agreement_rows else None,
            )

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
