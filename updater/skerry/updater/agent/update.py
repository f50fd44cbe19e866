"""One look at the server and all that follows from it: fetch, try, commit or go back, report.

Every step is journalled before it has effects, so the next look continues wherever a power cut
left off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import Literal, Protocol

from skerry.devices.clock import Clock
from skerry.devices.digest import Digest
from skerry.devices.errors import (
    BundleError,
    CancelledError,
    InputError,
    SkerryError,
    TrustError,
    UnavailableError,
    UnsupportedError,
)
from skerry.devices.ids import ReleaseId
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.experiment import Shadow
from skerry.runtime.observe import Observer
from skerry.runtime.prepared import Prepared
from skerry.telemetry.histogram import Histogram
from skerry.updater.agent.decide import decide
from skerry.updater.agent.fetching import Fetching
from skerry.updater.agent.health import HealthLimits
from skerry.updater.agent.log import Log
from skerry.updater.agent.report import Reporter
from skerry.updater.agent.trial import Comparison, Models, Trials
from skerry.updater.fetch import RefusedError
from skerry.updater.store import slots as rules
from skerry.updater.store.slots import Failure, Update
from skerry.updater.store.store import Store
from skerry.updater.trust.assignment import Assignment

__all__ = ["Outcome", "Trust", "UpdateLimits", "Updater"]

Outcome = Literal["idle", "installed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLimits:
    """How an update is tried.

    Attributes:
        attempts: how often a candidate may be tried before it counts as failed: a crash on loading
            it must not repeat for ever.
        health: the trial.
    """

    attempts: int = 3
    health: HealthLimits = field(default_factory=HealthLimits)


class Trust(Protocol):
    """Who says what this device shall run."""

    def assignment(self) -> Assignment | None:
        """The release this device shall run."""

    def committed(self, release: ReleaseId) -> None:
        """The device runs `release` and will not go below it."""


class Updater:
    """Brings the device to what it is assigned, one `poll` at a time.

    Args:
        watch, latency, compare, stop: for `Trials`.
    """

    def __init__(
        self,
        store: Store,
        trust: Trust,
        fetching: Fetching,
        models: Models,
        reporter: Reporter,
        *,
        watch: Callable[[Observer], Callable[[], None]],
        latency: Callable[[Digest], Histogram] = lambda _: Histogram(),
        compare: Callable[[Prepared], Comparison] = Shadow,
        clock: Clock,
        stop: Event,
        log: Log,
        limits: UpdateLimits | None = None,
    ) -> None:
        self._store, self._trust, self._fetching = store, trust, fetching
        self._models, self._reporter = models, reporter
        self._clock, self._log = clock, log
        self._limits = limits = limits or UpdateLimits()
        self._trials = Trials(
            models,
            watch=watch,
            latency=latency,
            compare=compare,
            clock=clock,
            stop=stop,
            limits=limits.health,
        )
        self._refused: tuple[str, str] | None = None

    def poll(self) -> Outcome:
        """Look once, and do what is to be done.

        Raises:
            UnavailableError: later; `retry_after` on it may say when.
            TrustError: refused and reported; a later look may find the right bytes.
            RefusedError: the server refuses this device or its question.
        """
        self._store.become(rules.recovered(self._store.now))
        self._close()
        wanted = self._assignment()
        decision = decide(self._store.now, wanted)
        if decision in ("supersede", "withdraw"):
            self._abandon()
            decision = decide(self._store.now, wanted)
        if wanted is None or decision == "nothing":
            self._refused = None
            return "idle"
        if decision == "known_bad":
            bad = self._store.now.slots.failure(wanted.release)
            reason = bad.reason if bad else ""
            self._refuse(str(wanted.release), f"it failed here before: {reason}")
            return "idle"
        if decision == "begin":
            self._begin(wanted)
        return self._install()

    def _assignment(self) -> Assignment | None:
        try:
            return self._trust.assignment()
        except (TrustError, RefusedError) as error:
            self._refuse("", str(error))
            raise

    def _begin(self, wanted: Assignment) -> None:
        now = rules.begun(
            self._store.now,
            wanted.release,
            wanted.version,
            wanted.manifest,
            self._clock.now(),
            wanted.key,
        )
        self._store.become(now)
        self._log("update_started", release=wanted.release, version=wanted.version)
        self._reporter.event("update_started", str(wanted.release))

    def _abandon(self) -> None:
        self._log("update_abandoned", release=self._update.release)
        self._store.become(rules.abandoned(self._store.now))
        self._store.collect()
        self._reporter.slots(self._store.now.slots)

    def _install(self) -> Outcome:
        if self._update.state == "fetching":
            self._fetch()
        if self._update.state == "candidate":
            self._try()
        return self._close()

    def _fetch(self) -> None:
        release = self._update.release
        try:
            update = self._fetching.fetch(self._update)
        except UnavailableError:
            raise
        except (BundleError, UnsupportedError, RefusedError) as error:
            if isinstance(error, RefusedError) and not _final(error.status):
                raise
            self._fail("refused", str(error))
            return
        except TrustError as error:
            self._refuse(release, str(error))
            raise
        self._store.become(rules.fetched(self._store.now))
        self._log("downloaded", release=release, fetched=update.delta_bytes, of=update.full_bytes)
        self._reporter.event("downloaded", release, update=update)
        self._reporter.slots(self._store.now.slots)

    def _try(self) -> None:
        update = self._update
        if update.attempts >= self._limits.attempts:
            problem = f"the device stopped {update.attempts} times while it was tried"
            self._fail("golden_failed", problem)
            return
        self._store.become(rules.tried(self._store.now))
        manifest = update.manifest.descriptor()
        try:
            with self._store.blobs.forgetting():
                prepared = self._models.prepare(
                    Bundle.of(self._store.blobs, manifest), artifact=update.artifact
                )
        except TrustError as error:
            self._refetch(error)
            raise
        except SkerryError as error:
            self._fail("golden_failed", str(error))
            return
        self._trial(prepared)

    def _trial(self, prepared: Prepared) -> None:
        self._log("trial_started", release=self._update.release, artifact=self._update.artifact)
        self._reporter.event("trial_started", self._update.release, update=self._update)
        verdict, problem = self._trials.run(
            prepared, lambda: self._store.become(rules.committed(self._store.now))
        )
        if verdict == "wait":
            self._store.become(rules.postponed(self._store.now))
            raise CancelledError("stopped during a trial", where=self._update.release)
        if verdict == "ill":
            self._fail("rolled_back", problem)

    def _refetch(self, error: TrustError) -> None:
        """A blob changed on the disk between fetching and loading: fetch it again."""
        candidate = self._store.now.slots.candidate
        if candidate is not None:
            self._store.damaged(candidate)
        self._log("blob_damaged", release=self._update.release, reason=error)
        self._store.become(rules.abandoned(rules.recovered(self._store.now)))

    def _fail(self, failure: Failure, reason: str) -> None:
        self._store.become(rules.failed(self._store.now, failure, reason))

    def _close(self) -> Outcome:
        """Report an update that has ended, and clear up after it. Safe to do twice."""
        update = self._store.now.update
        if update is None or update.state not in ("committed", "failed"):
            return "idle"
        if update.state == "committed":
            self._trust.committed(update.id)
            self._models.forget_previous()
            self._log("committed", release=update.release)
            self._reporter.event("committed", update.release, update=update)
        else:
            failure = update.failure or "refused"
            self._log(failure, release=update.release, reason=update.reason)
            self._reporter.event(failure, update.release, reason=update.reason, update=update)
        self._reporter.slots(self._store.now.slots)
        self._refused = None
        self._store.become(rules.reported(self._store.now))
        self._store.collect()
        return "installed" if update.state == "committed" else "failed"

    def _refuse(self, release: str, reason: str) -> None:
        """Report a refusal, once for as long as it stays the same."""
        if self._refused != (release, reason):
            self._log("refused", release=release, reason=reason)
            self._reporter.event("refused", release, reason=reason)
            self._refused = (release, reason)

    @property
    def _update(self) -> Update:
        update = self._store.now.update
        if update is None:
            raise InputError("no update is in progress", where="journal")
        return update


def _final(status: int) -> bool:
    """Whether a refusal is about the blob. Others are about the device, or a portal on the way."""
    return 400 <= status < 500 and status not in (401, 403, 407)
