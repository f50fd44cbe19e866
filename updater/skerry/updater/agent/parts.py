"""What an agent is made of, and the one place where an `Updater` is put together."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import get_args

from skerry.devices.clock import Clock
from skerry.devices.enrolment import AgentSettings
from skerry.devices.profile import Profile
from skerry.runtime.bundle.card import Format
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.runtime import Runtime
from skerry.updater.agent.download import Downloader, DownloadLimits
from skerry.updater.agent.fetching import Fetching, apply_patch, unpack_patch
from skerry.updater.agent.health import Latencies
from skerry.updater.agent.log import Log
from skerry.updater.agent.report import Reporter
from skerry.updater.agent.schedule import ScheduleLimits
from skerry.updater.agent.update import UpdateLimits, Updater
from skerry.updater.fetch import Fetcher
from skerry.updater.store.store import Store, StoreLimits
from skerry.updater.trust.device import TrustedClient

__all__ = ["AgentLimits", "Observers", "Parts", "runnable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Every limit of an agent.

    Attributes:
        window_s: seconds that one telemetry window covers.
        end_s: seconds to wait for each thread at the end.
        again_s: seconds before a thread that failed begins again.
        memory_share: of the memory this process may use, what loaded releases may take together.
    """

    schedule: ScheduleLimits = field(default_factory=ScheduleLimits)
    download: DownloadLimits = field(default_factory=DownloadLimits)
    update: UpdateLimits = field(default_factory=UpdateLimits)
    store: StoreLimits = field(default_factory=StoreLimits)
    window_s: float = 60.0
    end_s: float = 10.0
    again_s: float = 5.0
    memory_share: float = 0.5


class Observers:
    """An `Observer` that passes each call on to others, which may come and go."""

    def __init__(self, *observers: Observer) -> None:
        self._lock, self._observers = Lock(), observers

    def observed(self, call: Observation) -> None:
        """Pass on one call."""
        for observer in self._observers:
            observer.observed(call)

    def watch(self, watch: Observer) -> Callable[[], None]:
        """Pass calls on to `watch` too, until what is returned is called."""
        with self._lock:
            self._observers = (*self._observers, watch)

        def end() -> None:
            with self._lock:
                self._observers = tuple(known for known in self._observers if known is not watch)

        return end


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The parts of one device's agent.

    Attributes:
        stop: set when the process shall end.
        wake: set to break off a pause or a download.
    """

    home: Path
    settings: AgentSettings
    profile: Profile
    store: Store
    runtime: Runtime
    observers: Observers
    latencies: Latencies
    reporter: Reporter
    limits: AgentLimits
    clock: Clock
    log: Log
    stop: Event
    wake: Event
    chance: random.Random

    def downloader(self, fetcher: Fetcher, server: str, limits: DownloadLimits) -> Downloader:
        """What fetches blobs from `server` into the store."""
        return Downloader(
            fetcher,
            server,
            self.store,
            clock=self.clock,
            interrupted=self.wake,
            limits=limits,
            chance=self.chance,
        )

    def trust(self, fetcher: Fetcher, server: str, *, carried: bool = False) -> TrustedClient:
        """What this device believes `server`.

        Args:
            carried: whether the server is a folder that was carried here.
        """
        return TrustedClient(
            self.home / "trust",
            fetcher,
            device=self.settings.device_id,
            server=server,
            clock=self.clock,
            carried=carried,
        )

    def fetching(self, downloader: Downloader, trust: TrustedClient) -> Fetching:
        """What brings blobs into the store."""
        return Fetching(
            self.store,
            downloader,
            trust,
            formats=runnable(self.profile),
            log=self.log,
            patcher=partial(apply_patch, cancelled=self.stop.is_set),
            unpacker=partial(unpack_patch, cancelled=self.stop.is_set),
        )

    def updater(self, trust: TrustedClient, fetching: Fetching) -> Updater:
        """What brings this device to what it is assigned."""
        return Updater(
            self.store,
            trust,
            fetching,
            self.runtime,
            self.reporter,
            watch=self.observers.watch,
            latency=self.latencies.of,
            clock=self.clock,
            stop=self.stop,
            log=self.log,
            limits=self.limits.update,
        )


def runnable(profile: Profile) -> tuple[Format, ...]:
    """The formats that the runtime knows and this machine has an engine for, preferred first."""
    return tuple(name for name in get_args(Format) if name in profile.formats)
