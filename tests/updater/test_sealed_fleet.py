"""Sealed releases from the operator to real devices: no home on the way shows them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.bundles import WEIGHT
from fakes.fleet_process import FleetProcess, eventually
from skerry.cli.main import main
from skerry.devices.identity import Identity
from skerry.devices.ids import DeviceId
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.fetch import HttpFetcher, RefusedError, fetch_bytes

_COMMAND = [sys.executable, "-m", "skerry.cli.main", "agent"]
_POLICY = {"stages": [{"name": "all", "percent": 100}], "soak_s": 0}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    server = FleetProcess(tmp_path_factory.mktemp("fleet")).start()
    server.publish(1, "--encrypt")
    yield server
    server.stop()


@contextmanager
def _device(fleet: FleetProcess, home: Path, name: str) -> Iterator[Path]:
    claim = home.with_suffix(".claim")
    claim.write_text(json.dumps(fleet.client.post("/v1/claims", {"device": name})))
    assert main(["agent", "enrol", "--home", str(home), "--claim", str(claim)]) == 0
    with (home / "log.txt").open("wb") as log:
        words = [*_COMMAND, "run", "--home", str(home), "--poll", "1", "--trial", "0.3"]
        process = subprocess.Popen([*words, "--window", "0.5"], stderr=log)
    try:
        eventually("the agent", lambda: (home / "runtime.address").exists())
        yield home
    finally:
        process.terminate()
        process.wait(30)


def _active(home: Path) -> str:
    words = [*_COMMAND, "status", "--home", str(home), "--json"]
    found = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return str((found["slots"]["active"] or {}).get("release", ""))


def _hidden(folder: Path) -> set[bytes]:
    """Pieces of the weights and golden samples of every bundle in `folder`."""
    pieces = {WEIGHT.tobytes()[:24], WEIGHT.tobytes()[24:]}
    for path in folder.glob("b[0-9]*"):
        bundle = Bundle.open(path)
        for ref in (bundle.card.golden, *(one.blob for one in bundle.card.artifacts)):
            data = bundle.read(ref)
            pieces |= {data[at : at + 24] for at in range(0, len(data), 24)}
    return {piece for piece in pieces if len(set(piece)) > 8}


def _shown(home: Path, pieces: set[bytes]) -> list[str]:
    found = []
    for path in home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            found += [path.name for piece in pieces if piece in data]
    return found


def _fetcher(fleet: FleetProcess, home: Path, name: str) -> HttpFetcher:
    identity = Identity.load(home / "identity")
    return HttpFetcher(
        authorize=lambda: f"Bearer {identity.assertion(DeviceId(name), fleet.url, time.time())}"
    )


@pytest.mark.slow
def test_sealed_from_the_operator_to_the_devices(fleet: FleetProcess, tmp_path: Path) -> None:
    with _device(fleet, tmp_path / "one", "one") as one:
        fleet.ended(fleet.roll_out("linear/1", **_POLICY), "done")
        fleet.publish(2, "--encrypt")
        done = fleet.ended(fleet.roll_out("linear/2", **_POLICY), "done")["devices"][0]
        assert _active(one) == "linear/2"
        assert 0 < done["delta_bytes"] < done["full_bytes"]  # a sealed patch
        pieces = _hidden(fleet.folder)
        assert len(pieces) > 10
        assert _shown(fleet.folder / "b1", pieces)  # the search finds what is plain
        for home in (one, fleet.home, fleet.repo):
            assert _shown(home, pieces) == [], home
        # A device that joins later is handed the key when it asks.
        with _device(fleet, tmp_path / "two", "two") as two:
            eventually("the second device", lambda: _active(two) == "linear/2")
            assert _shown(two, pieces) == []
            _refused_by_the_server(fleet, one, two)


def _refused_by_the_server(fleet: FleetProcess, one: Path, two: Path) -> None:
    (key,) = {r["key"] for r in _releases(fleet) if r["counter"] == 2}
    asking = _fetcher(fleet, two, "two")
    assert fetch_bytes(asking, f"{fleet.url}/keys/two/{key}.json", 4_096)
    for path, status in (
        (f"/keys/one/{key}.json", 403),  # what is for another device
        (f"/keys/two/{'0' * 32}.json", 404),
        ("/keys/two/..%2f..%2fkeys.json", 404),
    ):
        with pytest.raises(RefusedError) as caught:
            fetch_bytes(asking, fleet.url + path, 4_096)
        assert caught.value.status == status
    fleet.client.post("/v1/devices/two/revoke")
    with pytest.raises(RefusedError) as caught:
        fetch_bytes(asking, f"{fleet.url}/keys/two/{key}.json", 4_096)
    assert caught.value.status == 401
    asking.close()
    assert one.exists()


def _releases(fleet: FleetProcess) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "skerry.cli.main", "release", "list", "--json"]
    done = subprocess.run([*words, "--repo", str(fleet.repo)], capture_output=True, check=True)
    return list(json.loads(done.stdout)["releases"])


def _newest(fleet: FleetProcess) -> str:
    return f"linear/{max(release['counter'] for release in _releases(fleet))}"


@pytest.mark.slow
def test_no_patch_shows_what_was_sealed(fleet: FleetProcess, tmp_path: Path) -> None:
    """A plain patch from a sealed release to a plain one would, beside its result."""
    with _device(fleet, tmp_path / "three", "three") as three:
        fleet.publish(3, "--encrypt")
        fleet.ended(fleet.roll_out(_newest(fleet), targets=["three"], **_POLICY), "done")
        fleet.publish(4)
        plain = _newest(fleet)
        done = fleet.ended(fleet.roll_out(plain, targets=["three"], **_POLICY), "done")
        row = next(row for row in done["devices"] if row["device"] == "three")
        assert row["delta_bytes"] == row["full_bytes"] and _active(three) == plain


@pytest.mark.slow
def test_a_stick_carries_a_sealed_release(fleet: FleetProcess, tmp_path: Path) -> None:
    claim, home, stick = tmp_path / "claim.json", tmp_path / "home", tmp_path / "stick"
    claim.write_text(json.dumps(fleet.client.post("/v1/claims", {"device": "five"})))
    assert main(["agent", "enrol", "--home", str(home), "--claim", str(claim)]) == 0
    fleet.publish(7, "--encrypt")
    newest = _newest(fleet)
    rollout = fleet.roll_out(newest, targets=["five"], **_POLICY)

    def offered() -> bool:
        return "assigned" in [row["state"] for row in fleet.client.rollout(rollout)["devices"]]

    eventually("the offer", offered)
    words = ["fleet", "media", "--home", str(fleet.home), "--out", str(stick)]
    assert main([*words, "--device", "five"]) == 0
    assert main([*words, "--device", "five"]) == 0  # what is there already is left
    assert main([*words, "--device", "nobody"]) != 0
    assert _shown(stick, _hidden(fleet.folder)) == []
    done = [*_COMMAND, "update", "--home", str(home), "--media", str(stick), "--trial", "0.1"]
    assert subprocess.run(done, check=False).returncode == 0
    assert _active(home) == newest
    assert _shown(home, _hidden(fleet.folder)) == []
    fleet.client.rollout(rollout, "abort")
