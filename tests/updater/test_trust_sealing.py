"""Sealed blobs: nothing shows, nothing changed opens, and downloads go on where they broke off."""

from contextlib import closing
from io import BytesIO
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
from skerry.devices.errors import BundleError, DigestMismatch, InputError, TrustError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.runtime import Runtime
from skerry.updater import delta
from skerry.updater.fetch import BusyError, fetch_bytes
from skerry.updater.trust.sealing import (
    ContentKey,
    Envelope,
    SealedBlobs,
    SealedFetcher,
    SealLimits,
    kept_key,
    seal,
    seal_from,
    sealed_range,
    sealed_size,
    unseal,
    unwrap,
    wrap,
)

SMALL = SealLimits(chunk_bytes=100)
KEY = ContentKey(bytes(range(32)))
DATA = np.random.default_rng(0).bytes(1_234)
BLOB = Descriptor(Digest.of(DATA), len(DATA))


def _sealed(data: bytes = DATA, key: ContentKey = KEY) -> bytes:
    return b"".join(seal([data], Descriptor(Digest.of(data), len(data)), key, SMALL))


def _opened(sealed: bytes, blob: Descriptor = BLOB, key: ContentKey = KEY) -> bytes:
    return b"".join(unseal([sealed], blob, key, limits=SMALL))


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1_234])
def test_what_was_sealed_opens(size: int) -> None:
    data = DATA[:size]
    blob = Descriptor(Digest.of(data), size)
    sealed = _sealed(data)
    assert len(sealed) == sealed_size(size, SMALL)
    assert _opened(sealed, blob) == data


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=12), st.lists(st.integers(1, 400), max_size=12))
def test_pieces_of_any_length_do(into: list[int], out: list[int]) -> None:
    def cut(data: bytes, lengths: list[int]) -> list[bytes]:
        pieces = []
        for length in lengths:
            pieces.append(data[:length])
            data = data[length:]
        return [*pieces, data]

    sealed = b"".join(seal(cut(DATA, into), BLOB, KEY, SMALL))
    assert sealed == _sealed()
    assert b"".join(unseal(cut(sealed, out), BLOB, KEY, limits=SMALL)) == DATA


@pytest.mark.parametrize("size", [0, 1, 100, 101, 1_234])
def test_a_server_seals_any_range_as_it_would_the_whole(size: int) -> None:
    data = DATA[:size]
    blob = Descriptor(Digest.of(data), size)
    whole = _sealed(data)
    for start in range(0, len(whole) + 1, 7):
        rest = b"".join(seal_from(BytesIO(data), blob, KEY, start, SMALL))
        assert rest == whole[start:], start


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
    device, other = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    envelope = Envelope.decode(wrap(KEY, device.public_key(), "digits/1 dev-1").encode())
    assert unwrap(envelope, device, "digits/1 dev-1") == KEY
    with pytest.raises(TrustError):
        unwrap(envelope, other, "digits/1 dev-1")
    with pytest.raises(TrustError):
        unwrap(envelope, device, "digits/2 dev-1")


def test_every_envelope_is_new() -> None:
    device = generate_private_key(SECP256R1())
    one, two = (wrap(KEY, device.public_key(), "p") for _ in range(2))
    assert one.ephemeral != two.ephemeral and one.wrapped != two.wrapped
    assert KEY.secret not in one.encode()


@pytest.mark.parametrize("field", ["ephemeral", "wrapped"])
@pytest.mark.parametrize("value", [b"", b"\4" + bytes(64), b"\4" * 40, b"\2" + b"\1" * 32])
def test_a_changed_envelope_does_not_unwrap(field: str, value: bytes) -> None:
    device = generate_private_key(SECP256R1())
    envelope = wrap(KEY, device.public_key(), "p")
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


def test_a_device_keeps_the_key_of_its_store_for_itself(tmp_path: Path) -> None:
    device, thief = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    path = tmp_path / "store.key"
    key = kept_key(path, device)
    assert kept_key(path, device) == key
    assert key.secret not in path.read_bytes()
    with pytest.raises(TrustError):
        kept_key(path, thief)
    path.write_bytes(b"{")
    with pytest.raises(InputError):
        kept_key(path, device)


# On the disk


@pytest.fixture
def blobs(tmp_path: Path) -> SealedBlobs:
    return SealedBlobs(tmp_path, KEY, limits=SMALL)


def test_a_sealed_store_is_a_blob_store(blobs: SealedBlobs) -> None:
    assert not blobs.has(BLOB.digest)
    blobs.put(BLOB, [DATA[:7], DATA[7:]])
    assert blobs.has(BLOB.digest)
    assert blobs.read(BLOB) == blobs.path(BLOB.digest).read_bytes() == DATA
    assert list(blobs.digests()) == [BLOB.digest]
    with pytest.raises(DigestMismatch):
        blobs.read(Descriptor(BLOB.digest, BLOB.size + 1))
    blobs.remove(BLOB.digest)
    assert not blobs.has(BLOB.digest)
    with pytest.raises(BundleError, match=BLOB.digest.hex):
        blobs.path(BLOB.digest)


