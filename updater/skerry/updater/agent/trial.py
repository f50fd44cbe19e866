"""The trial of a release: it serves while it is watched, and what served before stands by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import Event
from typing import Protocol

from skerry.devices.clock import Clock
from skerry.devices.digest import Digest
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.experiment import Agreement
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.prepared import Prepared
from skerry.telemetry.histogram import Histogram
from skerry.updater.agent.health import HealthLimits, HealthWatch, Verdict, complaint

__all__ = ["Comparison", "Models", "Trials"]


class Models(Protocol):
    """What the update needs of the runtime."""

    @property
    def active(self) -> Prepared | None:
        """What serves."""

    def prepare(self, bundle: Bundle, artifact: str | None = None) -> Prepared:
        """Load and test without serving."""

    def activate(self, prepared: Prepared) -> None:
        """Serve it."""

    def forget_previous(self) -> None:
        """Close what served before."""

    def close(self) -> None:
        """Serve nothing."""


class Comparison(Protocol):
    """Asks the previous release what the one on trial has answered, off the callers' path."""

    def observed(self, call: Observation) -> None:
        """Keep one call for comparison."""

    def agreement(self) -> Agreement:
        """What was found so far."""

    def close(self) -> None:
        """Compare nothing more."""


class Trials:
    """Tries releases, one at a time.

    Args:
        models: what serves.
        watch: has an observer observe the runtime; returns what ends that.
        latency: how long calls of a release took lately.
        compare: begins to compare with the previous release.
        stop: set when the process shall end.
    """

    def __init__(
        self,
        models: Models,
        *,
        watch: Callable[[Observer], Callable[[], None]],
        latency: Callable[[Digest], Histogram],
        compare: Callable[[Prepared], Comparison],
        clock: Clock,
        stop: Event,
        limits: HealthLimits,
    ) -> None:
        self._models, self._watch, self._latency = models, watch, latency
        self._compare, self._clock, self._stop = compare, clock, stop
        self._limits = limits

    def run(self, prepared: Prepared, commit: Callable[[], None]) -> tuple[Verdict, str]:
        """Serve `prepared` until it is decided; what served before serves again unless it is well.

        Args:
            commit: called when it is well, before anything else may fail; if this raises, what
                served before serves again.

        Returns:
            the verdict, `wait` if the process shall end, and what is wrong where it is `ill`.
        """
        before = after = self._models.active
        with ExitStack() as stack:
            stack.callback(lambda: self._go_back(after))
            watch = HealthWatch(
                prepared.manifest,
                self._clock,
                self._limits,
                before=None if before is None else self._latency(before.manifest),
                agreement=self._compared(before, stack),
            )
            stack.callback(self._watch(watch))
            self._models.activate(prepared)
            verdict = watch.verdict(self._stop)
            if verdict == "well":
                commit()
                after = prepared
        return verdict, complaint(watch.health, self._limits)

    def _compared(
        self, before: Prepared | None, stack: ExitStack
    ) -> Callable[[], tuple[int, float]]:
        """Compare with `before` until the trial ends: rows compared, and the share that agreed."""
        if before is None or not self._limits.agreement:
            return lambda: (0, 0.0)
        comparison = self._compare(before)
        stack.callback(comparison.close)
        stack.callback(self._watch(comparison))

        def found() -> tuple[int, float]:
            agreement = comparison.agreement()
            return agreement.rows, agreement.argmax

        return found

    def _go_back(self, before: Prepared | None) -> None:
        """Serve `before` again, unless it serves."""
        if before is None:
            self._models.close()
        elif before is not self._models.active:
            self._models.activate(before)
            self._models.forget_previous()
