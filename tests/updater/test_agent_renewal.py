"""A device's certificate and key are replaced; whatever breaks off, one of its keys is known."""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from fakes.clock import FakeClock
from fakes.disk import CuttableDisk, PowerCut
from fakes.web import certificate
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.files import Disk, RealDisk
from skerry.devices.identity import Identity, csr_public_key
from skerry.devices.ids import DeviceId, TenantId
from skerry.updater.agent.renewal import Renewal, holders
from skerry.updater.fetch import RefusedError
from skerry.updater.sealing import ContentKey, Keyring, purpose_of, wrap
from skerry.updater.server.ca import FleetAuthority

KEY = ContentKey(bytes(range(32)))


class Server:
    """Knows one key of the device, and gives certificates to its holder alone."""

    def __init__(self, folder: Path, clock: FakeClock, device: Identity) -> None:
        self.authority = FleetAuthority.create(folder, TenantId("main"), clock.now())
        self.clock, self.known, self.lose = clock, device.public_key, False
        self.asked = 0

    def post(self, holder: Identity, body: bytes) -> bytes:
        self.asked += 1
        if holder.public_key != self.known:
            raise RefusedError("nobody we know", status=401)
        csr = msgspec.json.decode(body)["csr"].encode()
        issued = self.authority.issue(csr, DeviceId("dev"), TenantId("main"), self.clock.now())
        self.known = csr_public_key(csr)
        if self.lose:
            raise UnavailableError("the answer was lost")
        return msgspec.json.encode({"certificate": issued.pem})


class Home:
    """A device whose certificate is about to end, and which may open one sealed release."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.folder = FakeClock(1_800_000_000.0), folder
        folder.mkdir(parents=True)
        first = Identity.create(folder / "identity")
        self.server = Server(folder.parent / "ca", self.clock, first)
        (folder / "identity/certificate.pem").write_bytes(
            certificate(first, self.clock.now(), days=1.0001)
        )
        self.keyring([first]).take(
            KEY.id, wrap(KEY, first.public_key, purpose_of(KEY.id, "dev")).encode()
        )

    def keyring(self, own: list[Identity], disk: Disk | None = None) -> Keyring:
        return Keyring(self.folder / "keys", "dev", own, disk)

    def renewal(self, disk: Disk | None = None) -> Renewal:
        own = holders(self.folder / "identity")
        return Renewal(
            self.folder / "identity",
            own[0],
            "dev",
            self.server.post,
            self.clock,
            random.Random(0),
            keys=self.keyring(own, disk),
            disk=disk or RealDisk(),
        )

    def is_right(self) -> None:
        """The device holds the key that the server knows, and opens what it could open."""
        own = holders(self.folder / "identity")
        assert [one.public_key for one in own] == [self.server.known]
        assert self.keyring(own).content_key(KEY.id) == KEY


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_a_renewal_brings_a_new_key(home: Home) -> None:
    before = holders(home.folder / "identity")[0]
    assert home.renewal().look()
    home.is_right()
    assert holders(home.folder / "identity")[0].public_key != before.public_key
    assert (home.folder / "identity/key.pem").stat().st_mode & 0o777 == 0o600
    assert not home.keyring([before]).has(KEY.id)
    assert not home.renewal().look()  # not due any more


def test_a_lost_answer_is_asked_for_with_the_new_key(home: Home) -> None:
    home.server.lose, renewal = True, home.renewal()
    with pytest.raises(UnavailableError):
        renewal.look()
    own = holders(home.folder / "identity")
    assert home.keyring(own).has(KEY.id)  # and it serves meanwhile
    home.server.lose = False
    assert not renewal.look()  # not at once
    home.clock.advance(31)
    assert renewal.look()
    home.is_right()


def test_a_revoked_device_gets_nothing_and_keeps_its_key(home: Home) -> None:
    home.server.known = Identity.create(home.folder / "other").public_key
    before = (home.folder / "identity/key.pem").read_bytes()
    with pytest.raises(RefusedError):
        home.renewal().look()
    assert (home.folder / "identity/key.pem").read_bytes() == before


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"certificate": "no"}'])
def test_an_answer_that_is_no_certificate_changes_nothing(home: Home, answer: bytes) -> None:
    before = (home.folder / "identity/key.pem").read_bytes()
    post: Callable[[Identity, bytes], bytes] = lambda _, body: answer  # noqa: E731 - a stub
    home.server.post = post  # type: ignore[method-assign]
    with pytest.raises(InputError):
        home.renewal().look()
    assert (home.folder / "identity/key.pem").read_bytes() == before


@pytest.mark.parametrize("after", ["lost", "kept", "torn"])
def test_the_power_fails_at_every_operation_of_a_renewal(tmp_path: Path, after: str) -> None:
    counted = Home(tmp_path / "count" / "home")
    disk = CuttableDisk(counted.folder)
    assert counted.renewal(disk).look()
    operations = disk.count
    disk.close()
    for at in range(operations):
        home = Home(tmp_path / str(at) / "home")
        disk = CuttableDisk(home.folder, cut_at=at)
        with suppress(PowerCut):
            home.renewal(disk).look()
        disk.crash(after, random.Random(at))  # type: ignore[arg-type]
        own = holders(home.folder / "identity")  # a start without a network
        assert home.keyring(own).content_key(KEY.id) == KEY, at
        home.renewal().look()
        home.is_right()
    print(f"{operations} cuts, all survived")
