"""A stick of format version 1, with a sealed release, updates a device for ever.

It holds one of each: metadata of both repositories, a content key for the device, a bundle, and
sealed blobs. `python tests/updater/test_medium_golden.py FOLDER` wrote it.
"""

import sys
from pathlib import Path
from threading import Event

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key

from fakes.bundles import linear
from fakes.clock import FakeClock
from fakes.rig import DEVICE, Fleet, ListLog, ListReporter
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId
from skerry.runtime.runtime import Runtime
from skerry.updater.agent.download import Downloader
from skerry.updater.agent.fetching import Fetching
from skerry.updater.agent.health import HealthLimits
from skerry.updater.agent.update import UpdateLimits, Updater
from skerry.updater.repository import write_media
from skerry.updater.sealing import (
    ContentKey,
    Envelope,
    Keyring,
    SealedBlobs,
    parcels,
    purpose_of,
    wrap,
)
from skerry.updater.store.store import Store
from skerry.updater.trust import MEDIA_URL, FolderFetcher, TrustedClient

MADE_AT = 1_800_000_000.0
OWN = Identity(derive_private_key(0x5EA1, SECP256R1()))


class _Known:
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def content_key(self, key: str) -> ContentKey:
        return self._fleet.keys[key]


def make(folder: Path, work: Path) -> None:
    """Write the stick."""
    fleet = Fleet(work, now=MADE_AT)
    release = fleet.publish(1, sealed=True)
    fleet.assign(release)
    blobs = SealedBlobs(work / "server", _Known(fleet))
    bundle = fleet.bundles[1]
    for parcel in parcels(bundle, release.key):
        blobs.put_as(parcel, [bundle.blobs.read(parcel.blob)])

    def hand_out(device: DeviceId, key: str) -> Envelope:
        return wrap(fleet.keys[key], OWN.public_key, purpose_of(key, str(device)))

    write_media(folder, fleet.stage.image, fleet.stage.director, [DEVICE], blobs, hand_out)


def test_a_stick_of_v1_updates_a_device(tmp_path: Path, root: Path) -> None:
    stick, home, clock = root / "tests/golden/v1/medium", tmp_path, FakeClock(MADE_AT + 60)
    fetcher, log = FolderFetcher(stick), ListLog()
    trust = TrustedClient(
        home / "trust", fetcher, device=DEVICE, server=MEDIA_URL, clock=clock, carried=True
    )
    first = [stick / "image/1.root.json", stick / f"director/{DEVICE}/1.root.json"]
    trust.enrol(*(path.read_bytes() for path in first))
    store = Store(home / "store", keys=Keyring(home / "store/keys", str(DEVICE), [OWN]))
    downloader = Downloader(fetcher, MEDIA_URL, store, clock=clock, interrupted=Event())
    runtime = Runtime()
    updater = Updater(
        store,
        trust,
        Fetching(store, downloader, trust, formats=("onnx",), log=log),
        runtime,
        ListReporter(),
        watch=lambda watch: lambda: None,
        clock=clock,
        stop=Event(),
        log=log,
        limits=UpdateLimits(health=HealthLimits(seconds=1.0)),
    )
    assert updater.poll() == "installed"
    assert store.now.slots.active is not None and store.now.slots.active.key
    (name,) = (spec.name for spec in runtime.active.bundle.card.inputs)  # type: ignore[union-attr]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    (answer,) = runtime.predict({name: x}).values()
    np.testing.assert_allclose(answer, linear(x), atol=1e-5)
    runtime.close()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as work:
        make(Path(sys.argv[1]), Path(work) / "fleet")
