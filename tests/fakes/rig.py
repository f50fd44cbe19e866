"""One device with all it talks to in memory: operator, server, network, and a light runtime."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from fakes.bundles import make_bundle
from fakes.disk import QuickDisk
from fakes.operator import SERVER, Stage
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import SkerryError
from skerry.devices.files import Disk
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId, ModelName, ReleaseId
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.experiment import Agreement
from skerry.runtime.observe import Observation
from skerry.updater.agent.boot import mend, serve
from skerry.updater.agent.download import Downloader, DownloadLimits
from skerry.updater.agent.fetching import Fetching
from skerry.updater.agent.health import HealthLimits, Latencies
from skerry.updater.agent.update import UpdateLimits, Updater
from skerry.updater.repository import Release
from skerry.updater.sealing import ContentKey, Keyring, Parcel, parcels, purpose_of, seal, wrap
from skerry.updater.store.store import Store, StoreLimits
from skerry.updater.trust import TrustedClient

DEVICE = DeviceId("dev-1")
_QUICK = QuickDisk()


def identity(home: Path) -> Identity:
    """The key of the device that lives in `home`, made at the first call."""
    return Identity.create(home / "identity", _QUICK)


class LightRelease:
    """Stands for a loaded release: it was whole when it was loaded."""

    def __init__(self, bundle: Bundle, artifact: str) -> None:
        self.manifest, self.artifact = bundle.manifest.digest, artifact
        self.version = bundle.card.version


class LightModels:
    """`Models` that checks digests and computes nothing.

    Attributes:
        broken: manifest → error to raise on loading it.
        on_activate: called with each release that is about to serve.
        loads: how many releases were loaded.
    """

    def __init__(self) -> None:
        self.active: LightRelease | None = None
        self.previous: LightRelease | None = None
        self.broken: dict[Digest, SkerryError] = {}
        self.on_activate: Callable[[LightRelease], None] = lambda release: None
        self.loads = 0

    def prepare(self, bundle: Bundle, artifact: str | None = None) -> LightRelease:
        self.loads += 1
        assert artifact is not None
        bundle.verify(artifact)
        if bundle.manifest.digest in self.broken:
            raise self.broken[bundle.manifest.digest]
        return LightRelease(bundle, artifact)

    def activate(self, prepared: LightRelease) -> None:
        if prepared is not self.active:
            self.previous, self.active = self.active, prepared
        self.on_activate(prepared)

    def forget_previous(self) -> None:
        self.previous = None

    def close(self) -> None:
        self.active = self.previous = None


class FixedShadow:
    """A comparison whose outcome the test decides."""

    def __init__(self) -> None:
        self.found = Agreement(0, 0, 0.0, 0.0, 0, 0, 0.0)
        self.closed = False

    def observed(self, call: Observation) -> None:
        pass

    def agreement(self) -> Agreement:
        return self.found

    def close(self) -> None:
        self.closed = True


class ListReporter:
    """`Reporter` into lists."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.updates: list[Any] = []
        self.reported: list[Any] = []

    def event(self, kind: str, release: str, *, reason: str = "", update: Any = None) -> None:
        self.events.append((kind, release, reason))
        self.updates.append(update)

    def slots(self, slots: Any) -> None:
        self.reported.append(slots)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]


class ListLog:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, **facts: object) -> None:
        self.lines.append((event, facts))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


