"""TLS: devices verify their server, it renews, and beyond this machine there is none without."""

import json
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fakes.clock import FakeClock
from fakes.fleet_process import FleetProcess, eventually
from skerry.cli.main import main
from skerry.devices.errors import InputError, UnavailableError
from skerry.devices.ids import TenantId
from skerry.updater.fetch import HttpFetcher, fetch_bytes
from skerry.updater.server.ca import FleetAuthority
from skerry.updater.server.client import FleetClient
from skerry.updater.server.tls import FleetTls, GivenTls, check_reach

_COMMAND = [sys.executable, "-m", "skerry.cli.main", "agent"]
_POLICY = {"stages": [{"name": "all", "percent": 100}], "soak_s": 0}


@pytest.mark.slow
def test_a_device_speaks_tls_with_the_server_of_its_claim(tmp_path: Path) -> None:
    fleet = FleetProcess(tmp_path / "fleet").start("--tls-fleet")
    try:
        assert fleet.url.startswith("https://")
        fleet.publish(1, "--encrypt")
        claim, home = tmp_path / "claim.json", tmp_path / "home"
        made = fleet.client.post("/v1/claims", {"device": "dev"})
        claim.write_text(json.dumps(made))
        assert main(["agent", "enrol", "--home", str(home), "--claim", str(claim)]) == 0
        with (home / "log.txt").open("wb") as log:
            words = [*_COMMAND, "run", "--home", str(home), "--poll", "1", "--trial", "0.3"]
            process = subprocess.Popen(words, stderr=log)
        try:
            fleet.ended(fleet.roll_out("linear/1", **_POLICY), "done")  # told over MQTT, by TLS
            devices = fleet.client.get("/v1/devices")["devices"]
            assert devices[0]["online"]
        finally:
            process.terminate()
            assert process.wait(30) == 0
        _not_without_its_authority(fleet, made, tmp_path)
    finally:
        fleet.stop()


def _not_without_its_authority(fleet: FleetProcess, claim: dict[str, object], place: Path) -> None:
    """A server that the claim does not name is not spoken to, whatever it would answer."""
    other = FleetAuthority.create(place / "other", TenantId("main"), time.time())
    for ca in ("", other.pem):
        with pytest.raises(UnavailableError, match="certificate verify failed"):
            FleetClient(fleet.url, fleet.token, ca).get("/v1/devices")
    (place / "claim.json").write_text(json.dumps(claim | {"ca": other.pem}))
    words = ["enrol", "--home", str(place / "h"), "--claim", str(place / "claim.json")]
    done = subprocess.run([*_COMMAND, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "certificate" in done.stderr
    assert not (place / "h/agent.json").exists()


def _words(*more: str) -> list[str]:
    return [sys.executable, "-m", "skerry.cli.main", "fleet", "serve", *more]


@pytest.mark.parametrize("option", ["--http", "--mqtt"])
def test_beyond_this_machine_there_is_no_serving_without_tls(tmp_path: Path, option: str) -> None:
    home = str(tmp_path / "server")
    assert main(["fleet", "init", "--home", home]) == 0
    words = _words("--home", home, option, "0.0.0.0:0")
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "needs TLS" in done.stderr and "--tls-fleet" in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "fleet.example"])
def test_reach(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs TLS"):
        check_reach(host, None, plain=False)
    check_reach(host, None, plain=True)
    check_reach(host, GivenTls(tmp_path, tmp_path), plain=False)
    for here in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_reach(here, None, plain=False)


def _authority(folder: Path, now: float) -> FleetAuthority:
    return FleetAuthority.create(folder, TenantId("main"), now)


def test_the_server_s_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    clock = FakeClock(time.time())
    authority = _authority(tmp_path / "ca", clock.now())
    tls = FleetTls(tmp_path / "tls", authority, ["localhost", "127.0.0.1"], clock)
    file = tmp_path / "tls/certificate.pem"
    first = file.read_bytes()
    assert not tls.renew()
    clock.jump(61 * 86_400)
    assert tls.renew() and file.read_bytes() != first
    assert not tls.renew()
    assert (tmp_path / "tls/key.pem").stat().st_mode & 0o777 == 0o600


def test_another_host_or_authority_asks_for_another_certificate(tmp_path: Path) -> None:
    clock = FakeClock(time.time())
    one, two = (_authority(tmp_path / name, clock.now()) for name in ("a", "b"))
    file = tmp_path / "tls/certificate.pem"
    seen = []
    for authority, hosts in (
        (one, ["localhost"]),
        (one, ["localhost"]),
        (one, ["localhost", "fleet.example"]),
        (two, ["localhost", "fleet.example"]),
    ):
        FleetTls(tmp_path / "tls", authority, hosts, clock)
        seen.append(file.read_bytes())
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_files_that_are_no_certificate_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("no")
    with pytest.raises(InputError, match="no certificate"):
        GivenTls(tmp_path / "c", tmp_path / "k").context()


def test_given_files_serve(tmp_path: Path) -> None:
    """As an operator does who has a certificate already."""
    now = time.time()
    authority = _authority(tmp_path / "ca", now)
    made = FleetTls(tmp_path / "tls", authority, ["localhost", "127.0.0.1"], FakeClock(now))
    assert isinstance(made.context(), ssl.SSLContext)
    fleet = FleetProcess(tmp_path / "fleet")
    files = [str(tmp_path / "tls" / name) for name in ("certificate.pem", "key.pem")]
    ca = tmp_path / "ca/ca.pem"
    fleet.start("--tls", *files, "--tls-ca", str(ca))
    try:
        client = HttpFetcher(authorize=lambda: f"Bearer {fleet.token}", ca_file=ca)
        assert fetch_bytes(client, f"{fleet.url}/v1/devices", 10_000)
        client.close()
        eventually("the claim", lambda: fleet.ca == ca.read_text())
    finally:
        fleet.stop()