@pytest.mark.parametrize("chunks", [[b"x" * len(DATA)], [DATA, b"more"], [DATA[:-1]]])
def test_a_sealed_store_keeps_nothing_else(blobs: SealedBlobs, chunks: list[bytes]) -> None:
    with pytest.raises(DigestMismatch):
        blobs.put(BLOB, chunks)
    assert list(blobs.digests()) == []


def test_a_stolen_disk_shows_nothing(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "bundle"))
    sealed = SealedBlobs(tmp_path / "store", KEY)
    for blob in (bundle.manifest, *bundle.descriptors()):
        sealed.put(blob, [bundle.blobs.read(blob)])
    for blob in bundle.descriptors():
        plain = bundle.blobs.read(blob)
        on_disk = (tmp_path / "store" / "blobs" / "sha256" / blob.digest.hex).read_bytes()
        assert plain[:24] not in on_disk and plain[-24:] not in on_disk
    runtime = Runtime()
    runtime.activate(runtime.prepare(Bundle.of(sealed, bundle.manifest)))
    answer = runtime.predict({bundle.card.inputs[0].name: np.ones((1, 4), np.float32)})
    assert answer[bundle.card.outputs[0].name].shape == (1, 3)
    runtime.close()
    sealed.close()


def test_a_sealed_blob_that_rotted_is_refused(blobs: SealedBlobs, tmp_path: Path) -> None:
    blobs.put(BLOB, [DATA])
    path = tmp_path / "blobs" / "sha256" / BLOB.digest.hex
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    with pytest.raises(TrustError):
        blobs.read(BLOB)
    with pytest.raises(TrustError):
        blobs.path(BLOB.digest)


# On the way


@pytest.fixture
def network() -> FakeFetcher:
    return FakeFetcher({"s/sealed": _sealed(), "s/other": b"plain"})


@pytest.fixture
def fetcher(network: FakeFetcher) -> SealedFetcher:
    known = {"s/blob": ("s/sealed", BLOB)}
    return SealedFetcher(network, KEY, known.get, SMALL)


def test_a_sealed_blob_is_fetched_as_if_it_were_plain(fetcher: SealedFetcher) -> None:
    assert fetch_bytes(fetcher, "s/blob", BLOB.size) == DATA
    assert fetch_bytes(fetcher, "s/other", 10) == b"plain"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("start", [1, 99, 100, 101, 250, 1_200, 1_233])
def test_a_sealed_download_goes_on(
    network: FakeFetcher, fetcher: SealedFetcher, start: int, ranges: bool
) -> None:
    network.ranges = ranges
    with fetcher.open("s/blob", max_bytes=BLOB.size, start=start) as body:
        assert body.start == start
        assert b"".join(body) == DATA[start:]
    (asked,) = network.requests
    at, sealed_at = sealed_range(start, SMALL)
    assert asked == ("s/sealed", sealed_at if at else 0)


def test_a_cut_sealed_download_hands_out_only_what_opened(
    network: FakeFetcher, fetcher: SealedFetcher
) -> None:
    network.cut("s/sealed", 500)
    got = bytearray()
    asked = fetcher.open("s/blob", max_bytes=BLOB.size)
    with pytest.raises(BusyError), asked as body:
        for chunk in body:
            got += chunk
    assert bytes(got) == DATA[: len(got)]


def test_a_sealed_blob_changed_on_the_way_is_refused(
    network: FakeFetcher, fetcher: SealedFetcher
) -> None:
    network.put("s/sealed", _sealed()[:-1] + b"!")
    with pytest.raises(TrustError):
        fetch_bytes(fetcher, "s/blob", BLOB.size)


def test_a_delta_between_sealed_blobs_works_as_between_plain_ones(tmp_path: Path) -> None:
    """The patch is made of plain bytes, travels sealed, and is applied to sealed blobs."""
    old, new = DATA * 4, DATA * 3 + DATA[::-1]
    for name, data in (("old", old), ("new", new)):
        (tmp_path / name).write_bytes(data)
    delta.create(tmp_path / "old", tmp_path / "new", tmp_path / "patch")
    patch = (tmp_path / "patch").read_bytes()
    told = Descriptor(Digest.of(patch), len(patch))
    sealed = b"".join(seal([patch], told, KEY))
    base = Descriptor(Digest.of(old), len(old))
    result = Descriptor(Digest.of(new), len(new))
    with closing(SealedBlobs(tmp_path / "store", KEY)) as store:
        store.put(base, [old])
        store.put(told, unseal([sealed], told, KEY))
        delta.apply(store.path(base.digest), store.path(told.digest), tmp_path / "applied")
        store.put(result, [(tmp_path / "applied").read_bytes()])
        assert store.read(result) == new
