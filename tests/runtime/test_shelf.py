"""Versions, labels, what stays in memory and what stays on the disk."""

import http.client
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import BIAS, linear, make_bundle
from skerry.devices.errors import DigestMismatch, InputError, QuotaError, UnavailableError
from skerry.devices.files import RealDisk
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.heat import Heat, Resident, victim
from skerry.runtime.labels import Labels, newest, version_of
from skerry.runtime.room import Footprint
from skerry.runtime.serve.server import Server
from skerry.runtime.shelf import Shelf, ShelfLimits
from skerry.runtime.stock import Key, StockLimits

X = np.ones((1, 4), np.float32)
UNIT = 1 << 20


def _limits(models: int, **more: object) -> ShelfLimits:
    footprint = Footprint(per_byte=0.0, each_bytes=UNIT)
    return ShelfLimits(bytes=models * UNIT, footprint=footprint, retry_s=0.0, **more)  # type: ignore[arg-type]


def _versions(folder: Path, *versions: str) -> Path:
    for version in versions:
        make_bundle(folder / f"m-{version}", model="m", version=version, shift=float(version))
    return folder


def _version(shelf: Shelf, wanted: str | None) -> str:
    answer = shelf.answer("m", {"x": X}, version=wanted)
    version = answer.release.card.version
    np.testing.assert_allclose(answer.outputs["y"], linear(X, BIAS + float(version)), atol=1e-5)
    return version


# Versions and labels


@pytest.mark.parametrize(
    ("versions", "last"),
    [
        (["1.9", "1.10", "1.2"], "1.10"),
        (["2024-01-05", "2023-12-31"], "2024-01-05"),
        (["v1", "v1-rc1"], "v1-rc1"),
        (["b", "a"], "b"),
        (["", "0"], "0"),
    ],
)
def test_numbers_in_versions_are_numbers(versions: list[str], last: str) -> None:
    assert newest(versions) == last


@given(st.lists(st.text(), min_size=1))
def test_any_versions_can_be_ordered(versions: list[str]) -> None:
    assert newest(versions) in versions
    assert version_of(None, versions, {}) == newest(versions)


def test_the_newest_is_stable_until_a_label_says_otherwise(tmp_path: Path) -> None:
    shelf = Shelf(_versions(tmp_path, "1", "2", "10"))
    assert [_version(shelf, one) for one in (None, "stable", "1")] == ["10", "10", "1"]
    with pytest.raises(InputError, match="candidate"):
        shelf.answer("m", {"x": X}, version="candidate")
    shelf.label("m", "stable", "1")
    shelf.label("m", "candidate", "10")
    assert [_version(shelf, one) for one in (None, "candidate")] == ["1", "10"]
    shelf.close()
    again = Shelf(tmp_path)
    assert again.info("m").version == "1"
    again.label("m", "stable", None)
    assert again.info("m").version == "10"
    with pytest.raises(InputError):
        again.label("m", "stable", "3")
    again.close()


@pytest.mark.parametrize("text", ["{", "[]", '{"m": 1}', '{"m": {"stable": 1}}', "\xff"])
def test_malformed_labels_are_refused_with_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(InputError, match=r"labels\.json"):
        Labels(tmp_path / "labels.json")


def test_a_label_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    class Full(RealDisk):
        def sync(self, file: object) -> None:
            raise OSError(28, "No space left on device")

    labels = Labels(tmp_path / "labels.json", Full())
    with pytest.raises(UnavailableError, match="No space"):
        labels.set("m", "stable", "1")
    assert labels.of("m") == {}
    assert list(tmp_path.iterdir()) == []


# Loading

UNREADABLE = Path("/proc/self/mem")  # a file that opens, and whose first byte no read gets


def _spoil(bundle: Path) -> Path:
    """Let the artifact of a bundle be a file that cannot be read."""
    opened = Bundle.open(bundle)
    path = opened.path(opened.card.artifacts[0].blob)
    path.unlink()
    path.symlink_to(UNREADABLE)
    return bundle


@pytest.mark.skipif(not UNREADABLE.exists(), reason="no such file here")
def test_a_disk_that_cannot_be_read_costs_no_other_model_its_memory(tmp_path: Path) -> None:
    make_bundle(tmp_path / "good", model="good")
    _spoil(make_bundle(tmp_path / "bad", model="bad"))
    shelf = Shelf(tmp_path, limits=_limits(1, load_s=0.0))
    for _ in range(3):
        with pytest.raises(UnavailableError, match="cannot read: Input/output error"):
            shelf.answer("bad", {"x": X})
    shelf.answer("good", {"x": X})
    shelf.close()


def test_a_bug_while_loading_gives_the_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path / "m", model="m")
    shelf = Shelf(tmp_path, limits=_limits(1, load_s=0.0))

    def broken(*_: object) -> object:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(shelf._stock, "open", broken)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                shelf.load("m")
    shelf.load("m")
    shelf.close()


