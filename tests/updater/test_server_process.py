"""The server as operators and devices meet it: a real process, real HTTP, real MQTT."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import urllib3

from fakes.bundles import make_bundle
from fakes.fleet_process import FleetProcess, PlainDevice, eventually
from fakes.postgres import postgres
from skerry.cli.main import main
from skerry.devices.clock import SystemClock
from skerry.devices.digest import Digest
from skerry.devices.errors import InputError, TrustError
from skerry.devices.identity import Identity
from skerry.telemetry.histogram import Histogram
from skerry.updater.fetch import RefusedError, fetch_bytes
from skerry.updater.repository import OfflineRepository, OnlineKeys, OnlinePublic


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcess]:
    server = FleetProcess(tmp_path_factory.mktemp("fleet")).start()
    server.publish(1)
    yield server
    assert server.stop() == 0, server.log()
    assert not (server.home / "server.json").exists()


@pytest.fixture
def devices(fleet: FleetProcess, request: pytest.FixtureRequest) -> Iterator[list[PlainDevice]]:
    """Three devices of this test's own; what earlier tests left is ended."""
    for rollout in fleet.client.get("/v1/rollouts")["rollouts"]:
        if rollout["state"] in ("running", "paused", "done"):
            fleet.client.rollout(rollout["id"], "abort")
    for known in fleet.client.get("/v1/devices")["devices"]:
        fleet.client.post(f"/v1/devices/{known['device']}/revoke")
    stem = request.node.name.replace("_", "-").replace("test-", "")[:40].strip("-")
    made = [fleet.device(f"{stem}-{n}").start() for n in range(3)]
    yield made
    for device in made:
        device.stop()


def test_a_good_release_goes_canary_first_and_then_everywhere(
    fleet: FleetProcess, devices: list[PlainDevice]
) -> None:
    canary = devices[1].settings.device
    stages = [{"name": "canary", "devices": [canary]}, {"name": "rest", "percent": 100}]
    done = fleet.ended(fleet.roll_out("linear/1", stages=stages), "done")
    order = sorted(done["devices"], key=lambda d: d["since"])
    assert order[0]["device"] == canary and order[0]["stage"] == "canary"
    assert [d["state"] for d in done["devices"]] == ["succeeded"] * 3
    assert (done["devices"][0]["delta_bytes"], done["devices"][0]["full_bytes"]) == (100, 1000)

    latency = Histogram()
    latency.add(0.002, 97)
    for device in devices:
        device.window(requests=100, rows=97, errors={"engine": 3}, latency=latency)

    def reported() -> list[dict[str, object]] | None:
        rows = [d for d in fleet.client.get("/v1/devices")["devices"] if not d["revoked"]]
        return rows if all(row["requests"] for row in rows) else None

    rows = eventually("the windows", reported)
    assert {row["release"] for row in rows} == {"linear/1"}
    assert {(row["requests"], row["errors"]) for row in rows} == {(100, 3)}
    assert rows[0]["p50_ms"] == pytest.approx(2, rel=0.05)
    assert all(row["online"] for row in rows)


def test_a_bad_release_is_stopped_at_the_canary(
    fleet: FleetProcess, devices: list[PlainDevice]
) -> None:
    fleet.ended(fleet.roll_out("linear/1"), "done")
    fleet.publish(2)
    for device in devices:
        device.outcome = lambda release: "fail"
    ended = fleet.ended(fleet.roll_out("linear/2"), "aborted")
    (tried,) = ended["devices"]
    assert tried["state"] == "failed"
    assert ended["reason"] == f"{tried['device']}: golden test failed: output y differs"
    assert len(ended["waiting"]) == 2
    saw = [device.settings.device for device in devices if "linear/2" in device.seen]
    assert saw == [tried["device"]]
    eventually(
        "the way back",
        lambda: [str(d.assigned.release) for d in devices if d.assigned] == ["linear/1"] * 3,
    )


def test_a_device_that_joins_later_gets_what_the_fleet_runs(
    fleet: FleetProcess, devices: list[PlainDevice]
) -> None:
    fleet.ended(fleet.roll_out("linear/1"), "done")
    late = fleet.device("latecomer").start()
    eventually("the release", lambda: late.active)
    assert late.active is not None and str(late.active.release) == "linear/1"
    late.stop()


