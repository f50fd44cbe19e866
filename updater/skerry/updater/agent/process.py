"""The agent's process: serves first, then looks for updates and reports, until it is stopped."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread
from typing import get_args
from urllib.parse import urlsplit

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.enrolment import AgentSettings
from skerry.devices.errors import CancelledError, SkerryError
from skerry.devices.identity import Identity
from skerry.devices.probe import probe
from skerry.runtime.bundle.card import Format
from skerry.runtime.observe import Observation, Observer
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import Server
from skerry.telemetry.messages import Command, new_boot_id
from skerry.telemetry.mqtt import device_link
from skerry.telemetry.outbox import Outbox, Priority
from skerry.telemetry.recorder import Recorder
from skerry.telemetry.topics import Address
from skerry.telemetry.uplink import Uplink
from skerry.updater.agent.boot import mend, serve
from skerry.updater.agent.download import Downloader, DownloadLimits
from skerry.updater.agent.fetching import Fetching
from skerry.updater.agent.health import HealthWatch
from skerry.updater.agent.lock import exclusive
from skerry.updater.agent.log import Log
from skerry.updater.agent.report import OutboxReporter
from skerry.updater.agent.schedule import (
    ScheduleLimits,
    pause_after_failures,
    pause_between_polls,
)
from skerry.updater.agent.update import UpdateLimits, Updater
from skerry.updater.fetch import HttpFetcher
from skerry.updater.store.store import Store, StoreLimits
from skerry.updater.trust.device import TrustedClient

__all__ = ["AgentLimits", "AgentProcess", "Observers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLimits:
    """Every limit of an agent.

    Attributes:
        window_s: seconds that one telemetry window covers.
        end_s: seconds to wait for each thread at the end.
    """

    schedule: ScheduleLimits = field(default_factory=ScheduleLimits)
    download: DownloadLimits = field(default_factory=DownloadLimits)
    update: UpdateLimits = field(default_factory=UpdateLimits)
    store: StoreLimits = field(default_factory=StoreLimits)
    window_s: float = 60.0
    end_s: float = 10.0


class Observers:
    """An `Observer` that passes each call on to others, which may come and go."""

    def __init__(self, *observers: Observer) -> None:
        self._lock, self._observers = Lock(), observers

    def observed(self, call: Observation) -> None:
        """Pass on one call."""
        for observer in self._observers:
            observer.observed(call)

    def watch(self, watch: HealthWatch) -> Callable[[], None]:
        """Pass calls on to `watch` too, until what is returned is called."""
        with self._lock:
            self._observers = (*self._observers, watch)

        def end() -> None:
            with self._lock:
                self._observers = tuple(known for known in self._observers if known is not watch)

        return end


class AgentProcess:
    """One device's agent.

    Args:
        home: the enrolled device's folder.
        listener: the socket to serve on.
        stop: set to end.
    """

    def __init__(
        self,
        home: Path,
        listener: socket.socket,
        *,
        stop: Event,
        limits: AgentLimits | None = None,
        log: Log | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._home, self._listener, self._stop = home, listener, stop
        self._limits, self._log = limits or AgentLimits(), log or Log()
        self._clock = clock or SystemClock()
        self._wake = Event()
        self._chance = random.Random()  # noqa: S311 - spreads load, guards nothing

    def wake(self) -> None:
        """Look at the server now."""
        self._wake.set()

    def run(self) -> None:
        """Serve and keep the model right until `stop` is set, then end cleanly.

        Raises:
            InputError: the home is not enrolled, or damaged.
            UnavailableError: another agent runs in this home, or the disk cannot be written.
        """
        with ExitStack() as stack:
            stack.enter_context(exclusive(self._home / "store.lock"))
            self._run(stack)
        self._log("stopped")

    def _run(self, stack: ExitStack) -> None:
        settings, profile = AgentSettings.load(self._home), probe()
        store = Store(self._home / "store", limits=self._limits.store)
        outbox = Outbox(self._home / "outbox.db", new_boot_id(), clock=self._clock)
        stack.callback(outbox.close)
        runnable: tuple[Format, ...] = tuple(
            name for name in get_args(Format) if name in profile.formats
        )
        recorder = Recorder(self._clock)
        observers = Observers(recorder)
        runtime = Runtime(RuntimeOptions(formats=runnable), observers)
        stack.callback(runtime.close)
        reporter = OutboxReporter(outbox, self._clock, profile)
        serve(store, runtime, reporter, self._log)
        server = Server(runtime, listener=self._listener)
        server.start()
        stack.callback(server.stop)
        self._log("listening", address=server.address)

        identity = Identity.load(self._home / "identity")
        fetcher = HttpFetcher(authorize=lambda: f"Bearer {self._assertion(identity, settings)}")
        stack.callback(fetcher.close)
        downloader = Downloader(
            fetcher,
            settings.server,
            store,
            clock=self._clock,
            interrupted=self._wake,
            limits=self._limits.download,
            chance=self._chance,
        )
        trust = TrustedClient(
            self._home / "trust",
            fetcher,
            device=settings.device_id,
            server=settings.server,
            clock=self._clock,
        )
        updater = Updater(
            store,
            trust,
            Fetching(store, downloader, trust, formats=runnable, log=self._log),
            runtime,
            reporter,
            watch=observers.watch,
            clock=self._clock,
            stop=self._stop,
            log=self._log,
            limits=self._limits.update,
        )
        reporter.slots(store.now.slots)
        self._thread(stack, "uplink", lambda: self._uplink(settings, identity, outbox))
        self._thread(stack, "windows", lambda: self._windows(recorder, outbox))
        self._loop(updater, downloader, lambda: mend(store, runtime, downloader, self._log))

    def _assertion(self, identity: Identity, settings: AgentSettings) -> str:
        return identity.assertion(settings.device_id, settings.audience, self._clock.now())

    def _loop(self, updater: Updater, downloader: Downloader, mending: Callable[[], None]) -> None:
        limits, failures = self._limits.schedule, 0
        while not self._stop.is_set():
            self._wake.clear()
            before = downloader.fetched_bytes
            error = self._guarded(mending) or self._guarded(updater.poll)
            if error is None:
                failures, pause = 0, pause_between_polls(limits, self._chance)
            else:
                failures = 1 if downloader.fetched_bytes > before else failures + 1
                asked = getattr(error, "retry_after", None)
                pause = pause_after_failures(failures, asked, limits, self._chance)
                if isinstance(error, CancelledError):
                    pause = 0.0
            if self._stop.is_set() or not self._clock.wait(self._wake, pause):
                continue
            self._clock.wait(self._stop, self._chance.uniform(0, limits.wake_spread_s))

    def _guarded(self, work: Callable[[], object]) -> Exception | None:
        """Do `work`; what went wrong. Serving goes on whatever it was."""
        try:
            work()
        except SkerryError as error:
            self._log("later", reason=error)
            return error
        except Exception as error:  # noqa: BLE001 - a fault in updating must not end serving
            self._log("fault", reason=f"{type(error).__name__}: {error}")
            return error
        return None

    def _uplink(self, settings: AgentSettings, identity: Identity, outbox: Outbox) -> None:
        if settings.mqtt is None:
            return
        device, tenant = settings.device_id, settings.tenant_id
        address = Address(tenant, device)
        link = device_link(
            settings.mqtt.host or urlsplit(settings.server).hostname or "",
            settings.mqtt.port,
            address,
            outbox.boot,
            lambda: identity.assertion(device, "mqtt", self._clock.now()),
            clock=self._clock,
        )
        uplink = Uplink(link, outbox, address, on_command=self._commanded, clock=self._clock)
        uplink.run(self._stop)

    def _commanded(self, command: Command) -> None:
        self._log("woken", command=command.id)
        self.wake()

    def _windows(self, recorder: Recorder, outbox: Outbox) -> None:
        ended = False
        while not ended:
            ended = self._clock.wait(self._stop, self._limits.window_s)
            bodies = [("window", window.encode(), Priority.WINDOW) for window in recorder.rotate()]
            if bodies:
                self._guarded(partial(outbox.put_many, bodies))

    def _thread(self, stack: ExitStack, name: str, work: Callable[[], None]) -> None:
        thread = Thread(target=work, name=name, daemon=True)
        thread.start()
        stack.callback(thread.join, self._limits.end_s)
