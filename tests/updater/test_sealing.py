"""Sealed blobs: nothing shows, nothing changed opens, and downloads go on where they broke off."""

from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    generate_private_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.bundles import make_bundle
from fakes.fetcher import FakeFetcher
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import (
    BundleError,
    DigestMismatch,
    InputError,
    TrustError,
    UnavailableError,
)
from skerry.devices.identity import Identity
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.runtime import Runtime
from skerry.updater import delta
from skerry.updater.agent.fetching import unpack_patch
from skerry.updater.sealing import (
    ContentKey,
    Envelope,
    Keyring,
    Parcel,
    SealedBlobs,
    SealedFile,
    SealLimits,
    parcel_of,
    parcels,
    plain_size,
    purpose_of,
    seal,
    sealed_size,
    unwrap,
    wrap,
)

SMALL = SealLimits(chunk_bytes=100)
KEY = ContentKey(bytes(range(32)))
DATA = np.random.default_rng(0).bytes(1_234)
BLOB = Descriptor(Digest.of(DATA), len(DATA))


def _identity() -> Identity:
    return Identity(generate_private_key(SECP256R1()))


def _sealed(data: bytes = DATA, key: ContentKey = KEY) -> bytes:
    return b"".join(seal([data], Descriptor(Digest.of(data), len(data)), key, SMALL))


def _opened(sealed: bytes, blob: Descriptor = BLOB, key: ContentKey = KEY) -> bytes:
    with BufferedReader(SealedFile(BytesIO(sealed), blob.digest, key)) as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1_234])
def test_what_was_sealed_opens(size: int) -> None:
    data = DATA[:size]
    blob = Descriptor(Digest.of(data), size)
    sealed = _sealed(data)
    assert len(sealed) == sealed_size(size, SMALL)
    assert _opened(sealed, blob) == data


