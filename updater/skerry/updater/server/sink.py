"""Where the collector leaves what came over MQTT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from skerry.devices.clock import Clock
from skerry.devices.ids import TenantId
from skerry.telemetry.collector import Record
from skerry.telemetry.messages import State
from skerry.telemetry.topics import Address
from skerry.telemetry.window import Window
from skerry.updater.server.store import FleetStore

__all__ = ["FleetSink"]


class FleetSink:
    """`TelemetrySink` on a fleet store.

    Args:
        store: where records go.
        tenant: records of others are not kept.
        stir: called when something was stored that a rollout may be waiting for.
    """

    def __init__(
        self, store: FleetStore, tenant: TenantId, clock: Clock, stir: Callable[[], None]
    ) -> None:
        self._store, self._tenant, self._clock, self._stir = store, tenant, clock, stir
        self._lock = Lock()
        self._fresh: set[tuple[str, str]] = set()

    def store(self, batch: Sequence[Record]) -> Sequence[Record]:
        mine = [record for record in batch if record.address.tenant == self._tenant]
        new = self._store.telemetry.store(mine)
        with self._lock:
            for record in new:
                if isinstance(record.value, Window) and record.value.sketches:
                    self._fresh.add((str(record.address.device), record.value.manifest))
        if new:
            self._stir()
        return new

    def presence(self, address: Address, state: State) -> None:
        if address.tenant == self._tenant:
            now = self._clock.now()
            self._store.registry.presence(str(address.device), state.online, state.boot, now)
            self._stir()

    def fresh(self) -> set[tuple[str, str]]:
        """The (device, manifest) pairs with new sketches since the last call."""
        with self._lock:
            fresh, self._fresh = self._fresh, set()
        return fresh
