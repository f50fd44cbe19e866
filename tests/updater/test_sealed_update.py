"""Sealed releases on a device: fetched, kept, patched and served, and no disk shows them."""

from pathlib import Path

import pytest

from fakes.rig import DEVICE, Fleet, Rig
from skerry.devices.digest import Descriptor
from skerry.devices.errors import TrustError
from skerry.updater import delta
from skerry.updater.sealing import ContentKey, Parcel, purpose_of, wrap
from skerry.updater.store.store import StoreLimits

SMALL = StoreLimits(checkpoint_bytes=1_000, free_bytes=0)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def rig(fleet: Fleet, tmp_path: Path) -> Rig:
    return Rig.enrolled(fleet, tmp_path / "home", store=SMALL)


def _install(fleet: Fleet, rig: Rig, counter: int, *, sealed: bool = True) -> None:
    fleet.assign(fleet.publish(counter, sealed=sealed, shift=float(counter), golden_rows=120))
    assert rig.poll() == "installed"


def _secret(fleet: Fleet, counter: int) -> dict[Descriptor, bytes]:
    bundle = fleet.bundles[counter]
    hidden = (fleet.weights(counter), bundle.card.golden.descriptor())
    return {blob: bundle.blobs.read(blob) for blob in hidden}


def shown(folder: Path, blobs: dict[Descriptor, bytes]) -> list[str]:
    """The files in `folder` that hold some 24 bytes of one of `blobs`."""
    pieces = {
        piece
        for data in blobs.values()
        for piece in (data[at : at + 24] for at in range(0, len(data), 24))
        if len(set(piece)) > 8
    }
    assert len(pieces) > 10
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [p.name for p in files if any(piece in (d := p.read_bytes()) for piece in pieces) and d]


def _patch(fleet: Fleet, old: int, new: int, *, key: str, tmp_path: Path) -> Parcel:
    """A signed patch between the weights of two releases, and the whole blob taken away."""
    base, result = fleet.weights(old), fleet.weights(new)
    made = tmp_path / "patch"
    bundles = fleet.bundles
    delta.create(bundles[old].blobs.path(base.digest), bundles[new].blobs.path(result.digest), made)
    parcel = fleet.put(made.read_bytes(), key)
    fleet.stage.image.add_delta(base.digest, result.digest, parcel)
    for url in [url for url in fleet.fetcher.pages if result.digest.hex in url]:
        del fleet.fetcher.pages[url]
    return parcel


def test_a_sealed_release_runs_and_shows_nothing(fleet: Fleet, rig: Rig) -> None:
    _install(fleet, rig, 1)
    assert rig.serving == "1" and rig.store.now.slots.active.key == fleet.keys.popitem()[0]
    assert shown(rig.home, _secret(fleet, 1)) == []
    sealed = [p.name for p in (rig.home / "store/blobs/sha256").iterdir() if "." in p.name]
    assert len(sealed) == 2  # weights and golden samples; manifest and card are plain


def test_it_serves_again_without_a_network(fleet: Fleet, rig: Rig) -> None:
    _install(fleet, rig, 1)
    asked = len(fleet.fetcher.requests)
    assert Rig(fleet, rig.home).serving == "1"
    assert len(fleet.fetcher.requests) == asked


def test_a_patch_leads_from_one_sealed_release_to_the_next(
    fleet: Fleet, rig: Rig, tmp_path: Path
) -> None:
    _install(fleet, rig, 1)
    release = fleet.publish(2, sealed=True, shift=2.0, golden_rows=120)
    patch = _patch(fleet, 1, 2, key=release.key, tmp_path=tmp_path)
    fleet.assign(release)
    assert rig.poll() == "installed" and rig.serving == "2"
    assert "patched" in rig.log.events and not rig.store.blobs.has(patch.blob.digest)
    assert shown(rig.home, _secret(fleet, 1) | _secret(fleet, 2)) == []


@pytest.mark.parametrize("then", ["plain to sealed", "sealed to plain"])
def test_a_fleet_may_change_its_mind(fleet: Fleet, rig: Rig, tmp_path: Path, then: str) -> None:
    to_sealed = then == "plain to sealed"
    _install(fleet, rig, 1, sealed=not to_sealed)
    release = fleet.publish(2, sealed=to_sealed, shift=2.0, golden_rows=120)
    _patch(fleet, 1, 2, key=release.key, tmp_path=tmp_path)
    fleet.assign(release)
    assert rig.poll() == "installed" and rig.serving == "2"
    assert "patched" in rig.log.events
    weights = fleet.weights(2)
    assert rig.store.blobs.key_of(weights.digest) == release.key


