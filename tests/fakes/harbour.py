"""A fleet whose devices are played by the test, on the real director and a store in memory."""

from pathlib import Path

from fakes.fleet import MemoryFleet
from fakes.operator import SERVER, Stage, release
from skerry.devices.digest import Digest
from skerry.devices.ids import DeviceId, TenantId
from skerry.telemetry.collector import Record
from skerry.telemetry.histogram import Histogram
from skerry.telemetry.messages import Event, SlotReport, TwinReported
from skerry.telemetry.topics import Address
from skerry.telemetry.window import Window
from skerry.updater.rollout import Policy, Rollout
from skerry.updater.rollout import Stage as Step
from skerry.updater.sealing import SealedBlobs
from skerry.updater.server.ca import FleetAuthority
from skerry.updater.server.conduct import Conductor
from skerry.updater.server.fleet import Fleet
from skerry.updater.server.keyroom import KeyRoom
from skerry.updater.server.records import Claim, Device, PublishedRelease

ALL = Policy(stages=(Step("all", percent=100),))


class Harbour:
    """A fleet of devices that are played by the test."""

    def __init__(self, folder: Path) -> None:
        self.stage = Stage(folder / "stage")
        self.clock = self.stage.clock
        self.store = MemoryFleet()
        tenant = TenantId("main")
        keys = KeyRoom(folder / "content-keys", self.stage.keys.wrap)
        self.fleet = Fleet(
            tenant=tenant,
            folder=folder,
            url=SERVER,
            store=self.store,
            blobs=SealedBlobs(folder, keys),
            keys=keys,
            image=self.stage.image,
            director=self.stage.director,
            director_store=self.stage.director_store,
            authority=FleetAuthority.create(folder / "ca", tenant, self.clock.now()),
            clock=self.clock,
        )
        self.woken: list[str] = []
        self.prepared: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.conductor = self.new_conductor()
        self._seq = 0

    def new_conductor(self) -> Conductor:
        """As after a restart of the server."""
        return Conductor(
            self.fleet,
            lambda device: self.woken.append(str(device)),
            self.prepared.append,
            lambda base, release: self.asked.append((base, release)),
        )

    def publish(self, *counters: int) -> None:
        self.stage.sign(*(release(n) for n in counters))
        for r in self.stage.publish():
            manifest = str(r.manifest.digest)
            self.store.access.add_release(
                PublishedRelease(str(r.id), r.version, manifest, r.manifest.size, self.clock.now())
            )

    def withdraw(self, counter: int) -> None:
        self.stage.withdraw(f"digits/{counter}")
        self.stage.publish()

    def enrol(self, *names: str, profile: str = "{}") -> None:
        now = self.clock.now()
        for name in names:
            self.store.registry.add_claim(Claim(name, now, now + 60))
            key = str(Digest.of(name.encode()))
            self.store.registry.enrol(name, Device(name, key, "PEM", 0, now, profile), now)

    def tell(self, device: str, *values: Event | TwinReported | Window) -> None:
        streams = {Event: "event", TwinReported: "twin/reported", Window: "window"}
        for value in values:
            self._seq += 1
            address = Address(TenantId("main"), DeviceId(device))
            now = self.clock.now()
            stream = streams[type(value)]
            self.store.telemetry.store(
                [Record(address, stream, "0" * 16, self._seq, now, now, 0, value)]  # type: ignore[arg-type]
            )

    def commit(self, device: str, counter: int) -> None:
        manifest = str(release(counter).manifest.digest)
        slot = SlotReport(f"digits/{counter}", manifest, "onnx-int8")
        now = self.clock.now()
        self.tell(device, TwinReported(now, slot), Event("committed", now, f"digits/{counter}"))

    def fail(self, device: str, counter: int) -> None:
        self.tell(device, Event("golden_failed", self.clock.now(), f"digits/{counter}", reason="x"))

    def window(self, device: str, counter: int, requests: int, errors: int) -> None:
        latency = Histogram()
        latency.add(0.001, requests - errors)
        now = self.clock.now()
        self.tell(
            device,
            Window(
                start=now,
                end=now,
                manifest=str(release(counter).manifest.digest),
                artifact="onnx-int8",
                requests=requests,
                errors={"engine": errors} if errors else {},
                latency=latency,
            ),
        )

    def start(self, counter: int, policy: Policy, *targets: str) -> str:
        rollout = self.conductor.create(f"digits/{counter}", policy, targets)
        self.conductor.change(rollout.id, "start")
        return rollout.id

    def settle(self) -> None:
        for _ in range(50):
            if not self.conductor.turn():
                return
        raise AssertionError("the rollouts never come to rest")

    def assigned(self) -> dict[str, int]:
        found = {}
        for device in self.store.registry.devices():
            said = self.fleet.director.assigned(DeviceId(device.id))
            found[device.id] = said.id.counter if said else 0
        return found

    def rollout(self, rollout_id: str) -> Rollout:
        found = self.store.rollouts.get(rollout_id)
        assert found is not None
        return found

    def deliver(self, counter: int, *devices: str) -> str:
        """Roll `counter` out to everyone, who all commit."""
        rollout = self.start(counter, ALL)
        self.settle()
        for device in devices:
            self.commit(device, counter)
        self.settle()
        assert self.rollout(rollout).state == "done"
        return rollout