def test_a_failing_gate_pauses_and_resuming_forgives(
    fleet: FleetProcess, devices: list[PlainDevice]
) -> None:
    devices[0].outcome = lambda release: "fail"
    stages = [{"name": "all", "percent": 100}]
    rollout = fleet.roll_out("linear/1", stages=stages, on_failure="pause", success_percent=50)
    fleet.ended(rollout, "paused")
    fleet.client.rollout(rollout, "resume")
    done = fleet.ended(rollout, "done")
    assert sorted(d["state"] for d in done["devices"]) == ["failed", "succeeded", "succeeded"]


@pytest.mark.slow
def test_the_server_is_killed_in_the_middle_and_goes_on(
    tmp_path: Path,
) -> None:
    fleet = FleetProcess(tmp_path).start()

    def online() -> dict[str, bool]:
        return {d["device"]: d["online"] for d in fleet.client.get("/v1/devices")["devices"]}

    fleet.publish(1)
    held = fleet.device("held", outcome=lambda release: "silence").start()
    other = fleet.device("other").start()
    gone = fleet.device("gone").start()
    eventually("the three", lambda: online() == {"held": True, "other": True, "gone": True})
    stages = [{"name": "first", "devices": ["held"]}, {"name": "rest", "percent": 100}]
    rollout = fleet.roll_out("linear/1", stages=stages, targets=["held", "other"])
    eventually("the offer", lambda: held.seen)
    url = fleet.url
    fleet.stop(signal.SIGKILL)
    gone.stop()
    held.tell("committed", "linear/1")
    fleet.start()
    assert online()["gone"] is False, "it went while nobody could see"
    eventually("the others", lambda: online()["held"] and online()["other"])
    assert fleet.url == url, "a restart takes the same ports"
    done = fleet.ended(rollout, "done")
    assert [d["state"] for d in done["devices"]] == ["succeeded", "succeeded"]
    for device in (held, other):
        device.stop()
    assert fleet.stop(signal.SIGINT) == 0, fleet.log()


@pytest.mark.slow
@pytest.mark.service("postgres")
def test_a_fleet_lives_in_postgresql(tmp_path: Path) -> None:
    with postgres() as database:
        fleet = FleetProcess(tmp_path, "--database", database).start()
        fleet.publish(1)
        device = fleet.device("gate").start()
        done = fleet.ended(fleet.roll_out("linear/1"), "done")
        assert [d["state"] for d in done["devices"]] == ["succeeded"]
        device.window(requests=7)
        eventually("the window", lambda: fleet.client.get("/v1/devices")["devices"][0]["requests"])
        assert not (fleet.home / "fleet.db").exists()
        device.stop()
        assert fleet.stop() == 0, fleet.log()


def test_one_server_runs_on_a_home(fleet: FleetProcess) -> None:
    before = (fleet.home / "server.json").read_bytes()
    command = [sys.executable, "-m", "skerry.cli.main", "fleet", "serve", "--home", fleet.home]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 5
    assert fleet.process is not None
    assert f"another server runs in this home, process {fleet.process.pid}" in done.stderr
    assert (fleet.home / "server.json").read_bytes() == before


def test_a_claim_lets_in_one_device_once(fleet: FleetProcess, tmp_path: Path) -> None:
    claim = fleet.client.post("/v1/claims", {})
    first = PlainDevice(tmp_path / "a", claim, "solo")
    assert first.settings.device == "solo"
    with pytest.raises(RefusedError, match="used by another key"):
        PlainDevice(tmp_path / "b", claim, "solo-2")
    with pytest.raises(RefusedError, match="enrolled already"):
        PlainDevice(tmp_path / "c", fleet.client.post("/v1/claims", {}), "solo")


def test_a_withdrawn_release_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = FleetProcess(tmp_path).start()
    fleet.publish(1)
    assert main(["release", "withdraw", "linear/1", "--repo", str(fleet.repo), "--yes"]) == 0
    fleet.publish(2)
    listed = fleet.client.get("/v1/releases")["releases"]
    assert {r["release"]: r["withdrawn"] for r in listed} == {"linear/1": True, "linear/2": False}
    capsys.readouterr()
    token = ["--server", fleet.url, "--token-file", str(fleet.home / "operator.token")]
    assert main(["fleet", "releases", *token]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.endswith("withdrawn")] == ["linear/1"]
    assert fleet.stop() == 0, fleet.log()


