"""The agent as a process: it serves first, survives its worker's death, and ends cleanly."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fakes.rig import Fleet
from fakes.web import Web, make_home, serving
from skerry.devices.errors import InputError, UnavailableError
from skerry.updater.agent.supervise import bind

_COMMAND = [sys.executable, "-m", "skerry.cli.main", "agent"]
_LIMIT_S = 60.0


def until(what: str, ready: Callable[[], Any]) -> Any:
    """Wait for `ready` to be true; its value."""
    end = time.monotonic() + _LIMIT_S
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen in {_LIMIT_S:.0f} s")


@contextmanager
def running(home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    log = (home / "log.txt").open("ab")
    process = subprocess.Popen(
        [*_COMMAND, "run", "--home", str(home), "--poll", "0.2", "--trial", "0.2", *words],
        stderr=log,
    )
    try:
        yield process
    finally:
        log.close()
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def _get(home: Path, path: str) -> int:
    try:
        address = (home / "runtime.address").read_text().strip()
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _version(home: Path) -> str:
    address = (home / "runtime.address").read_text().strip()
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    request = urllib.request.Request(
        f"http://{address}/v2/models/linear/infer", data=json.dumps({"inputs": [tensor]}).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["model_version"])


def _active(home: Path) -> str:
    try:
        slots = json.loads((home / "store/slots.json").read_text())
    except OSError:
        return ""
    return slots["active"]["release"] if slots["active"] else ""


def _pid(home: Path) -> int:
    try:
        return int((home / "worker.pid").read_text())
    except (OSError, ValueError):
        return 0


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet", now=time.time())


@pytest.fixture
def web(fleet: Fleet) -> Iterator[Web]:
    with serving(fleet) as web:
        yield web


def test_it_installs_serves_and_ends(fleet: Fleet, web: Web, tmp_path: Path) -> None:
    home = make_home(fleet, tmp_path / "home", web.url)
    with running(home) as process:
        assert until("an answer", lambda: _get(home, "/v2/health/ready")) == 503
        fleet.assign(fleet.publish(1, shift=1.0))
        until("release 1", lambda: _active(home) == "linear/1")
        assert _get(home, "/v2/health/ready") == 200
        fleet.assign(fleet.publish(2, shift=2.0))
        until("release 2", lambda: _active(home) == "linear/2")
        assert _version(home) == "2"
        address = (home / "runtime.address").read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not (home / "runtime.address").exists()
    assert not (home / "worker.pid").exists()
    status = subprocess.run(
        [*_COMMAND, "status", "--home", str(home), "--json"], capture_output=True, check=True
    )
    slots = json.loads(status.stdout)["slots"]
    assert (slots["active"]["release"], slots["previous"]["release"]) == ("linear/2", "linear/1")

    web.faults = dict.fromkeys(range(10_000), "reset")
    with running(home):
        until("service without a network", lambda: _get(home, "/v2/health/ready") == 200)
        assert (home / "runtime.address").read_text() == address
        assert _version(home) == "2"


def test_the_worker_dies_and_no_call_is_lost(fleet: Fleet, web: Web, tmp_path: Path) -> None:
    home = make_home(fleet, tmp_path / "home", web.url)
    fleet.assign(fleet.publish(1, shift=1.0))
    with running(home) as process:
        until("release 1", lambda: _active(home) == "linear/1")
        first = _pid(home)
        os.kill(first, signal.SIGKILL)
        assert _version(home) == "1"  # the connection waits in the parent's socket
        assert _pid(home) != first

        second = _pid(home)
        os.kill(process.pid, signal.SIGKILL)  # the worker does not outlive its parent
        process.wait(30)
        until("the end of the worker", lambda: not Path(f"/proc/{second}").exists())


def test_one_agent_to_a_home(fleet: Fleet, web: Web, tmp_path: Path) -> None:
    home = make_home(fleet, tmp_path / "home", web.url)
    with running(home):
        until("the first one", lambda: _pid(home))
        other = subprocess.run(
            [*_COMMAND, "run", "--home", str(home)], capture_output=True, text=True, timeout=60
        )
        assert other.returncode == 5
        assert "another agent runs" in other.stderr


def test_a_home_that_is_not_enrolled_is_bad_input(tmp_path: Path) -> None:
    for action in ("run", "status"):
        done = subprocess.run(
            [*_COMMAND, action, "--home", str(tmp_path)], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, "not enrolled" in done.stderr) == (2, True)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "example.org:80", "127.0.0.1", "127.0.0.1:99999"])
def test_an_address_others_could_reach_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        bind(address, tmp_path, 1).close()


def test_the_port_of_the_last_run_is_taken_again_if_it_is_free(tmp_path: Path) -> None:
    with bind("127.0.0.1:0", tmp_path, 1) as first:
        port = first.getsockname()[1]
        (tmp_path / "runtime.port").write_text(f"{port}\n")
        with bind("127.0.0.1:0", tmp_path, 1) as other:
            assert other.getsockname()[1] != port
        with pytest.raises(UnavailableError, match="cannot listen"):
            bind(f"127.0.0.1:{port}", tmp_path, 1)
    with bind("127.0.0.1:0", tmp_path, 1) as again:
        assert again.getsockname()[1] == port


def test_the_parent_imports_nothing_heavy() -> None:
    code = (
        "import sys; import skerry.updater.agent.command, skerry.updater.agent.supervise,"
        " skerry.devices.enrolment; heavy = {'numpy', 'onnxruntime', 'tuf', 'paho', 'urllib3',"
        " 'uvicorn', 'sqlite3', 'jwt', 'cryptography'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
