"""The agent's process: serves first, then looks for updates and reports, until it is stopped."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

from skerry.devices.clock import Clock, SystemClock
from skerry.devices.enrolment import SERVER_CA, AgentSettings
from skerry.devices.identity import Identity
from skerry.devices.lock import exclusive
from skerry.devices.probe import probe
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.room import SwapLimits
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import Server
from skerry.telemetry.messages import Command, new_boot_id
from skerry.telemetry.mqtt import device_link
from skerry.telemetry.outbox import Outbox, Priority
from skerry.telemetry.recorder import Recorder
from skerry.telemetry.topics import Address
from skerry.telemetry.uplink import Uplink
from skerry.updater.agent.boot import mend, serve
from skerry.updater.agent.capturing import Capturing
from skerry.updater.agent.health import Latencies
from skerry.updater.agent.log import Log
from skerry.updater.agent.media import take_asked, update_from
from skerry.updater.agent.parts import AgentLimits, Observers, Parts, runnable
from skerry.updater.agent.renewal import RENEWAL_LIMIT_BYTES, Renewal, holders
from skerry.updater.agent.report import OutboxReporter
from skerry.updater.agent.rounds import Rounds, guarded
from skerry.updater.fetch import HttpFetcher
from skerry.updater.sealing import Keyring
from skerry.updater.store.store import Store

__all__ = ["AgentProcess"]


class AgentProcess:
    """One device's agent.

    Args:
        home: the enrolled device's folder.
        stop: set to end; then call `wake`.
    """

    def __init__(
        self,
        home: Path,
        *,
        stop: Event,
        limits: AgentLimits | None = None,
        log: Log | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._home, self._stop, self._wake = home, stop, Event()
        self._limits, self._log = limits or AgentLimits(), log or Log()
        self._clock = clock or SystemClock()

    def wake(self) -> None:
        """Look at the server now."""
        self._wake.set()

    def run(self, listener: socket.socket) -> None:
        """Serve on `listener` and keep the model right until `stop` is set, then end cleanly.

        Raises:
            InputError: the home is not enrolled, or damaged.
            UnavailableError: another agent runs in this home, or the disk cannot be written.
        """
        with ExitStack() as stack:
            parts, outbox, recorder = self._parts(stack)
            serve(parts.store, parts.runtime, parts.reporter, self._log)
            server = Server(parts.runtime, listener=listener)
            server.start()
            stack.callback(server.stop)
            self._log("listening", address=server.address)
            parts.reporter.slots(parts.store.now.slots)
            capturing = self._capturing(stack, parts)
            self._thread(stack, "uplink", lambda: self._uplink(parts, outbox, capturing))
            self._thread(stack, "windows", lambda: self._windows(recorder, outbox))
            self._rounds(stack, parts, capturing).run()
        self._log("stopped")

    def update_once(self, media: Path) -> str:
        """Without serving: bring the device to what the medium assigns; what came of it.

        Raises:
            SkerryError: as `run` and `Updater.poll`.
        """
        with ExitStack() as stack:
            parts, _, _ = self._parts(stack)
            serve(parts.store, parts.runtime, parts.reporter, self._log)
            return update_from(parts, media)

    def _open(self, stack: ExitStack) -> tuple[Outbox, Recorder]:
        stack.enter_context(exclusive(self._home / "store.lock"))
        outbox = Outbox(self._home / "outbox.db", new_boot_id(), clock=self._clock)
        stack.callback(outbox.close)
        return outbox, Recorder(self._clock)

    def _parts(self, stack: ExitStack) -> tuple[Parts, Outbox, Recorder]:
        own = holders(self._home / "identity")
        self._identity = own[0]
        outbox, recorder = self._open(stack)
        settings, profile = AgentSettings.load(self._home), probe()
        folder = self._home / "store"
        keys = Keyring(folder / "keys", settings.device, own)
        latencies = Latencies()
        observers = Observers(recorder, latencies)
        memory = SwapLimits(bytes=int(profile.memory * self._limits.memory_share))
        options = RuntimeOptions(formats=runnable(profile), memory=memory)
        runtime = Runtime(options, observers)
        stack.callback(runtime.close)
        parts = Parts(
            home=self._home,
            settings=settings,
            profile=profile,
            store=Store(folder, limits=self._limits.store, keys=keys),
            runtime=runtime,
            observers=observers,
            latencies=latencies,
            reporter=OutboxReporter(outbox, self._clock, profile),
            limits=self._limits,
            clock=self._clock,
            log=self._log,
            stop=self._stop,
            wake=self._wake,
            chance=random.Random(),  # noqa: S311 - spreads load, guards nothing
        )
        return parts, outbox, recorder

    def _rounds(self, stack: ExitStack, parts: Parts, capturing: Capturing) -> Rounds:
        settings = parts.settings
        fetcher = self._fetcher(stack, lambda: self._identity)
        downloader = parts.downloader(fetcher, settings.server, self._limits.download)
        renewal = self._renewal(parts)

        def carried() -> None:
            if folder := take_asked(self._home):
                update_from(parts, folder)

        trust = parts.trust(fetcher, settings.server)
        fetching = parts.fetching(downloader, trust)

        def mended() -> None:
            mend(parts.store, parts.runtime, fetching, self._log)

        return Rounds(
            parts.updater(trust, fetching).poll,
            [carried, mended, renewal.look, capturing.look],
            lambda: downloader.fetched_bytes,
            clock=self._clock,
            stop=self._stop,
            wake=self._wake,
            log=self._log,
            limits=self._limits.schedule,
            chance=parts.chance,
        )

    def _fetcher(self, stack: ExitStack, who: Callable[[], Identity]) -> HttpFetcher:
        """The way to the server for the holder of a key."""
        settings = AgentSettings.load(self._home)

        def authorization() -> str:
            now = self._clock.now()
            return f"Bearer {who().assertion(settings.device_id, settings.audience, now)}"

        fetcher = HttpFetcher(authorize=authorization, ca_file=self._server_ca())
        stack.callback(fetcher.close)
        return fetcher

    def _renewal(self, parts: Parts) -> Renewal:
        assert parts.store.keys is not None

        def post(holder: Identity, body: bytes) -> bytes:
            with ExitStack() as call:
                return self._fetcher(call, lambda: holder).send(
                    "POST",
                    f"{parts.settings.server}/v1/renew",
                    body,
                    content_type="application/json",
                    max_bytes=RENEWAL_LIMIT_BYTES,
                )

        def adopted(fresh: Identity) -> None:
            self._identity = fresh
            self._log("key_renewed")

        return Renewal(
            self._home / "identity",
            self._identity,
            parts.settings.device,
            post,
            self._clock,
            parts.chance,
            keys=parts.store.keys,
            adopted=adopted,
        )

    def _capturing(self, stack: ExitStack, parts: Parts) -> Capturing:
        capturing = Capturing(
            self._home,
            parts.settings.device_id,
            parts.runtime,
            parts.observers,
            parts.reporter,
            clock=self._clock,
            log=self._log,
        )
        stack.callback(capturing.end)
        return capturing

    def _uplink(self, parts: Parts, outbox: Outbox, capturing: Capturing) -> None:
        settings = parts.settings
        if settings.mqtt is None:
            return
        device = settings.device_id
        address = Address(settings.tenant_id, device)
        link = device_link(
            settings.mqtt.host or urlsplit(settings.server).hostname or "",
            settings.mqtt.port,
            address,
            outbox.boot,
            lambda: self._identity.assertion(device, "mqtt", self._clock.now()),
            clock=self._clock,
            tls=ssl.create_default_context(cafile=self._server_ca()) if settings.mqtt.tls else None,
        )

        def commanded(command: Command) -> None:
            self._log("woken", command=command.id)
            if command.kind == "capture":
                capturing.take(command.order)
            self.wake()

        uplink = Uplink(link, outbox, address, on_command=commanded, clock=self._clock)
        uplink.run(self._stop)

    def _server_ca(self) -> Path | None:
        file = self._home / SERVER_CA
        return file if file.is_file() else None

    def _windows(self, recorder: Recorder, outbox: Outbox) -> None:
        ended = False
        while not ended:
            ended = self._clock.wait(self._stop, self._limits.window_s)
            bodies = [("window", window.encode(), Priority.WINDOW) for window in recorder.rotate()]
            if bodies:
                guarded(partial(outbox.put_many, bodies), self._log)

    def _thread(self, stack: ExitStack, name: str, work: Callable[[], None]) -> None:
        """Do `work` beside the rest, again where it fails, until the end."""

        def run() -> None:
            while not self._stop.is_set():
                if guarded(work, self._log) is None:
                    return
                self._clock.wait(self._stop, self._limits.again_s)

        thread = Thread(target=run, name=name, daemon=True)
        thread.start()
        stack.callback(thread.join, self._limits.end_s)