def test_a_device_reads_its_own_metadata_and_blobs_and_nothing_else(
    fleet: FleetProcess, devices: list[PlainDevice]
) -> None:
    one, two = devices[0], devices[1]
    manifest = fleet.client.get("/v1/releases")["releases"][-1]["manifest"]
    url = f"{fleet.url}/blobs/sha256/{Digest(manifest).hex}"
    whole = fetch_bytes(one.http, url, 1 << 20)
    assert Digest.of(whole) == Digest(manifest)
    with one.http.open(url, max_bytes=1 << 20, start=10) as rest:
        assert (rest.start, b"".join(rest)) == (10, whole[10:])
    with pytest.raises(RefusedError, match="403"):
        fetch_bytes(one.http, f"{fleet.url}/director/{two.settings.device}/timestamp.json", 1000)
    pool = urllib3.PoolManager()
    wrong = [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": f"Bearer {one.assertion('https://elsewhere')}"},
        {"Authorization": f"Bearer {fleet.token}"},
        {"Authorization": "Bearer " + _forged(one)},
    ]
    for headers in wrong:
        assert pool.request("GET", url, headers=headers, retries=False).status == 401


def _forged(device: PlainDevice) -> str:
    stranger = Identity.create(device.home / "stranger")
    return stranger.assertion(device.settings.device_id, device.settings.audience, time.time())


def test_revocation_closes_http_and_mqtt(fleet: FleetProcess, devices: list[PlainDevice]) -> None:
    device, name = devices[0], devices[0].settings.device

    def online() -> bool:
        rows = fleet.client.get("/v1/devices")["devices"]
        return bool(next(row for row in rows if row["device"] == name)["online"])

    eventually("the connection", online)
    fetch_bytes(device.http, f"{fleet.url}/image/timestamp.json", 1 << 20)
    fleet.client.post(f"/v1/devices/{name}/revoke")
    with pytest.raises(RefusedError, match="revoked"):
        fetch_bytes(device.http, f"{fleet.url}/image/timestamp.json", 1 << 20)
    eventually("the end of the connection", lambda: not online())


def test_operators_need_a_token_and_wrong_words_are_named(fleet: FleetProcess) -> None:
    pool = urllib3.PoolManager()
    for path in ("/v1/devices", "/v1/rollouts", "/v1/audit", "/v1/events", "/v1/releases"):
        assert pool.request("GET", fleet.url + path, retries=False).status == 401
    with pytest.raises(InputError, match="is not published"):
        fleet.roll_out("linear/99")
    with pytest.raises(InputError, match="success_percent"):
        fleet.roll_out("linear/1", success_percent=0)
    with pytest.raises(InputError, match="not in the fleet: nobody"):
        fleet.roll_out("linear/1", stages=[{"name": "a", "devices": ["nobody"]}])
    with pytest.raises(InputError, match="no rollout 'r99'"):
        fleet.client.rollout("r99")


def test_a_blob_is_kept_only_if_it_is_what_it_says(fleet: FleetProcess) -> None:
    pool, headers = urllib3.PoolManager(), {"Authorization": f"Bearer {fleet.token}"}
    data = b"x" * 300_000
    url = f"{fleet.url}/v1/blobs/sha256/{Digest.of(data).hex}"
    assert pool.request("PUT", url, body=data[:-1] + b"y", headers=headers).status == 403
    assert pool.request("PUT", url, body=data).status == 401
    assert pool.request("PUT", url, body=data, headers=headers).status == 201
    assert pool.request("PUT", url, body=data, headers=headers).status == 200
    bad = f"{fleet.url}/v1/blobs/sha256/../../operator.token"
    assert pool.request("PUT", bad, body=data, headers=headers).status in (404, 405, 422)


def test_metadata_without_its_blobs_or_signatures_is_refused(fleet: FleetProcess) -> None:
    import base64

    files = {f"1.{role}.json": base64.b64encode(b"{}").decode() for role in ("root", "targets")}
    with pytest.raises((TrustError, InputError)):
        fleet.client.post("/v1/releases", {"image": files})
    with pytest.raises(InputError, match="base64"):
        fleet.client.post("/v1/releases", {"image": {"1.root.json": "%"}})


