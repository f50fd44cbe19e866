"""Updates that are carried to a device, to an agent that runs and to one that does not."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes.rig import DEVICE, Fleet
from fakes.web import make_home
from skerry.updater.repository import Release, write_media
from skerry.updater.sealing import NoKeys, SealedBlobs

_COMMAND = [sys.executable, "-m", "skerry.cli.main", "agent"]
_NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet", now=time.time())


def _medium(fleet: Fleet, release: Release, folder: Path) -> Path:
    fleet.assign(release)
    blobs = SealedBlobs(fleet.folder / "server", NoKeys())
    bundle = fleet.bundles[release.id.counter]
    for blob in (bundle.manifest, *bundle.descriptors()):
        blobs.put(blob, [bundle.blobs.path(blob.digest).read_bytes()])
    write_media(folder, fleet.stage.image, fleet.stage.director, [DEVICE], blobs)
    return folder


def _agent(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_COMMAND, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


def _active(home: Path) -> str:
    done = _agent("status", "--home", home, "--json")
    slot = json.loads(done.stdout)["slots"]["active"]
    return slot["release"] if slot else ""


def test_a_device_without_a_network_is_updated_from_a_folder(fleet: Fleet, tmp_path: Path) -> None:
    home = make_home(fleet, tmp_path / "home", _NOWHERE)
    medium = _medium(fleet, fleet.publish(1), tmp_path / "stick")
    words = ("update", "--home", home, "--media", medium, "--trial", "0.1", "--json")
    done = _agent(*words)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"outcome": "installed"}), done.stderr
    assert _active(home) == "linear/1"
    assert json.loads(_agent(*words).stdout) == {"outcome": "idle"}


def test_a_tampered_medium_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    home = make_home(fleet, tmp_path / "home", _NOWHERE)
    medium = _medium(fleet, fleet.publish(1), tmp_path / "stick")
    path = medium / "blobs" / "sha256" / fleet.weights(1).digest.hex
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = _agent("update", "--home", home, "--media", medium)
    assert done.returncode == 4
    assert _active(home) == ""


def test_an_agent_that_runs_is_asked(fleet: Fleet, tmp_path: Path) -> None:
    home = make_home(fleet, tmp_path / "home", _NOWHERE)
    medium = _medium(fleet, fleet.publish(1), tmp_path / "stick")
    with (home / "log.txt").open("wb") as log:
        words = [*_COMMAND, "run", "--home", str(home), "--trial", "0.1"]
        process = subprocess.Popen(words, stderr=log)
    try:
        end = time.monotonic() + 60
        while "later" not in (home / "log.txt").read_text() and time.monotonic() < end:
            time.sleep(0.02)  # the first look at the server, which is not there
        done = _agent("update", "--home", home, "--media", medium, "--json")
        assert json.loads(done.stdout) == {"outcome": "asked"}
        while _active(home) != "linear/1" and time.monotonic() < end:
            time.sleep(0.02)
        assert _active(home) == "linear/1"
    finally:
        process.terminate()
        assert process.wait(30) == 0
