"""Metadata, sealed blobs and envelopes of format version 1 open for ever."""

from io import BufferedReader
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key

from fakes.clock import FakeClock
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId
from skerry.updater.repository import OnlinePublic
from skerry.updater.sealing import ContentKey, Envelope, Parcel, SealedFile, unwrap
from skerry.updater.trust import MEDIA_URL, FolderFetcher, Refusal, Rule, TrustedClient

MADE_AT = 1_800_000_000.0


@pytest.fixture
def golden(root: Path) -> Path:
    return root / "tests" / "golden" / "v1" / "trust"


def _client(golden: Path, folder: Path, now: float, *, carried: bool = False) -> TrustedClient:
    client = TrustedClient(
        folder,
        FolderFetcher(golden),
        device=DeviceId("dev-1"),
        server=MEDIA_URL,
        clock=FakeClock(now),
        carried=carried,
    )
    first = [(golden / f"{name}-first-root.json").read_bytes() for name in ("image", "director")]
    client.enrol(*first)
    return client


def test_a_metadata_set_of_v1_is_believed(golden: Path, tmp_path: Path) -> None:
    client = _client(golden, tmp_path, MADE_AT + 60)
    found = client.assignment()
    assert found is not None
    assert (str(found.release), found.version) == ("digits/2", "v2")
    assert found.manifest == Descriptor(Digest.of(b"manifest of digits 2"), 20)
    patch = client.delta(Digest.of(b"old"), Digest.of(b"new"))
    assert patch == Parcel(Descriptor(Digest.of(b"patch"), 5))


def test_its_policy_of_expiry_still_holds(golden: Path, tmp_path: Path) -> None:
    late = MADE_AT + 20 * 86_400
    assert _client(golden, tmp_path / "a", late, carried=True).assignment() is not None
    with pytest.raises(Refusal) as caught:
        _client(golden, tmp_path / "b", late).assignment()
    assert caught.value.rule is Rule.EXPIRED
    assert _client(golden, tmp_path / "c", 0.0).assignment() is not None


def test_the_public_keys_of_a_v1_server_are_read(golden: Path) -> None:
    public = OnlinePublic.decode((golden / "online.json").read_bytes())
    assert set(public.image) == {"snapshot", "timestamp", "deltas"}


def test_a_sealed_blob_of_v1_opens(golden: Path) -> None:
    device = Identity(derive_private_key(0x5EA1, SECP256R1()))
    envelope = Envelope.decode((golden / "envelope.json").read_bytes())
    key = unwrap(envelope, device, "digits/2 dev-1")
    assert key == ContentKey(bytes(range(32)))
    data = b"golden weights " * 40
    blob = Descriptor(Digest.of(data), len(data))
    with BufferedReader(SealedFile((golden / "sealed.bin").open("rb"), blob.digest, key)) as file:
        assert file.read() == data
