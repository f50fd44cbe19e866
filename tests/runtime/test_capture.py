"""Raw inputs are kept only where a signed order asks, within its quota and the device's own."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import linear, make_bundle
from fakes.clock import FakeClock
from fakes.disk import QuickDisk
from skerry.devices.errors import TrustError
from skerry.runtime.capture import Capture, CaptureLimits
from skerry.runtime.capture_order import (
    PAYLOAD_TYPE,
    CaptureOrder,
    OrderKey,
    signed_bytes,
    verified_order,
)
from skerry.runtime.runtime import Runtime

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
NOW = 1_800_000_000.0
KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))


def _order_key(key: Ed25519PrivateKey) -> OrderKey:
    def verifies(signature: bytes, data: bytes) -> bool:
        try:
            key.public_key().verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return OrderKey(key.public_key().public_bytes_raw().hex(), verifies)


KEYS = {"ops": _order_key(KEY), "two": _order_key(OTHER), "ops again": _order_key(KEY)}
ORDER = {
    "id": "order-1",
    "device": "quay",
    "model": "linear",
    "until": NOW + 100,
    "calls": 3,
    "bytes": 100_000,
}


def _envelope(order: Any = ORDER, signers: Any = (("ops", KEY),), **more: Any) -> bytes:
    payload = json.dumps(order).encode()
    signatures = [
        {"keyid": name, "sig": base64.b64encode(key.sign(signed_bytes(payload))).decode()}
        for name, key in signers
    ]
    document = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": signatures,
    }
    return json.dumps(document | more).encode()


def _verified(envelope: bytes, **more: Any) -> CaptureOrder:
    return verified_order(envelope, KEYS, **{"device": "quay", "now": NOW} | more)


def test_a_signed_order_for_this_device_is_read() -> None:
    assert _verified(_envelope()).calls == 3
    both = _envelope(signers=(("ops", KEY), ("two", OTHER)))
    assert _verified(both, threshold=2).id == "order-1"


@pytest.mark.parametrize(
    ("envelope", "more", "says"),
    [
        (b"", {}, "no DSSE envelope"),
        (b"{}", {}, "no DSSE envelope"),
        (b" " * 70_000, {}, "more than"),
        (_envelope(payload="!"), {}, "no DSSE envelope"),
        (_envelope(payloadType="text/plain"), {}, "something else"),
        (_envelope(signatures=[]), {}, "signed by 0"),
        (_envelope(signers=(("ops", OTHER),)), {}, "signed by 0"),
        (_envelope(signers=(("who", KEY),)), {}, "signed by 0"),
        (_envelope(signers=(("ops", KEY), ("ops", KEY))), {"threshold": 2}, "signed by 1"),
        (_envelope(signers=(("ops", KEY), ("ops again", KEY))), {"threshold": 2}, "signed by 1"),
        (_envelope(payload=base64.b64encode(json.dumps(ORDER | {"calls": 9}).encode()).decode()),
         {}, "signed by 0"),
        (_envelope(ORDER | {"id": "../x"}), {}, "not an order"),
        (_envelope(ORDER | {"extra": 1}), {}, "not an order"),
        (_envelope(ORDER | {"bytes": 0}), {}, "not an order"),
        (_envelope([]), {}, "not an order"),
        (_envelope(), {"device": "other"}, "for the device 'quay'"),
        (_envelope(), {"now": NOW + 100}, "time is over"),
    ],
)  # fmt: skip
def test_any_other_is_refused(envelope: bytes, more: dict[str, Any], says: str) -> None:
    with pytest.raises(TrustError, match=says):
        _verified(envelope, **more)


@given(st.integers(0, len(_envelope()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_changes_nothing(where: int, flip: int) -> None:
    envelope = bytearray(_envelope())
    envelope[where] ^= flip
    try:
        order = _verified(bytes(envelope))
    except TrustError:
        return
    assert order == _verified(_envelope())


def _capture(tmp_path: Path, **more: Any) -> tuple[Capture, Runtime, FakeClock]:
    clock = FakeClock(NOW)
    limits = CaptureLimits(**more)
    capture = Capture(tmp_path / "kept", "linear", limits, clock=clock, disk=QuickDisk())
    return capture, Runtime.open(make_bundle(tmp_path / "b"), observer=capture), clock


def _kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "kept").rglob("*.npz"))


def test_without_an_order_nothing_is_kept(tmp_path: Path) -> None:
    capture, runtime, _ = _capture(tmp_path)
    runtime.predict({"x": X})
    assert not (tmp_path / "kept").exists()
    assert capture.found().calls == 0


def test_an_order_is_carried_out_once_and_ends_by_itself(tmp_path: Path) -> None:
    capture, runtime, _ = _capture(tmp_path)
    order = _verified(_envelope(ORDER | {"every": 2}))
    capture.begin(order)
    for n in range(20):
        runtime.predict({"x": X + n})
    capture.end()
    assert capture.found().ended == "calls"
    paths = _kept(tmp_path)
    assert len(paths) == capture.found().calls == 3
    assert all(oct(path.stat().st_mode & 0o777) == "0o600" for path in paths)
    with np.load(paths[0]) as found:
        np.testing.assert_array_equal(found["input/x"], X + 1)
        np.testing.assert_allclose(found["output/y"], linear(X + 1), atol=1e-5)
    with pytest.raises(TrustError, match="before"):
        capture.begin(order)
    runtime.predict({"x": X})
    assert _kept(tmp_path) == paths


def test_the_devices_quota_counts_over_all_orders(tmp_path: Path) -> None:
    capture, runtime, _ = _capture(tmp_path, bytes=2500, waiting=1000)
    for n in range(3):
        capture.begin(_verified(_envelope(ORDER | {"id": f"o{n}", "calls": 1000})))
        for _ in range(20):
            runtime.predict({"x": X})
        capture.end()
    assert capture.found().ended == "quota"
    assert capture.found().calls == 0
    assert 0 < sum(path.stat().st_size for path in _kept(tmp_path)) <= 2500


@pytest.mark.parametrize("how", ["until", "seconds", "clock back"])
def test_it_ends_in_time_whatever_the_clock_does(tmp_path: Path, how: str) -> None:
    capture, runtime, clock = _capture(tmp_path, seconds=50.0)
    capture.begin(_verified(_envelope()))
    if how == "until":
        clock.jump(200)
    else:
        if how == "clock back":
            clock.jump(-1e6)
        clock.advance(60)
    runtime.predict({"x": X})
    assert capture.found().ended == "time"
    capture.end()
    assert _kept(tmp_path) == []


def test_a_full_disk_ends_it_and_no_call(tmp_path: Path) -> None:
    class Full(QuickDisk):
        def sync(self, file: object) -> None:
            raise OSError(28, "No space left on device")

    capture, runtime, _ = _capture(tmp_path)
    capture._disk = Full()
    capture.begin(_verified(_envelope()))
    runtime.predict({"x": X})
    capture.end()
    assert "No space left" in capture.found().ended
    runtime.predict({"x": X})
    assert _kept(tmp_path) == []


def test_another_models_order_is_refused(tmp_path: Path) -> None:
    capture, _, _ = _capture(tmp_path)
    with pytest.raises(TrustError, match="model 'other'"):
        capture.begin(_verified(_envelope(ORDER | {"model": "other"})))
