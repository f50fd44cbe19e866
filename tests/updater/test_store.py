"""The store on a real folder: what it keeps, what it lets go of, and what it makes of damage."""

import json
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes.disk import QuickDisk
from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import DigestMismatch, InputError, QuotaError, UnavailableError
from skerry.devices.ids import ModelName, ReleaseId
from skerry.updater.sealing import Parcel
from skerry.updater.store import slots as rules
from skerry.updater.store.journal import read_situation
from skerry.updater.store.starts import Starts
from skerry.updater.store.store import Store, StoreLimits

LIMITS = StoreLimits(quota_bytes=100_000, free_bytes=0, checkpoint_bytes=1_000)


def _blob(size: int, seed: int = 0) -> tuple[Descriptor, bytes]:
    data = random.Random(seed).randbytes(size)
    return Descriptor(Digest.of(data), size), data


def _store(folder: Path, limits: StoreLimits = LIMITS) -> Store:
    return Store(folder, disk=QuickDisk(), limits=limits)


def _put(store: Store, size: int, seed: int) -> Descriptor:
    blob, data = _blob(size, seed)
    store.blobs.put(blob, [data])
    return blob


def _install(store: Store, counter: int, size: int = 1_000) -> Descriptor:
    """Release `counter`, of one manifest and one blob of `size` bytes; the blob."""
    manifest, weights = _put(store, 100, 1_000 + counter), _put(store, size, counter)
    now = rules.begun(store.now, ReleaseId(ModelName("m"), counter), "v", manifest, 0.0)
    now = rules.planned(now, "onnx-int8", (rules.reference(weights),))
    store.become(now)
    for step in (rules.fetched, rules.tried, rules.committed, rules.reported):
        store.become(step(store.now))
    return weights


def test_what_it_becomes_is_there_after_a_restart(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _install(store, 1)
    _install(store, 2)
    again = _store(tmp_path)
    assert again.now == store.now
    assert again.now.slots.active.release == "m/2"


def test_collecting_spares_every_blob_that_is_named(tmp_path: Path) -> None:
    store = _store(tmp_path)
    weights = [_install(store, n) for n in (1, 2, 3)]
    stray = _put(store, 500, 99)
    store.partial(Parcel(_blob(300, 5)[0])).close()
    assert store.collect() == 4  # release 1's two blobs, the stray one, the download
    assert [store.blobs.has(blob.digest) for blob in weights] == [False, True, True]
    assert not store.blobs.has(stray.digest)
    assert set(store.blobs.digests()) == rules.named(store.now)


def test_a_named_blob_cannot_be_forgotten(tmp_path: Path) -> None:
    store = _store(tmp_path)
    weights = _install(store, 1)
    with pytest.raises(InputError, match="names this blob"):
        store.forget(weights.digest)


def test_room_is_made_in_the_order_of_worth(tmp_path: Path) -> None:
    store = _store(tmp_path)
    for n in (1, 2, 3):
        _install(store, n, 20_000)
    store.make_room([Parcel(_blob(30_000, 7)[0])])  # 60,300 and 30,000 fit
    assert store.blobs.has(_blob(20_000, 1)[0].digest)
    store.make_room([Parcel(_blob(50_000, 7)[0])])  # release 1, which nothing names, goes
    assert not store.blobs.has(_blob(20_000, 1)[0].digest)
    assert store.now.slots.previous is not None
    store.make_room([Parcel(_blob(70_000, 7)[0])])  # the previous one goes
    assert store.now.slots.previous is None
    with pytest.raises(QuotaError, match="do not fit"):
        store.make_room([Parcel(_blob(90_000, 7)[0])])
    assert store.blobs.has(_blob(20_000, 3)[0].digest)


def test_the_filesystem_must_keep_some_space(tmp_path: Path) -> None:
    store = _store(tmp_path, StoreLimits(free_bytes=1 << 60))
    with pytest.raises(QuotaError):
        store.make_room([Parcel(_blob(10)[0])])


def test_damaged_blobs_are_found_and_removed(tmp_path: Path) -> None:
    store = _store(tmp_path)
    weights = _install(store, 1)
    assert store.damaged(store.now.slots.active) == []
    path = store.blobs.path(weights.digest)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert store.damaged(store.now.slots.active) == [weights]
    assert not store.blobs.has(weights.digest)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"active": 7}', b"\x80", b"[" * 9_999])
def test_malformed_slots_are_replaced_by_their_copy(tmp_path: Path, damage: bytes) -> None:
    store = _store(tmp_path)
    _install(store, 1)
    (tmp_path / "slots.json").write_bytes(damage)
    (tmp_path / "journal.json").write_bytes(damage)
    again = _store(tmp_path)
    assert again.now == store.now
    assert set(again.blobs.digests()) == rules.named(store.now)