def test_a_closed_shelf_loads_nothing(tmp_path: Path) -> None:
    shelf = Shelf(_versions(tmp_path, "1"))
    shelf.answer("m", {"x": X})
    shelf.close()
    with pytest.raises(UnavailableError, match="closed"):
        shelf.answer("m", {"x": X})
    assert shelf.names_loaded() == ()


def test_what_was_being_loaded_when_the_shelf_was_closed_is_closed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(_versions(tmp_path, "1"))
    loading, go, opened = threading.Event(), threading.Event(), shelf._stock.open

    def slow(key: Key) -> Bundle:
        loading.set()
        assert go.wait(20)
        return opened(key)

    monkeypatch.setattr(shelf._stock, "open", slow)
    problems: list[UnavailableError] = []

    def load() -> None:
        with pytest.raises(UnavailableError, match="closed") as caught:
            shelf.load("m")
        problems.append(caught.value)

    caller = threading.Thread(target=load)
    caller.start()
    assert loading.wait(20)
    shelf.close()
    go.set()
    caller.join()
    assert len(problems) == 1
    assert shelf.names_loaded() == ()


# Memory


def test_what_is_cold_makes_way_and_among_equals_the_latest_come() -> None:
    hot, warm, cold = Resident(20.0, 1.0), Resident(1.5, 2.0), Resident(0.2, 3.0)
    assert victim([hot, warm, cold], 1.0) == 2
    assert victim([hot, warm, Resident(1.0, 4.0)], 1.0) == 2
    assert victim([hot, Resident(15.0, 9.0)], 1.0) == 1
    heat = Heat(10.0)
    for _ in range(4):
        heat.touch(100.0)
    assert heat.at(110.0) == pytest.approx(2.0)
    assert heat.at(1e9) == 0.0


def _loads(calls: list[int], room: int, half_life_s: float = 60.0) -> list[int]:
    """How often each model is loaded, one call a second."""
    heats: dict[int, Heat] = {}
    here: dict[int, float] = {}
    loads: dict[int, int] = {}
    for now, model in enumerate(calls):
        heat = heats.setdefault(model, Heat(half_life_s))
        heat.touch(now)
        if model in here:
            continue
        loads[model] = loads.get(model, 0) + 1
        if len(here) == room:
            names = list(here)
            residents = [Resident(heats[name].at(now), here[name]) for name in names]
            del here[names[victim(residents, heat.at(now))]]
        here[model] = now
    return [loads.get(n, 0) for n in range(max(calls) + 1)]


def test_one_more_than_fits_in_turn_does_not_load_every_one_at_every_call() -> None:
    calls = [n % 11 for n in range(1100)]
    assert sum(_loads(calls, 10)) < 0.3 * len(calls)


