"""A real agent and a real server: enrol, install, update by delta, refuse, renew."""

import itertools
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fakes.bundles import make_bundle
from fakes.fleet_process import FleetProcess, eventually
from fakes.web import certificate
from skerry.cli.main import main
from skerry.devices.identity import Identity

_NUMBERS = itertools.count(1)
_COMMAND = [sys.executable, "-m", "skerry.cli.main", "agent"]
_POLICY = {"stages": [{"name": "all", "percent": 100}], "soak_s": 0}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    server = FleetProcess(tmp_path_factory.mktemp("fleet")).start()
    server.publish(1)
    yield server
    server.stop()


@pytest.fixture
def home(fleet: FleetProcess, tmp_path: Path) -> Iterator[Path]:
    """An enrolled device whose agent runs."""
    for known in fleet.client.get("/v1/devices")["devices"]:
        fleet.client.post(f"/v1/devices/{known['device']}/revoke")
    name = f"dev-{next(_NUMBERS)}"
    claim, home = tmp_path / "claim.json", tmp_path / "home"
    claim.write_text(json.dumps(fleet.client.post("/v1/claims", {"device": name})))
    assert main(["agent", "enrol", "--home", str(home), "--claim", str(claim)]) == 0
    with (home / "log.txt").open("wb") as log:
        words = [*_COMMAND, "run", "--home", str(home), "--poll", "1", "--trial", "0.3"]
        process = subprocess.Popen([*words, "--window", "0.5"], stderr=log)
    eventually("the agent", lambda: (home / "runtime.address").exists())
    yield home
    process.terminate()
    assert process.wait(30) == 0, (home / "log.txt").read_text()


def _status(home: Path) -> dict[str, Any]:
    words = [*_COMMAND, "status", "--home", str(home), "--json"]
    return dict(json.loads(subprocess.run(words, capture_output=True, check=True).stdout))


def _active(home: Path) -> str:
    return str((_status(home)["slots"]["active"] or {}).get("release", ""))


def _row(fleet: FleetProcess) -> dict[str, Any]:
    rows = [d for d in fleet.client.get("/v1/devices")["devices"] if not d["revoked"]]
    return dict(rows[0])


def _call(home: Path) -> None:
    address = (home / "runtime.address").read_text().strip()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    request = urllib.request.Request(
        f"http://{address}/v2/models/linear/infer", data=json.dumps({"inputs": [tensor]}).encode()
    )
    urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.slow
def test_the_whole_road_of_one_device(fleet: FleetProcess, home: Path) -> None:
    fleet.ended(fleet.roll_out("linear/1", **_POLICY), "done")
    assert _active(home) == "linear/1"

    fleet.publish(2)
    done = fleet.ended(fleet.roll_out("linear/2", **_POLICY), "done")["devices"][0]
    assert _active(home) == "linear/2"
    assert 0 < done["delta_bytes"] < done["full_bytes"]
    _call(home)
    eventually("a window", lambda: _row(fleet)["requests"])
    row = _row(fleet)
    assert (row["release"], row["online"]) == ("linear/2", True)

    bad = make_bundle(fleet.folder / "bad", version="3", shift=0.5, golden_error=1.0)
    repo = ["--repo", str(fleet.repo)]
    assert main(["release", "sign", str(bad), *repo]) == 0
    token = ["--token-file", str(fleet.home / "operator.token")]
    assert main(["release", "publish", *repo, "--server", fleet.url, *token]) == 0
    stopped = fleet.ended(fleet.roll_out("linear/3", **_POLICY), "aborted")
    assert "golden" in json.dumps(stopped)
    assert _active(home) == "linear/2"
    assert [bad["release"] for bad in _status(home)["failed"]] == ["linear/3"]


@pytest.mark.slow
def test_an_old_certificate_is_renewed(fleet: FleetProcess, home: Path) -> None:
    path = home / "identity/certificate.pem"
    first, key = path.read_bytes(), Identity.load(home / "identity").public_key
    assert (home / "identity/key.pem").stat().st_mode & 0o777 == 0o600
    path.write_bytes(certificate(Identity.load(home / "identity"), time.time(), days=1.0001))
    eventually("a new certificate", lambda: _issued(path))
    assert path.read_bytes() != first
    assert Identity.load(home / "identity").public_key != key
    fleet.publish(9, "--encrypt")  # the new key signs, and opens
    fleet.ended(fleet.roll_out("linear/" + _newest(fleet), **_POLICY), "done")


def _newest(fleet: FleetProcess) -> str:
    return str(
        max(int(r["release"].split("/")[1]) for r in fleet.client.get("/v1/releases")["releases"])
    )


def _issued(path: Path) -> bool:
    """Whether it is of the fleet's authority, not signed by the device itself."""
    found = x509.load_pem_x509_certificate(path.read_bytes())
    return found.issuer != found.subject


@pytest.mark.slow
def test_inputs_are_kept_by_a_signed_order(
    fleet: FleetProcess, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator's command, the server, its broker, the agent and the runtime of it."""
    fleet.ended(fleet.roll_out("linear/1", **_POLICY), "done")
    device = str(_row(fleet)["device"])
    eventually("the connection", lambda: _row(fleet)["online"])
    words = [device, "--home", str(fleet.home), "--repo", str(fleet.repo), "--calls", "2"]
    capsys.readouterr()
    assert main(["fleet", "capture", *words, "--model", "linear", "--json"]) == 0
    order = json.loads(capsys.readouterr().out)["order"]["id"]
    eventually("the order", lambda: _told(fleet, device, f"{order} began"))
    for _ in range(5):
        _call(home)
    eventually("its end", lambda: _told(fleet, device, f"{order} ended: calls; 2 calls"))
    assert len(list((home / "captures" / order).glob("*.npz"))) == 2

    assert main(["fleet", "capture", *words, "--model", "other"]) == 0
    eventually("a refusal", lambda: _told(fleet, device, "'other' does not serve"))
    assert [path.name for path in (home / "captures").iterdir()] == [order]


def _told(fleet: FleetProcess, device: str, what: str) -> bool:
    events = fleet.client.get(f"/v1/events?device={device}")["events"]
    return any(event["kind"] == "capture" and what in event["reason"] for event in events)


@pytest.mark.slow
def test_a_claim_of_another_server_is_not_believed(fleet: FleetProcess, tmp_path: Path) -> None:
    claim = fleet.client.post("/v1/claims", {"device": "dev-x"}) | {"image_root": "0" * 64}
    (tmp_path / "claim.json").write_text(json.dumps(claim))
    words = ["enrol", "--home", str(tmp_path / "h"), "--claim", str(tmp_path / "claim.json")]
    done = subprocess.run([*_COMMAND, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert "not the one the claim file names" in done.stderr
    assert not (tmp_path / "h" / "agent.json").exists()
