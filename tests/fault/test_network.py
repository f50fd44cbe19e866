"""The network fails at every single request of an update, in every way: a real server misbehaves.

Whatever happens, the device takes a bounded number of bytes, keeps serving, and comes to the new
release once the network is well again, unless the server refused the release for good.
"""

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from fakes.disk import QuickDisk
from fakes.rig import DEVICE, Fleet, LightModels, ListLog, ListReporter
from fakes.web import FAULTS, Web, make_home, serving
from skerry.devices.errors import SkerryError
from skerry.devices.identity import Identity
from skerry.updater.agent.boot import serve
from skerry.updater.agent.download import Downloader, DownloadLimits
from skerry.updater.agent.fetching import Fetching
from skerry.updater.agent.health import HealthLimits
from skerry.updater.agent.update import UpdateLimits, Updater
from skerry.updater.fetch import FetchLimits, HttpFetcher
from skerry.updater.sealing import Keyring
from skerry.updater.store.store import Store
from skerry.updater.trust import TrustedClient

_LIMITS = FetchLimits(connect_s=5.0, read_s=0.25, slow_after_s=2.0)
_FINAL = {"404"}


class CountingFetcher(HttpFetcher):
    """Counts the bytes of bodies that it hands over."""

    taken = 0

    def open(self, url: str, *, max_bytes: int, start: int = 0):  # type: ignore[no-untyped-def]
        return self._counted(super().open(url, max_bytes=max_bytes, start=start))

    @contextmanager
    def _counted(self, opened):  # type: ignore[no-untyped-def]
        with opened as body:
            yield _CountingBody(body, self)


class _CountingBody:
    def __init__(self, body, fetcher: CountingFetcher) -> None:  # type: ignore[no-untyped-def]
        self.start, self._body, self._fetcher = body.start, body, fetcher

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._body:
            self._fetcher.taken += len(chunk)
            yield chunk


class Device:
    """A device over real HTTP, without process and threads."""

    def __init__(self, web: Web, home: Path) -> None:
        fleet, self.models, self.reporter = web.fleet, LightModels(), ListReporter()
        self.fetcher, log = CountingFetcher(limits=_LIMITS), ListLog()
        keys = Keyring(home / "store/keys", str(DEVICE), [Identity.load(home / "identity")])
        self.store = Store(home / "store", disk=QuickDisk(), keys=keys)
        trust = TrustedClient(
            home / "trust",
            self.fetcher,
            device=DEVICE,
            server=web.url,
            clock=fleet.clock,
            disk=QuickDisk(),
        )
        downloader = Downloader(
            self.fetcher,
            web.url,
            self.store,
            clock=fleet.clock,
            interrupted=Event(),
            limits=DownloadLimits(resumes=1),
        )
        fetching = Fetching(
            self.store,
            downloader,
            trust,
            formats=("onnx",),
            log=log,
            patcher=lambda old, patch, new: new.write_bytes(zlib.decompress(patch.read_bytes())),
            unpacker=lambda old, patch: iter([zlib.decompress(patch.read())]),
        )
        self.updater = Updater(
            self.store,
            trust,
            fetching,
            self.models,
            self.reporter,
            watch=lambda watch: lambda: None,
            clock=fleet.clock,
            stop=Event(),
            log=log,
            limits=UpdateLimits(health=HealthLimits(seconds=1.0)),
        )
        serve(self.store, self.models, self.reporter, log)

    @property
    def serving(self) -> str:
        return self.models.active.version if self.models.active else ""


@dataclass
class Ground:
    """A device in `home` that runs release 1 and is assigned 2, and the server it talks to.

    Attributes:
        requests: the path of each request of an undisturbed update.
        taken: bytes of that update.
    """

    web: Web
    home: Path
    requests: list[str]
    taken: int
    now: float

    def device(self, work: Path) -> Device:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self.home, work)
        self.web.fleet.clock._now = self.now
        self.web.paths.clear()
        return Device(self.web, work)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sealed"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("network")
    fleet = Fleet(folder / "fleet")
    with serving(fleet) as web:
        home = make_home(fleet, folder / "home", web.url)
        fleet.assign(fleet.publish(1, sealed=request.param, shift=1.0, golden_rows=400))
        device = Device(web, home)
        assert device.updater.poll() == "installed"
        release = fleet.publish(2, sealed=request.param, shift=2.0, golden_rows=400)
        fleet.assign(release)
        old, new = fleet.weights(1), fleet.weights(2)
        whole = fleet.bundles[2].blobs.read(new)
        patch = fleet.put(zlib.compress(whole), release.key)
        fleet.stage.image.add_delta(old.digest, new.digest, patch)
        found = Ground(web, home, [], 0, fleet.clock.now())
        device = found.device(folder / "work")
        assert device.updater.poll() == "installed"
        found.requests, found.taken = list(web.paths), device.fetcher.taken
        assert any(path.endswith(patch.name) for path in found.requests)
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_every_request(fault: str, ground: Ground, tmp_path: Path) -> None:
    for at, path in enumerate(ground.requests):
        device = ground.device(tmp_path / "work")
        ground.web.faults = {at: fault}
        what = f"{fault} at request {at}, {path}"
        outcomes: list[str] = []
        for _ in range(5):
            try:
                outcomes.append(device.updater.poll())
            except SkerryError as error:
                outcomes.append(type(error).__name__)
            assert device.serving in {"1", "2"}, what
            if device.store.now.update is None and outcomes[-1] == "idle":
                break
        ground.web.faults = {}
        assert outcomes[-1] == "idle", f"{what}: {outcomes}"
        # The server's word that a blob is not there is final; a patch can be done without.
        blob = path.startswith(("/blobs/", "/keys/")) and _what(ground, path) != "patch"
        final = fault in _FINAL and blob
        assert device.serving == ("1" if final else "2"), f"{what}: {outcomes}"
        extra = 600_000 if fault == "endless" else ground.taken
        assert device.fetcher.taken <= ground.taken + extra, what
        again = Device(ground.web, tmp_path / "work")
        assert again.serving == device.serving, what


def _what(ground: Ground, path: str) -> str:
    known = {blob.digest.hex for b in ground.web.fleet.bundles.values() for blob in b.descriptors()}
    known |= {b.manifest.digest.hex for b in ground.web.fleet.bundles.values()}
    name = path.rpartition("/")[2].partition(".")[0]
    return "blob" if name in known or path.startswith("/keys/") else "patch"


def test_a_broken_answer_goes_on_at_its_last_byte(ground: Ground, tmp_path: Path) -> None:
    golden = ground.web.fleet.bundles[2].card.golden.descriptor()
    (path,) = {path for path in ground.requests if golden.digest.hex in path}
    device = ground.device(tmp_path / "work")
    ground.web.faults = {ground.requests.index(path): "cut"}
    assert device.updater.poll() == "installed"
    ground.web.faults = {}
    assert ground.web.paths.count(path) == 2
    assert device.fetcher.taken == ground.taken


def test_every_request_fails_and_the_old_release_serves_on(ground: Ground, tmp_path: Path) -> None:
    for fault in FAULTS:
        device = ground.device(tmp_path / "work")
        ground.web.faults = dict.fromkeys(range(1_000), fault)
        for _ in range(2):
            with pytest.raises(SkerryError):
                device.updater.poll()
        assert device.serving == "1"
        assert len(ground.web.paths) < 20
        ground.web.faults = {}
