"""An operator, a server and devices, all in memory: what trust tests are played with."""

from pathlib import Path

from fakes.clock import FakeClock
from fakes.disk import QuickDisk
from fakes.fetcher import FakeFetcher
from fakes.repository import MemoryMetadata
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.files import Disk
from skerry.devices.ids import DeviceId, ModelName, ReleaseId
from skerry.updater.repository import (
    DirectorRepository,
    Holders,
    ImageRepository,
    OfflineRepository,
    OnlineKeys,
    OnlinePublic,
    Release,
)
from skerry.updater.repository.releases import target_of, withdrawn
from skerry.updater.trust import TrustedClient

SERVER = "https://fleet.example"


def release(counter: int, model: str = "digits", content: bytes | None = None) -> Release:
    """A release whose manifest is made up; trust looks at its digest and length alone."""
    manifest = content or f"manifest of {model} {counter}".encode()
    return Release(
        ReleaseId(ModelName(model), counter),
        f"v{counter}",
        Descriptor(Digest.of(manifest), len(manifest)),
    )


class Stage:
    """One operator's folder, one server's keys and stores, and the network between."""

    def __init__(self, folder: Path, *, holders: Holders | None = None) -> None:
        self.folder, self.clock = folder, FakeClock()
        folder.mkdir(exist_ok=True)
        self.keys = OnlineKeys.generate(folder / "server-keys")
        self.operator = OfflineRepository.create(
            folder / "operator",
            OnlinePublic.decode(self.keys.public),
            self.clock,
            holders=holders,
        )
        self.image_store, self.director_store = MemoryMetadata(), MemoryMetadata()
        self.image = ImageRepository(self.image_store, self.keys, self.clock)
        self.director = DirectorRepository(self.director_store, self.keys, self.clock)
        self.fetcher = FakeFetcher()
        self.fetcher.serve(f"{SERVER}/image/", self.image.read)
        self.fetcher.serve(f"{SERVER}/director/", self._director)
        self.publish()

    def _director(self, rest: str) -> bytes | None:
        device, _, name = rest.partition("/")
        return self.director.read(DeviceId(device), name)

    def sign(self, *releases: Release) -> None:
        """Sign `releases` into the operator's targets, as `add_release` does for bundles."""
        targets = self.operator.next_targets()
        for one in releases:
            target = target_of(one)
            targets.targets[target.path] = target
        self.operator.sign_targets(targets)

    def withdraw(self, release_id: str) -> None:
        """Take a release out of the operator's targets."""
        targets = self.operator.next_targets()
        withdrawn(targets, ReleaseId.parse(release_id))
        self.operator.sign_targets(targets)

    def publish(self) -> list[Release]:
        image, director = self.operator.files()
        self.director.publish(director)
        return self.image.publish(image)

    def device(self, name: str = "dev-1", disk: Disk | None = None) -> TrustedClient:
        """The client of a device, enrolled the first time it is asked for."""
        place = self.folder / "devices" / name
        client = TrustedClient(
            place,
            self.fetcher,
            device=DeviceId(name),
            server=SERVER,
            clock=self.clock,
            disk=disk or QuickDisk(),
        )
        if not (place / "image" / "root.json").exists():
            image_root = self.image.read("1.root.json")
            director_root = self.director.read(DeviceId(name), "1.root.json")
            assert image_root and director_root
            client.enrol(image_root, director_root)
        return client
