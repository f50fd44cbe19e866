"""What runs beside HTTP in the server's process."""

from __future__ import annotations

import logging
import secrets
import ssl
from collections.abc import Callable
from threading import Event, Thread

from skerry.devices.errors import SkerryError, UnavailableError
from skerry.devices.ids import DeviceId
from skerry.telemetry.collector import Collector
from skerry.telemetry.messages import Command
from skerry.telemetry.mqtt import MqttLink, MqttOptions
from skerry.telemetry.topics import Address
from skerry.updater.server.conduct import Conductor
from skerry.updater.server.deltas import DeltaMaker
from skerry.updater.server.doorman import COLLECTOR
from skerry.updater.server.drift import DriftWatch
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.sink import FleetSink
from skerry.updater.server.tls import ServerTls

__all__ = ["EngineRoom"]

_TIDY_PAUSE_SECONDS = 0.1
_LOG = logging.getLogger(__name__)


class EngineRoom:
    """The threads beside HTTP: the collector, the rollouts, patches, and what is too old.

    Args:
        host, port: where the broker listens.
        secret: the collector's password there.
        tls: where the server's certificate comes from; None where it serves without.
    """

    def __init__(
        self, fleet: Fleet, host: str, port: int, secret: str, tls: ServerTls | None = None
    ) -> None:
        self._fleet, self._ending, self._tls = fleet, Event(), tls
        self._deltas = DeltaMaker(fleet, self._ending)
        self.conductor = Conductor(fleet, self._wake, self._deltas.prepare, self._deltas.ask)
        self._sink = FleetSink(fleet.store, fleet.tenant, fleet.clock, self.conductor.stir)
        self._drift = DriftWatch(fleet)
        options = MqttOptions(
            host=host,
            port=port,
            username=COLLECTOR,
            password=lambda: secret,
            tls=None if tls is None else _to_ourselves(),
        )
        self._collector = Collector(MqttLink(options), self._sink, clock=fleet.clock)
        self._threads = [
            Thread(target=self._work, name="rollouts", daemon=True),
            Thread(target=self._deltas.work, name="deltas", daemon=True),
            Thread(target=self._tidy, name="tidying", daemon=True),
        ]

    def start(self) -> None:
        """Begin all of them."""
        self._collector.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all of them, once what was taken is stored."""
        self._ending.set()
        self.conductor.stir()
        self._deltas.stir()
        for thread in self._threads:
            thread.join()
        self._collector.stop()

    def counters(self) -> dict[str, int]:
        """What the collector took, saw twice, could not read, and had no room for."""
        c = self._collector
        return {
            "stored": c.stored,
            "duplicate": c.duplicates,
            "refused": c.refused,
            "left": c.left,
        }

    def order(self, device: DeviceId, order: bytes) -> None:
        """Hand a signed capture order to `device`, if it is connected now.

        Raises:
            UnavailableError: this server is not connected to its broker.
        """
        now, number = self._fleet.clock.now(), f"capture-{secrets.token_hex(8)}"
        address = Address(self._fleet.tenant, device)
        self._collector.command(address, Command(number, "capture", now, order))

    def _wake(self, device: DeviceId) -> None:
        command = Command(f"poll-{secrets.token_hex(8)}", "poll", self._fleet.clock.now())
        try:
            self._collector.command(Address(self._fleet.tenant, device), command)
        except UnavailableError as error:
            _LOG.info("%s is not woken, it will poll: %s", device, error)

    def _work(self) -> None:
        limits, clock = self._fleet.limits, self._fleet.clock
        refreshed = judged = float("-inf")
        while not self._ending.is_set():
            moved = self._safely(self.conductor.turn)
            now = clock.monotonic()
            if now - judged >= limits.drift_seconds:
                judged = now
                self._safely(lambda: self._drift.judge(self._sink.fresh()))
            if now - refreshed >= limits.refresh_seconds:
                refreshed = now
                self._safely(self._refresh)
                if self._tls is not None:
                    self._safely(self._tls.renew)
            if not moved:
                self.conductor.wait(limits.turn_seconds)

    def _refresh(self) -> None:
        if self._fleet.image.releases():
            self._fleet.image.refresh()

    def _tidy(self) -> None:
        limits, clock = self._fleet.limits, self._fleet.clock
        while not self._ending.is_set():
            self._safely(self._prune)
            while self._safely(lambda: self._fleet.store.telemetry.slim(limits.drift_windows)):
                if clock.wait(self._ending, _TIDY_PAUSE_SECONDS):  # others write meanwhile
                    return
            clock.wait(self._ending, limits.prune_seconds)

    def _prune(self) -> None:
        now, limits = self._fleet.clock.now(), self._fleet.limits
        self._fleet.store.telemetry.prune(
            now - limits.window_days * 86_400, now - limits.event_days * 86_400
        )

    def _safely(self, work: Callable[[], object]) -> bool:
        try:
            return bool(work())
        except SkerryError as error:
            _LOG.warning("%s", error)
        except Exception:  # noqa: BLE001 - one bad turn must not end all later ones
            _LOG.exception("a turn failed")
        return False


def _to_ourselves() -> ssl.SSLContext:
    """For the collector, whose broker is this very process at an address of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