@pytest.mark.parametrize("sealed", [False, True])
def test_a_delta_bomb_is_not_unpacked(fleet: Fleet, rig: Rig, tmp_path: Path, sealed: bool) -> None:
    """Whoever has the key of the deltas signs a small patch that makes a very large file."""
    _install(fleet, rig, 1, sealed=sealed)
    release = fleet.publish(2, sealed=sealed, shift=2.0, golden_rows=120)
    base, result = (fleet.bundles[n].card.golden.descriptor() for n in (1, 2))
    large, bomb = tmp_path / "large", tmp_path / "bomb"
    large.write_bytes(bytes(4 << 20))
    delta.create(fleet.bundles[1].blobs.path(base.digest), large, bomb)
    assert bomb.stat().st_size < result.size
    patch = fleet.put(bomb.read_bytes(), release.key)
    fleet.stage.image.add_delta(base.digest, result.digest, patch)
    fleet.assign(release)
    most: list[int] = []
    put_as, patcher = rig.store.blobs.put_as, rig.fetching._patcher
    rig.store.blobs.put_as = lambda *a: most.append(1) or put_as(*a)  # type: ignore[method-assign]
    rig.fetching._patcher = lambda *a: most.append(1) or patcher(*a)  # type: ignore[func-returns-value]
    assert rig.poll() == "installed" and rig.serving == "2"
    assert "patch_failed" in rig.log.events and most == []


def test_a_broken_download_of_a_sealed_blob_goes_on(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1, sealed=True, golden_rows=400)
    golden = Parcel(fleet.bundles[1].card.golden.descriptor(), release.key)
    url = next(url for url in fleet.fetcher.pages if url.endswith(golden.name))
    fleet.fetcher.cut(url, golden.size // 2)
    fleet.assign(release)
    assert rig.poll() == "installed"
    starts = [start for asked, start in fleet.fetcher.requests if asked == url]
    assert len(starts) == 2 and 0 < starts[1] < golden.size


def test_changed_bytes_are_refused_and_fetched_again(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1, sealed=True)
    weights = Parcel(fleet.weights(1), release.key)
    url = next(url for url in fleet.fetcher.pages if url.endswith(weights.name))
    good = fleet.fetcher.pages[url]
    fleet.fetcher.put(url, good[:-1] + bytes([good[-1] ^ 1]))
    fleet.assign(release)
    with pytest.raises(TrustError, match="other content"):
        rig.poll()
    fleet.fetcher.put(url, good)
    assert rig.poll() == "installed"


def test_another_key_than_the_signed_one_is_refused(fleet: Fleet, rig: Rig) -> None:
    release = fleet.publish(1, sealed=True)
    true, other = fleet.keys[release.key], ContentKey.fresh()
    name = f"keys/{DEVICE}/{release.key}.json"
    envelope = wrap(other, fleet.holder, purpose_of(release.key, str(DEVICE)))
    fleet.fetcher.put(f"https://fleet.example/{name}", envelope.encode())
    fleet.assign(release)
    with pytest.raises(TrustError, match="another key"):
        rig.poll()
    del fleet.fetcher.pages[f"https://fleet.example/{name}"]
    assert fleet.keys[release.key] == true
    assert rig.poll() == "installed"


@pytest.mark.parametrize("what", ["key", "blob", "both"])
def test_what_the_disk_lost_is_fetched_again(fleet: Fleet, rig: Rig, what: str) -> None:
    _install(fleet, rig, 1)
    weights = Parcel(fleet.weights(1), rig.store.now.slots.active.key)
    if what in ("key", "both"):
        (envelope,) = (rig.home / "store/keys").iterdir()
        envelope.write_bytes(b"rotten")
    if what in ("blob", "both"):
        path = rig.store.blobs.file(weights)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    again = Rig(fleet, rig.home, store=SMALL)
    assert again.serving == ""
    again.mend()
    assert again.serving == "1"


def test_keys_that_nothing_needs_are_forgotten(fleet: Fleet, rig: Rig) -> None:
    for counter in (1, 2, 3):
        _install(fleet, rig, counter)
    slots = rig.store.now.slots
    assert set(rig.keys.ids()) == {slots.active.key, slots.previous.key}


def test_a_thief_of_the_disk_without_the_device_s_key_opens_nothing(fleet: Fleet, rig: Rig) -> None:
    _install(fleet, rig, 1)
    (rig.home / "identity/key.pem").unlink()
    assert Rig(fleet, rig.home).serving == ""


def test_the_key_is_signed_with_the_release(fleet: Fleet, rig: Rig) -> None:
    """A director alone cannot have a device fetch a release under another key, or plain."""
    from dataclasses import replace

    release = fleet.publish(1, sealed=True)
    for evil in ("", fleet.new_key()):
        fleet.assign(replace(release, key=evil))
        with pytest.raises(TrustError, match="director assigns"):
            rig.poll()