def test_a_sweep_over_many_does_not_push_out_what_is_asked_often() -> None:
    rng = np.random.default_rng(0)
    calls = [int(rng.integers(5)) if n % 2 else 5 + n // 2 % 45 for n in range(2000)]
    assert sum(_loads(calls, 10)[:5]) <= 10


def test_what_becomes_popular_comes_to_stay() -> None:
    before, after = [n % 10 for n in range(500)], [10 + n % 10 for n in range(1000)]
    loads = _loads(before + after, 10)
    assert max(loads[:10]) == 1
    assert sum(loads[10:]) < 300


def test_hot_models_stay_loaded_while_50_are_asked_for(tmp_path: Path) -> None:
    for n in range(50):
        make_bundle(tmp_path / f"m{n}", model=f"m{n}", shift=float(n), golden_rows=2)
    shelf = Shelf(tmp_path, limits=_limits(10))
    loaded: dict[str, set[int]] = {}
    for n in range(5, 50):
        for hot in (0, 1, 2, n):
            answer = shelf.answer(f"m{hot}", {"x": X})
            np.testing.assert_allclose(answer.outputs["y"], linear(X, BIAS + hot), atol=1e-5)
            runtime = shelf.loaded(f"m{hot}")
            loaded.setdefault(f"m{hot}", set()).add(id(runtime))
        assert len(shelf.names_loaded()) <= 10
    assert [len(loaded[f"m{n}"]) for n in range(3)] == [1, 1, 1]
    assert shelf.loads == 3 + 45
    shelf.close()


def test_what_is_idle_is_closed_and_loaded_again_when_asked_for(tmp_path: Path) -> None:
    shelf = Shelf(_versions(tmp_path, "1"), limits=_limits(10, idle_s=100.0))
    _version(shelf, None)
    shelf.unload_idle(time.monotonic() + 50)
    assert shelf.names_loaded() == ("m",)
    shelf.unload_idle(time.monotonic() + 200)
    assert shelf.names_loaded() == ()
    _version(shelf, None)
    assert shelf.loads == 2
    shelf.close()


def test_idle_models_are_closed_by_themselves(tmp_path: Path) -> None:
    shelf = Shelf(_versions(tmp_path, "1"), limits=_limits(10, idle_s=0.01))
    _version(shelf, None)
    latest = time.monotonic() + 20
    while shelf.names_loaded():
        assert time.monotonic() < latest
    shelf.close()


# Disk


def _add(shelf: Shelf, folder: Path, version: str) -> None:
    shelf.add(make_bundle(folder / version, model="m", version=version, shift=float(version)))


def test_the_quota_on_the_disk_takes_what_was_not_used_longest(tmp_path: Path) -> None:
    home = _versions(tmp_path / "home", "1")
    size = sum(file.stat().st_size for file in (home / "m-1").rglob("*") if file.is_file())
    for spare in home.glob(".*.onnx"):
        spare.unlink()
    limits = _limits(10, stock=StockLimits(bytes=int(3.5 * size)))
    shelf = Shelf(home, limits=limits)
    _add(shelf, tmp_path, "2")
    _add(shelf, tmp_path, "3")
    assert {info.version for info in shelf.infos()} == {"1", "2", "3"}
    shelf._stock.used(Key("m", "1"))
    _add(shelf, tmp_path, "4")
    assert {info.version for info in shelf.infos()} == {"1", "3", "4"}
    shelf.label("m", "candidate", "1")
    shelf.label("m", "stable", "3")
    _add(shelf, tmp_path, "5")
    assert {info.version for info in shelf.infos()} == {"1", "3", "5"}
    shelf.label("m", "next", "5")
    with pytest.raises(QuotaError, match="m 6: needs"):
        _add(shelf, tmp_path, "6")
    assert [_version(shelf, one) for one in (None, "candidate", "next")] == ["3", "1", "5"]
    with pytest.raises(InputError, match="no version"):
        shelf.answer("m", {"x": X}, version="2")
    shelf.close()
    assert {info.version for info in Shelf(home, limits=limits).infos()} == {"1", "3", "5"}


def test_a_bundle_that_is_damaged_or_here_already_is_not_taken_in(tmp_path: Path) -> None:
    home = _versions(tmp_path / "home", "1")
    shelf = Shelf(home)
    with pytest.raises(InputError, match="already"):
        _add(shelf, tmp_path, "1")
    source = make_bundle(tmp_path / "2", model="m", version="2")
    blob = max((source / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DigestMismatch):
        shelf.add(source)
    assert [path.name for path in home.iterdir() if path.is_dir()] == ["m-1"]
    shelf.close()


def test_a_full_disk_leaves_the_shelf_as_it_was(tmp_path: Path) -> None:
    class Full(RealDisk):
        left = 3000

        def write(self, file: object, data: bytes) -> None:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            super().write(file, data)  # type: ignore[arg-type]

    home = _versions(tmp_path / "home", "1")
    shelf = Shelf(home, disk=Full())
    with pytest.raises(UnavailableError, match="No space left"):
        _add(shelf, tmp_path, "2")
    assert _version(shelf, None) == "1"
    assert [path.name for path in home.iterdir() if path.is_dir()] == ["m-1"]
    shelf.close()


def test_what_a_power_cut_left_is_cleared_away(tmp_path: Path) -> None:
    home = _versions(tmp_path, "1")
    (home / ".skerry-in-x").mkdir()
    (home / ".mine").mkdir()
    shelf = Shelf(home)
    assert not (home / ".skerry-in-x").exists()
    assert (home / ".mine").exists()
    assert json.dumps([info.version for info in shelf.infos()]) == '["1"]'
    shelf.close()


def test_versions_and_labels_are_asked_for_over_http(tmp_path: Path) -> None:
    shelf = Shelf(_versions(tmp_path, "1", "2"))
    shelf.label("m", "stable", "1")
    shelf.label("m", "candidate", "2")
    with Server(shelf) as server:
        host = server.address.removeprefix("http://")

        def call(method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
            connection = http.client.HTTPConnection(host, timeout=20)
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = json.loads(response.read())
            connection.close()
            return response.status, data

        body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1] * 4}]}
        for path, version in (("", "1"), ("/versions/candidate", "2"), ("/versions/1", "1")):
            status, found = call("POST", f"/v2/models/m{path}/infer", body)
            assert (status, found["model_version"]) == (200, version)
            assert call("GET", f"/v2/models/m{path}")[1]["versions"] == [version]
        assert call("POST", "/v2/models/m/versions/3/infer", body)[0] == 404
        assert call("GET", "/v2/models/m/versions/3")[0] == 404
    shelf.close()