@given(st.lists(st.integers(0, 1_300), min_size=1, max_size=8), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_a_sealed_file_reads_from_any_place(places: list[int], length: int) -> None:
    with SealedFile(BytesIO(_sealed()), BLOB.digest, KEY) as file:
        for place in places:
            assert file.seek(place) == place
            assert file.read(length) == DATA[place : place + length][: 100 - place % 100]


@given(st.integers(0, 3_000))
def test_a_sealed_length_tells_the_plain_one(size: int) -> None:
    assert plain_size(sealed_size(size, SMALL), SMALL) == size


@pytest.mark.parametrize("length", [0, 23, 25, 40, 24 + 116 + 16])
def test_no_blob_has_an_impossible_length(length: int) -> None:
    assert plain_size(length, SMALL) is None


def test_nothing_of_the_content_shows() -> None:
    data = b"weights " * 1_000
    sealed = _sealed(data)
    assert b"weights" not in sealed
    chunks = [sealed[i : i + 116] for i in range(24, len(sealed), 116)]
    assert len(set(chunks)) == len(chunks)


def test_two_blobs_under_one_content_key_share_no_key_stream() -> None:
    one, two = bytes(1_000), b"\1" * 1_000
    a, b = _sealed(one)[24:], _sealed(two)[24:]
    assert sum(x ^ y == 1 for x, y in zip(a, b, strict=True)) < 50


@pytest.mark.parametrize("at", [0, 8, 12, 16, 23, 24, 100, 140, 500, -1])
def test_a_changed_bit_does_not_open(at: int) -> None:
    sealed = bytearray(_sealed())
    sealed[at] ^= 1
    with pytest.raises((TrustError, BundleError)):
        _opened(bytes(sealed))


@pytest.mark.parametrize("cut", [0, 10, 24, 25, 116, 24 + 116, 24 + 11 * 116, -1])
def test_a_cut_does_not_open(cut: int) -> None:
    with pytest.raises((TrustError, BundleError)):
        _opened(_sealed()[:cut])


def test_chunks_keep_their_places() -> None:
    sealed = _sealed()
    head, first, second = sealed[:24], sealed[24:140], sealed[140:256]
    for evil in (
        head + second + first + sealed[256:],
        head + first + first + sealed[256:],
        head + sealed[140:],
        sealed + first,
        sealed + b"x",
    ):
        with pytest.raises((TrustError, BundleError)):
            _opened(evil)


def test_another_key_or_another_blob_does_not_open() -> None:
    with pytest.raises(TrustError, match="another key"):
        _opened(_sealed(), key=ContentKey.fresh())
    with pytest.raises((TrustError, BundleError)):
        _opened(_sealed(), blob=Descriptor(Digest.of(b"x"), len(DATA)))


def test_a_header_cannot_ask_for_memory() -> None:
    sealed = bytearray(_sealed())
    sealed[12:16] = (1 << 31).to_bytes(4, "big")
    with pytest.raises(BundleError, match="chunks of"):
        _opened(bytes(sealed))


@pytest.mark.parametrize("wrong", [DATA + b"x", DATA[:-1]])
def test_other_lengths_are_not_sealed(wrong: bytes) -> None:
    with pytest.raises(BundleError):
        list(seal([wrong], BLOB, KEY, SMALL))


def test_a_content_key_does_not_print_itself() -> None:
    assert "secret" not in repr(KEY)
    assert KEY.secret.hex() not in repr(KEY)
    with pytest.raises(InputError):
        ContentKey(b"short")


# Keys for devices


def test_only_the_device_it_was_wrapped_for_unwraps_a_key() -> None:
    device, other = _identity(), _identity()
    envelope = Envelope.decode(wrap(KEY, device.public_key, "digits/1 dev-1").encode())
    assert unwrap(envelope, device, "digits/1 dev-1") == KEY
    with pytest.raises(TrustError):
        unwrap(envelope, other, "digits/1 dev-1")
    with pytest.raises(TrustError):
        unwrap(envelope, device, "digits/2 dev-1")


def test_every_envelope_is_new() -> None:
    device = _identity()
    one, two = (wrap(KEY, device.public_key, "p") for _ in range(2))
    assert one.ephemeral != two.ephemeral and one.wrapped != two.wrapped
    assert KEY.secret not in one.encode()


@pytest.mark.parametrize("field", ["ephemeral", "wrapped"])
@pytest.mark.parametrize("value", [b"", b"\4" + bytes(64), b"\4" * 40, b"\2" + b"\1" * 32])
def test_a_changed_envelope_does_not_unwrap(field: str, value: bytes) -> None:
    device = _identity()
    envelope = wrap(KEY, device.public_key, "p")
    parts = {"ephemeral": envelope.ephemeral, "wrapped": envelope.wrapped, field: value}
    with pytest.raises(TrustError):
        unwrap(Envelope(**parts), device, "p")


def test_a_key_on_another_curve_is_refused() -> None:
    with pytest.raises(InputError, match="P-256"):
        wrap(KEY, generate_private_key(SECP384R1()).public_key(), "p")


@pytest.mark.parametrize("data", [b"", b"{}", b'{"ephemeral": 1, "wrapped": 2}'])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        Envelope.decode(data)


# A device's keyring


def _ring(folder: Path, *holders: Identity, name: str = "dev-1") -> Keyring:
    return Keyring(folder, name, holders)


def _handed(holder: Identity, key: ContentKey = KEY, *, name: str = "dev-1") -> FakeFetcher:
    envelope = wrap(key, holder.public_key, purpose_of(KEY.id, name)).encode()
    return FakeFetcher({f"s/keys/dev-1/{KEY.id}.json": envelope})


def test_a_device_keeps_a_key_for_itself(tmp_path: Path) -> None:
    device, thief = _identity(), _identity()
    ring = _ring(tmp_path, device)
    with pytest.raises(TrustError, match="not here"):
        ring.content_key(KEY.id)
    ring.fetch(KEY.id, _handed(device), "s")
    assert ring.content_key(KEY.id) == KEY and ring.ids() == [KEY.id]
    (file,) = tmp_path.iterdir()
    assert KEY.secret not in file.read_bytes() and file.stat().st_mode & 0o777 == 0o600
    assert _ring(tmp_path, device).has(KEY.id)
    for other in (_ring(tmp_path, thief), _ring(tmp_path, device, name="dev-2"), _ring(tmp_path)):
        assert not other.has(KEY.id)
    ring.collect([])
    assert not ring.has(KEY.id) and ring.ids() == []


@pytest.mark.parametrize("how", ["other key", "other device", "other holder", "no envelope"])
def test_a_key_that_is_not_the_signed_one_is_not_kept(tmp_path: Path, how: str) -> None:
    device = _identity()
    network = {
        "other key": lambda: _handed(device, ContentKey.fresh()),
        "other device": lambda: _handed(device, name="dev-2"),
        "other holder": lambda: _handed(_identity()),
        "no envelope": lambda: FakeFetcher({f"s/keys/dev-1/{KEY.id}.json": b"{}"}),
    }[how]()
    ring = _ring(tmp_path, device)
    with pytest.raises(TrustError):
        ring.fetch(KEY.id, network, "s")
    assert ring.ids() == []


def test_keys_are_handed_over_to_the_device_s_next_key(tmp_path: Path) -> None:
    old, new = _identity(), _identity()
    ring = _ring(tmp_path, old)
    ring.fetch(KEY.id, _handed(old), "s")
    assert _ring(tmp_path, new, old).has(KEY.id)
    ring.hand_over(new)
    assert _ring(tmp_path, new).has(KEY.id) and not _ring(tmp_path, old).has(KEY.id)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff" * 5_000])
def test_a_damaged_envelope_is_no_key(tmp_path: Path, damage: bytes) -> None:
    device = _identity()
    ring = _ring(tmp_path, device)
    ring.fetch(KEY.id, _handed(device), "s")
    (tmp_path / f"{KEY.id}.json").write_bytes(damage)
    assert not _ring(tmp_path, device).has(KEY.id)


# On the disk


class _OneKey:
    def content_key(self, key: str) -> ContentKey:
        if key != KEY.id:
            raise TrustError("another key", where=key)
        return KEY


PARCEL = Parcel(BLOB, KEY.id)


@pytest.fixture
def blobs(tmp_path: Path) -> SealedBlobs:
    return SealedBlobs(tmp_path, _OneKey())


@pytest.mark.parametrize("chunks", [[b"x" * len(DATA)], [DATA, b"more"], [DATA[:-1]]])
def test_a_sealed_store_keeps_nothing_else(blobs: SealedBlobs, chunks: list[bytes]) -> None:
    with pytest.raises(DigestMismatch):
        blobs.put_as(PARCEL, chunks)
    assert list(blobs.digests()) == []


def test_what_cannot_be_read_on_the_disk_is_said(blobs: SealedBlobs) -> None:
    blobs.file(PARCEL).mkdir(parents=True)
    with pytest.raises(UnavailableError):
        blobs.open(BLOB.digest)


def test_an_engine_runs_what_is_sealed_and_the_disk_shows_nothing(tmp_path: Path) -> None:
    for artifact_format in ("onnx",):
        bundle = Bundle.open(make_bundle(tmp_path / "bundle"))
        sealed = SealedBlobs(tmp_path / "store", _OneKey())
        for parcel in parcels(bundle, KEY.id):
            sealed.put_as(parcel, [bundle.blobs.read(parcel.blob)])
        runtime = Runtime()
        runtime.activate(runtime.prepare(Bundle.of(sealed, bundle.manifest)))
        sealed.forget()
        answer = runtime.predict({bundle.card.inputs[0].name: np.ones((1, 4), np.float32)})
        assert answer[bundle.card.outputs[0].name].shape == (1, 3)
        runtime.close()
        shown = {bundle.manifest, bundle.card_blob}
        disk = b"".join(p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file())
        for blob in set(bundle.descriptors()) - shown:
            plain = bundle.blobs.read(blob)
            assert plain[:24] not in disk and plain[-24:] not in disk
        assert artifact_format


def test_a_sealed_blob_that_rotted_is_refused(blobs: SealedBlobs, tmp_path: Path) -> None:
    blobs.put_as(PARCEL, [DATA])
    path = blobs.file(PARCEL)
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    for look in (lambda: blobs.read(BLOB), lambda: blobs.path(BLOB.digest)):
        with pytest.raises(TrustError):
            look()


def test_a_parcel_is_opened_before_it_is_kept(blobs: SealedBlobs, tmp_path: Path) -> None:
    sealed = b"".join(seal([DATA], BLOB, KEY))
    assert len(sealed) == PARCEL.size and parcel_of(PARCEL.name, PARCEL.size) == PARCEL
    other = b"".join(seal([DATA[::-1]], BLOB, KEY))  # sealed by who has the key, and not the blob
    for evil in (sealed[:-1], sealed + b"x", sealed[:-1] + b"\0", other, DATA, b""):
        with pytest.raises(TrustError):
            blobs.take(PARCEL, [evil])
        assert not blobs.has(BLOB.digest)
    blobs.take(PARCEL, [sealed[:100], sealed[100:]])
    assert blobs.read(BLOB) == DATA and blobs.key_of(BLOB.digest) == KEY.id


def test_a_blob_may_be_here_in_several_forms(blobs: SealedBlobs) -> None:
    blobs.put_as(PARCEL, [DATA])
    assert not blobs.holds(Parcel(BLOB))
    blobs.put(BLOB, [DATA])
    assert blobs.holds(PARCEL) and blobs.holds(Parcel(BLOB)) and blobs.key_of(BLOB.digest) == ""
    assert list(blobs.digests()) == [BLOB.digest]
    blobs.remove(BLOB.digest)
    assert not blobs.has(BLOB.digest)


@pytest.mark.parametrize(
    "name", ["x", "0" * 64 + ".zz", "0" * 64 + ".." + "a" * 31, "../" + "0" * 64]
)
def test_other_names_are_no_parcels(name: str) -> None:
    with pytest.raises(InputError):
        parcel_of(name, 24)


def test_a_patch_leads_from_sealed_to_sealed_on_no_disk(blobs: SealedBlobs, tmp_path: Path) -> None:
    old, new = DATA * 4, DATA * 3 + DATA[::-1]
    for name, data in (("old", old), ("new", new)):
        (tmp_path / name).write_bytes(data)
    delta.create(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    base = Descriptor(Digest.of(old), len(old))
    result = Descriptor(Digest.of(new), len(new))
    blobs.put_as(Parcel(base, KEY.id), [old])
    with blobs.open(base.digest) as file, (tmp_path / "patch").open("rb") as packed:
        blobs.put_as(Parcel(result, KEY.id), unpack_patch(file, packed))
    assert blobs.read(result) == new and blobs.key_of(result.digest) == KEY.id