class Fleet:
    """The operator's and the server's side.

    Attributes:
        stage: the trust of it.
        fetcher: the network.
    """

    def __init__(self, folder: Path, now: float | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.stage = folder, Stage(folder)
        self.fetcher, self.clock = self.stage.fetcher, self.stage.clock
        if now is not None:
            self.clock.jump(now - self.clock.now())
        self.bundles: dict[int, Bundle] = {}
        self.keys: dict[str, ContentKey] = {}
        self.holder: Any = None  # the public key of the device, once it is here
        self.fetcher.serve(f"{SERVER}/keys/", self._key)

    def publish(self, counter: int, *, sealed: bool = False, **how: Any) -> Release:
        """Make a bundle (`make_bundle`'s arguments), sign it as release `counter`, publish it."""
        folder = self.folder / "bundles" / str(counter)
        bundle = Bundle.open(make_bundle(folder, version=str(counter), **how))
        self.bundles[counter] = bundle
        key = self.new_key() if sealed else ""
        for parcel in parcels(bundle, key):
            self.put(bundle.blobs.read(parcel.blob), parcel.key)
        name = ReleaseId(ModelName("linear"), counter)
        release = Release(name, str(counter), bundle.manifest, key)
        self.stage.sign(release)
        self.stage.publish()
        return release

    def new_key(self) -> str:
        """Make a content key, which the server hands out to the device."""
        key = ContentKey.fresh()
        self.keys[key.id] = key
        return key.id

    def _key(self, rest: str) -> bytes | None:
        device, _, name = rest.partition("/")
        key = self.keys.get(name.removesuffix(".json"))
        if key is None or device != str(DEVICE):
            return None
        return wrap(key, self.holder, purpose_of(key.id, device)).encode()

    def put(self, data: bytes, key: str = "") -> Parcel:
        """Put a blob on the server, sealed under the content key with the id `key`."""
        blob = Descriptor(Digest.of(data), len(data))
        parcel = Parcel(blob, key)
        sealed = b"".join(seal([data], blob, self.keys[key])) if key else data
        self.fetcher.put(f"{SERVER}/blobs/sha256/{parcel.name}", sealed)
        return parcel

    def url(self, digest: Digest) -> str:
        return f"{SERVER}/blobs/sha256/{digest.hex}"

    def weights(self, counter: int) -> Descriptor:
        """The ONNX blob of a release."""
        return self.bundles[counter].card.artifacts[0].blob.descriptor()

    def assign(self, release: Release | None, device: DeviceId = DEVICE) -> None:
        self.stage.director.assign(device, release)


class Rig:
    """One run of a device's agent, without process and threads. Make another to restart it."""

    def __init__(
        self,
        fleet: Fleet,
        home: Path,
        *,
        disk: Disk = _QUICK,
        store: StoreLimits | None = None,
        download: DownloadLimits | None = None,
        update: UpdateLimits | None = None,
        models: Any = None,
        patcher: Callable[[Path, Path, Path], None] | None = None,
        reporter: ListReporter | None = None,
    ) -> None:
        self.fleet, self.home = fleet, home
        self.clock, self.stop, self.interrupted = fleet.clock, Event(), Event()
        self.log, self.reporter = ListLog(), reporter or ListReporter()
        self.models = models or LightModels()
        self.latencies, self.shadow = Latencies(), FixedShadow()
        self.watches: list[Any] = []
        fleet.holder = identity(home).public_key
        self.keys = Keyring(home / "store/keys", str(DEVICE), [identity(home)], disk)
        self.store = Store(home / "store", disk=disk, limits=store, keys=self.keys)
        self.trust = TrustedClient(
            home / "trust", fleet.fetcher, device=DEVICE, server=SERVER, clock=self.clock, disk=disk
        )
        self.downloader = Downloader(
            fleet.fetcher,
            SERVER,
            self.store,
            clock=self.clock,
            interrupted=self.interrupted,
            limits=download,
        )
        how = {} if patcher is None else {"patcher": patcher}
        self.fetching = fetching = Fetching(
            self.store, self.downloader, self.trust, formats=("onnx",), log=self.log, **how
        )
        self.updater = Updater(
            self.store,
            self.trust,
            fetching,
            self.models,
            self.reporter,
            watch=self._watch,
            latency=self.latencies.of,
            compare=lambda before: self.shadow,
            clock=self.clock,
            stop=self.stop,
            log=self.log,
            limits=update or UpdateLimits(health=HealthLimits(seconds=5.0)),
        )
        serve(self.store, self.models, self.reporter, self.log)

    @classmethod
    def enrolled(cls, fleet: Fleet, home: Path, **how: Any) -> "Rig":
        """A device that has just joined."""
        home.mkdir(parents=True, exist_ok=True)
        trust = TrustedClient(
            home / "trust",
            fleet.fetcher,
            device=DEVICE,
            server=SERVER,
            clock=fleet.clock,
            disk=how.get("disk", _QUICK),
        )
        image = fleet.stage.image.read("1.root.json")
        director = fleet.stage.director.read(DEVICE, "1.root.json")
        assert image and director
        trust.enrol(image, director)
        return cls(fleet, home, **how)

    def poll(self) -> str:
        return self.updater.poll()

    def mend(self) -> None:
        mend(self.store, self.models, self.fetching, self.log)

    def call(self, *, error: str | None = None, seconds: float = 0.001) -> None:
        """One prediction, as the runtime would tell of it."""
        active = self.models.active
        call = Observation(active.manifest, "onnx-fp32", seconds, 1, {}, {}, error)
        for watch in (self.latencies, *self.watches):
            watch.observed(call)

    @property
    def serving(self) -> str:
        """The version that serves, or ""."""
        return self.models.active.version if self.models.active else ""

    @property
    def slots(self) -> tuple[str, str, str]:
        """The releases of active, previous, candidate; "" where there is none."""
        slots = self.store.now.slots
        held = (slots.active, slots.previous, slots.candidate)
        return tuple(slot.release if slot else "" for slot in held)  # type: ignore[return-value]

    def _watch(self, watch: Any) -> Callable[[], None]:
        self.watches.append(watch)
        return lambda: self.watches.remove(watch)