def test_a_slot_with_a_hostile_digest_is_malformed(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _install(store, 1)
    document = json.loads((tmp_path / "slots.json").read_text())
    document["active"]["manifest"]["digest"] = "../../etc/passwd"
    (tmp_path / "slots.json").write_text(json.dumps(document))
    assert _store(tmp_path).now == store.now


def test_when_both_copies_are_gone_the_device_starts_empty(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _install(store, 1)
    for name in ("slots.json", "slots.copy.json"):
        (tmp_path / name).write_bytes(b"?")
    assert _store(tmp_path).now == rules.Situation()


def _documents(folder: Path) -> None:
    """Slots and journal as a device writes them in the middle of its third update."""
    store = _store(folder)
    _install(store, 1)
    _install(store, 2)
    now = rules.begun(store.now, ReleaseId(ModelName("m"), 3), "v3", _blob(100, 1_003)[0], 1.5)
    store.become(rules.planned(now, "onnx-int8", (rules.reference(_blob(1_000, 3)[0]),)))


def test_slots_and_journal_of_format_1_are_read_for_ever(tmp_path: Path, root: Path) -> None:
    golden = root / "tests/golden/v1/store"
    shutil.copytree(golden, tmp_path / "old")
    store = _store(tmp_path / "old")
    assert store.now.slots.active.release == "m/2"
    assert store.now.slots.previous.release == "m/1"
    assert store.now.update.state == "fetching"
    _documents(tmp_path / "new")
    assert read_situation(golden) == read_situation(tmp_path / "new")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_content_of_its_files_keeps_a_device_from_starting(
    tmp_path: Path, data: st.DataObject
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    for path in sorted((Path(__file__).parents[1] / "golden/v1/store").iterdir()):
        name, good = path.name, path.read_bytes()
        for target in {"slots.json": ("slots.json", "slots.copy.json")}.get(name, (name,)):
            raw = bytearray(good)
            for _ in range(data.draw(st.integers(0, 3))):
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
            cut = data.draw(st.integers(0, len(raw)))
            (folder / target).write_bytes(bytes(raw[:cut]) if data.draw(st.booleans()) else raw)
    store = _store(folder)
    assert rules.recovered(store.now) == store.now
    assert _store(folder).now == store.now


# Downloads


def test_a_download_goes_on_at_its_last_checkpoint(tmp_path: Path) -> None:
    store, (blob, data) = _store(tmp_path), _blob(5_000)
    partial = store.partial(Parcel(blob))
    partial.append(data[:1_500])
    partial.append(data[1_500:1_900])
    partial.close()
    again = store.partial(Parcel(blob))
    assert (again.size, again.resumed) == (1_500, True)
    again.append(data[1_500:])
    store.adopt(again)
    assert store.blobs.read(blob) == data
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("at", [0, 700, 1_499])
def test_damage_below_the_checkpoint_costs_the_download(tmp_path: Path, at: int) -> None:
    store, (blob, data) = _store(tmp_path), _blob(5_000)
    partial = store.partial(Parcel(blob))
    partial.append(data[:1_500])
    partial.close()
    raw = bytearray(partial.path.read_bytes())
    raw[at] ^= 1
    partial.path.write_bytes(raw)
    assert store.partial(Parcel(blob)).size == 0


@pytest.mark.parametrize(
    "mark", [b"", b"{}", b'{"size": -5, "sha256": ""}', b'{"size": 99999999, "sha256": "00"}']
)
def test_a_damaged_mark_costs_the_download_and_no_more(tmp_path: Path, mark: bytes) -> None:
    store, (blob, data) = _store(tmp_path), _blob(5_000)
    partial = store.partial(Parcel(blob))
    partial.append(data[:1_500])
    partial.close()
    partial.path.with_suffix(".mark").write_bytes(mark)
    again = store.partial(Parcel(blob))
    assert again.size == 0
    again.append(data)
    store.adopt(again)
    assert store.blobs.read(blob) == data


def test_too_many_or_other_bytes_are_refused(tmp_path: Path) -> None:
    store, (blob, data) = _store(tmp_path), _blob(2_000)
    partial = store.partial(Parcel(blob))
    with pytest.raises(DigestMismatch, match="more than 2000"):
        partial.append(data + b"x")
    partial.append(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DigestMismatch):
        store.adopt(partial)
    assert not store.blobs.has(blob.digest)
    assert store.partial(Parcel(blob)).size == 0


def test_a_full_disk_is_said_so(tmp_path: Path) -> None:
    class Full(QuickDisk):
        def write(self, file: object, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    store = Store(tmp_path, disk=Full(), limits=LIMITS)
    with pytest.raises(UnavailableError, match="No space left"):
        store.partial(Parcel(_blob(10)[0])).append(b"x")


def test_deaths_are_counted_per_release(tmp_path: Path) -> None:
    starts = Starts(tmp_path, QuickDisk())
    assert [starts.begin("m/1"), starts.begin("m/1"), starts.begin("m/2")] == [0, 1, 0]
    starts.end()
    assert starts.begin("m/2") == 0
    (tmp_path / "starts.json").write_bytes(b"\0\0")
    assert starts.begin("m/2") == 0
