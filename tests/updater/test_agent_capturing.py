"""An agent keeps raw inputs by an order that its operators signed, and by no other."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fakes.bundles import make_bundle
from fakes.operator import Stage
from fakes.rig import ListLog, ListReporter
from skerry.devices.errors import InputError, TrustError
from skerry.devices.ids import DeviceId
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.capture_order import CaptureOrder
from skerry.runtime.runtime import Runtime
from skerry.updater.agent.capturing import Capturing
from skerry.updater.agent.parts import Observers
from skerry.updater.repository.orders import sign_order

X = np.ones((1, 4), np.float32)


class Device:
    """A device's capturing beside a runtime, and the operators whose root it has accepted."""

    def __init__(self, folder: Path) -> None:
        self.stage, self.home = Stage(folder / "stage"), folder / "home"
        self.clock = self.stage.clock
        root = self.stage.image.read("1.root.json")
        assert root is not None
        (self.home / "trust/image").mkdir(parents=True)
        (self.home / "trust/image/root.json").write_bytes(root)
        self.observers, self.reporter, self.log = Observers(), ListReporter(), ListLog()
        self.runtime = Runtime.open(make_bundle(folder / "b"), observer=self.observers)
        self.capturing: Any = Capturing(
            self.home,
            DeviceId("dev-1"),
            self.runtime,
            self.observers,
            self.reporter,
            clock=self.clock,
            log=self.log,  # type: ignore[arg-type]
        )

    def order(self, **fields: Any) -> bytes:
        until = self.clock.now() + 100
        words: dict[str, Any] = {"id": "o-1", "device": "dev-1", "model": "linear", "until": until}
        order = CaptureOrder(**(words | {"calls": 3, "bytes": 1 << 20} | fields))
        return sign_order(order, self.stage.operator, self.clock)

    def gets(self, envelope: bytes) -> str:
        """What it says of an order."""
        self.capturing.take(envelope)
        self.capturing.look()
        return self.said

    def calls(self, count: int) -> None:
        for _ in range(count):
            self.runtime.predict({"x": X})

    @property
    def said(self) -> str:
        return self.reporter.events[-1][2]

    def kept(self, order: str = "o-1") -> list[Path]:
        return sorted((self.home / "captures" / order).glob("*.npz"))


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_an_order_is_followed_within_its_bounds(device: Device) -> None:
    device.calls(2)
    assert device.gets(device.order()) == "o-1 began: at most 3 calls, 1048576 bytes"
    device.calls(5)
    device.capturing.end()
    assert "o-1 ended: " in device.said and "3 calls" in device.said
    paths = device.kept()
    assert len(paths) == 3
    with np.load(paths[0]) as saved:
        np.testing.assert_array_equal(saved["input/x"], X)
    device.calls(1)
    assert len(device.kept()) == 3
    assert "before" in device.gets(device.order())  # each is carried out once


def test_without_an_order_nothing_is_kept(device: Device) -> None:
    device.calls(3)
    device.capturing.look()
    assert device.reporter.events == []
    assert not (device.home / "captures").exists()


def test_other_orders_are_refused(device: Device, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Device(tmp_path / "other")
    late = device.order(until=device.clock.now() + 1)
    device.clock.advance(2)
    changed = msgspec.json.decode(device.order()) | {"payload": "e30="}
    for envelope, why in [
        (stranger.order(), "signed by 0 known keys"),
        (msgspec.json.encode(changed), "signed by 0 known keys"),
        (b"{}", "no DSSE envelope"),
        (late, "time is over"),
        (device.order(device="dev-2"), "for the device"),
        (device.order(model="other"), "does not serve"),
    ]:
        said = device.gets(envelope)
        assert said.startswith("refused: ") and why in said
    device.calls(2)
    assert device.kept() == []


def test_it_ends_with_the_release_it_began_on(device: Device, tmp_path: Path) -> None:
    device.gets(device.order())
    device.calls(1)
    bundle = Bundle.open(make_bundle(tmp_path / "b2", version="2"))
    device.runtime.activate(device.runtime.prepare(bundle))
    device.calls(1)  # before anybody looked
    device.capturing.look()
    assert "o-1 ended: asked to end; 1 calls" in device.said
    assert len(device.kept()) == 1


def test_an_expired_root_signs_no_orders(device: Device) -> None:
    envelope = device.order(until=device.clock.now() + 10 * 365 * 86_400)
    device.clock.advance(9 * 365 * 86_400)
    assert "expired" in device.gets(envelope)
    with pytest.raises(TrustError, match="expired"):
        device.order()


def test_too_few_keys_sign_nothing(device: Device) -> None:
    for key in (device.stage.folder / "operator/keys").glob("*"):
        key.unlink()
    with pytest.raises(InputError):
        device.order()


def test_orders_that_wait_are_bounded(device: Device) -> None:
    for _ in range(20):
        device.capturing.take(b"{}")
    device.capturing.look()
    assert len(device.reporter.events) == 4