def test_the_audit_log_tells_who_did_what(
    fleet: FleetProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.device("audited")
    capsys.readouterr()
    assert main(["fleet", "audit", "--verify", "--home", str(fleet.home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["intact"] is True
    actions = {entry["action"] for entry in fleet.client.get("/v1/audit")["entries"]}
    assert {"fleet.init", "release.publish", "claim.create", "device.enrol"} <= actions


def test_the_command_tells_people_and_programs(
    fleet: FleetProcess,
    devices: list[PlainDevice],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = devices[0].settings.device
    policy = tmp_path / "policy.toml"
    policy.write_text('[[stages]]\nname = "only"\npercent = 100\n')

    def say(*words: str) -> str:
        capsys.readouterr()
        assert main(["fleet", *words, "--home", str(fleet.home)]) == 0
        return capsys.readouterr().out

    made = json.loads(
        say("rollout", "create", "linear/1", "--policy", str(policy), "--device", name, "--json")
    )
    assert (made["state"], made["targets"]) == ("draft", 1)
    assert "draft" in say("rollout", "status", made["id"])
    say("rollout", "start", made["id"])
    assert "succeeded" in say("rollout", "wait", made["id"], "--seconds", "60")
    assert "done" in say("rollout", "list")
    assert "linear/1" in say("devices") and "linear/1" in say("releases")
    assert "committed" in say("events", "--device", name)
    assert "rollout.start" in say("audit")
    assert "denied" in say("revoke", name)
    policy.write_text("max_failure = 1\n")
    words = ["rollout", "create", "linear/1", "--policy", str(policy), "--home", str(fleet.home)]
    assert main(["fleet", *words]) == 2
    assert "max_failure" in capsys.readouterr().err


def test_what_the_server_refuses_keeps_its_exit_code_and_its_words(
    fleet: FleetProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 4
        return capsys.readouterr().err

    token = tmp_path / "token"
    token.write_text("sko_nobody\n")
    said = refused("fleet", "devices", "--server", fleet.url, "--token-file", token)
    assert "no operator has this token" in said and "clock" not in said

    claim = tmp_path / "claim.json"
    claim.write_bytes(msgspec.json.encode(fleet.client.post("/v1/claims", {})))
    enrol = ("agent", "enrol", "--claim", claim, "--server", fleet.url, "--home")
    assert main([str(word) for word in (*enrol, tmp_path / "first")]) == 0
    said = refused(*enrol, tmp_path / "second")
    assert "used by another key" in said and said.count("; ") == 1

    keys = OnlineKeys.generate(tmp_path / "keys")
    public = OnlinePublic.decode(keys.public)
    repository = OfflineRepository.create(tmp_path / "repo", public, SystemClock())
    repository.add_release(make_bundle(tmp_path / "bundle"))
    token.write_text(fleet.token)
    words = ("--repo", tmp_path / "repo", "--server", fleet.url, "--token-file", token)
    assert "revoked" not in refused("release", "publish", *words)


def test_the_console_shows_the_fleet_to_whoever_signs_in(fleet: FleetProcess) -> None:
    pool = urllib3.PoolManager()
    door = pool.request("GET", fleet.url + "/")
    assert b"Sign in" in door.data and b"linear/1" not in door.data
    assert "default-src 'none'" in door.headers["Content-Security-Policy"]
    assert pool.request("GET", fleet.url + "/console/main").status == 401
    url = fleet.url + "/console/sign-in"
    assert pool.request("POST", url, body="token=wrong", redirect=False).status == 401
    entered = pool.request("POST", url, body=f"token={fleet.token}", redirect=False)
    assert entered.status == 303
    cookie = entered.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    headers = {"Cookie": cookie.partition(";")[0]}
    page = pool.request("GET", fleet.url + "/", headers=headers).data.decode()
    assert "linear/1" in page and "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    for asset in ("console.css", "console.js"):
        assert pool.request("GET", f"{fleet.url}/console/{asset}").status == 200
    assert pool.request("GET", fleet.url + "/console/main.html").status == 404
