"""The server's drift verdict: live sketches against the reference in the published bundle."""

from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import linear, make_onnx
from fakes.harbour import Harbour
from skerry.runtime.blobs import FolderBlobs
from skerry.runtime.bundle.card import TensorSpec, Tolerance
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.runtime.sketches import SketchSet
from skerry.telemetry.window import Window
from skerry.updater.server.drift import DriftWatch
from skerry.updater.server.records import PublishedRelease
from skerry.updater.server.view import device_views

_CHANCE = np.random.default_rng(7)


def _sketched(shift: float, rows: int, *, reference: bool = False) -> bytes:
    x = (_CHANCE.normal(size=(rows, 4)) + shift).astype(np.float32)
    sketches = SketchSet(reference=reference)
    sketches.update({"x": x}, {"y": linear(x)})
    return sketches.encode()


@pytest.fixture
def harbour(tmp_path: Path) -> Harbour:
    made = Harbour(tmp_path)
    x = _CHANCE.normal(size=(8, 4)).astype(np.float32)
    file = ArtifactFile(
        path=make_onnx(tmp_path / "linear.onnx"),
        format="onnx",
        precision="fp32",
        inputs=("in",),
        outputs=("out",),
        tolerance=Tolerance(atol=1e-4, argmax=1.0),
        golden={"y": linear(x)},
    )
    write_bundle(
        tmp_path / "bundle",
        model="linear",
        version="1",
        inputs=[TensorSpec("x", "float32", (-1, 4))],
        outputs=[TensorSpec("y", "float32", (-1, 3))],
        artifacts=[file],
        golden_inputs={"x": x},
        reference=_sketched(0.0, 5000, reference=True),
    )
    bundle = Bundle.open(tmp_path / "bundle")
    target = FolderBlobs(tmp_path)
    for blob in (bundle.manifest, *bundle.descriptors()):
        target.put(blob, [bundle.blobs.read(blob)])
    release = PublishedRelease(
        "linear/1", "1", str(bundle.manifest.digest), bundle.manifest.size, made.clock.now()
    )
    made.store.access.add_release(release)
    made.enrol("same", "shifted", "quiet")
    return made


def _window(harbour: Harbour, device: str, sketches: bytes) -> tuple[str, str]:
    (release,) = harbour.store.access.releases()
    now = harbour.clock.now()
    window = Window(
        start=now,
        end=now,
        manifest=release.manifest,
        artifact="onnx-fp32",
        requests=1,
        sketches=sketches,
    )
    harbour.tell(device, window)
    return device, release.manifest


def test_each_device_is_judged_by_its_own_windows(harbour: Harbour) -> None:
    pairs = [
        _window(harbour, "same", _sketched(0.0, 2000)),
        _window(harbour, "same", _sketched(0.0, 2000)),
        _window(harbour, "shifted", _sketched(1.5, 4000)),
        _window(harbour, "quiet", _sketched(0.0, 10)),
    ]
    DriftWatch(harbour.fleet).judge(pairs)
    verdicts = {total.device: total.drift for total in harbour.store.telemetry.totals()}
    assert verdicts == {"same": "ok", "shifted": "drift", "quiet": "too few"}


def test_a_window_of_an_unknown_bundle_gets_no_verdict(harbour: Harbour) -> None:
    DriftWatch(harbour.fleet).judge([("same", "sha256:" + "0" * 64)])
    views = device_views(harbour.store.registry.devices(), harbour.store.telemetry.totals(), [])
    assert {view.drift for view in views} == {""}


def test_a_pair_that_cannot_be_judged_costs_no_other_its_verdict(harbour: Harbour) -> None:
    pairs = [
        _window(harbour, "quiet", b"these are no sketches"),
        _window(harbour, "same", _sketched(0.0, 2000)),
        _window(harbour, "shifted", _sketched(1.5, 4000)),
    ]
    telemetry = harbour.store.telemetry
    stored = telemetry.sketches

    def failing(device: str, manifest: str, limit: int) -> list[bytes]:
        if device == "same":
            raise ValueError("not one of our errors")
        return stored(device, manifest, limit)

    telemetry.sketches = failing  # type: ignore[method-assign]
    DriftWatch(harbour.fleet).judge(pairs)
    verdicts = {total.device: total.drift for total in telemetry.totals()}
    assert verdicts == {"quiet": "", "same": "", "shifted": "drift"}
