"""Kills the real agent at random instants of real updates, while it is being called.

    python tests/fault/sigkill.py --kills 200 --out hw-bench/results/sigkill.json

Each update is killed once or twice: mostly the worker alone, sometimes the parent with it. After a
kill the device must answer with the old or the new release; each update must come to its end by
itself; and while the parent lives, no call may fail that is sent a second time. Every other release
is sealed.
"""

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from fakes.rig import Fleet
from fakes.web import make_home, serving

_PARENT = """
import sys
from pathlib import Path
from skerry.updater.agent.log import Log
from skerry.updater.agent.supervise import SuperviseLimits, supervise

def worker(number):
    from os import getpid
    return [sys.executable, "-m", "skerry.cli.main", "agent", "run", f"--home={home}", "--poll=0.2",
            "--trial=0.3", f"--worker={number}", f"--parent={getpid()}"]

home = Path(sys.argv[1])
limits = SuperviseLimits(longest_s=0.2)  # killed every few seconds, it would wait ever longer
sys.exit(supervise(home, "127.0.0.1:0", worker, log=Log(), limits=limits))
"""
_BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
)
_LIMIT_S = 120.0
_ROWS = 20_000
_PARENT_TOO = 0.2


@dataclass
class Result:
    """What was done and what came of it."""

    seed: int
    kills: int = 0
    survived: int = 0
    worker_kills: int = 0
    process_kills: int = 0
    updates: int = 0
    sealed_updates: int = 0
    by_state: Counter[str] = field(default_factory=Counter)
    answered_by: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    sent_again: int = 0
    failed: int = 0
    seconds: float = 0.0


class Caller(threading.Thread):
    """Calls without pause, sending a call once more where its connection broke.

    Attributes:
        calls, sent_again, failed: counts.
        away: set while the whole agent is down and calls cannot succeed.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(daemon=True)
        self._home, self._end = home, threading.Event()
        self.away = threading.Event()
        self.calls = self.sent_again = self.failed = 0
        self.version, self.reasons = "", Counter[str]()

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._end.is_set():
            for second in (False, True):
                away = self.away.is_set()
                try:
                    connection = connection or self._connect()
                    self.version = _call(connection)
                    self.calls += 1
                    break
                except (OSError, http.client.HTTPException, ValueError) as error:
                    connection = None
                    if away or self.away.is_set():
                        time.sleep(0.02)
                        break
                    self.sent_again += not second
                    self.failed += second
                    self.reasons[repr(error)] += second
            time.sleep(0.002)

    def stop(self) -> None:
        self._end.set()
        self.join(60)

    def _connect(self) -> http.client.HTTPConnection:
        return _connect(self._home)


def _connect(home: Path) -> http.client.HTTPConnection:
    host, _, port = (home / "runtime.address").read_text().strip().rpartition(":")
    return http.client.HTTPConnection(host, int(port), timeout=60)


def _call(connection: http.client.HTTPConnection) -> str:
    connection.request("POST", "/v2/models/linear/infer", body=_BODY)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise ValueError(f"{answer.status}: {data[:200]!r}")
    return str(json.loads(data)["model_version"])


def _until(what: str, ready: Callable[[], Any]) -> Any:
    end = time.monotonic() + _LIMIT_S
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what}: not within {_LIMIT_S:.0f} s")


def _file(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _active(home: Path) -> str:
    return str((_file(home / "store/slots.json").get("active") or {}).get("release", ""))


def _worker(home: Path) -> int:
    try:
        return int((home / "worker.pid").read_text())
    except (OSError, ValueError):
        return 0


class Agent:
    """The agent's process, started again after it was killed as a whole."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._log = (home / "log.txt").open("ab")
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-c", _PARENT, str(self._home)]
        process = subprocess.Popen(words, stderr=self._log)
        _until("the agent's start", lambda: process.poll() is None and _worker(self._home))
        return process

    def kill_worker(self) -> None:
        os.kill(_until("a worker", lambda: _worker(self._home)), signal.SIGKILL)

    def kill_all(self) -> None:
        worker = _worker(self._home)
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _until("the worker's end", lambda: not Path(f"/proc/{worker}").exists())
        (self._home / "worker.pid").unlink(missing_ok=True)
        self._process = self._start()

    def end(self) -> None:
        self._process.terminate()
        code = self._process.wait(60)
        self._log.close()
        assert code == 0, f"exit code {code}"


@contextmanager
def _device(folder: Path) -> Iterator[tuple[Fleet, Path, Agent, Caller]]:
    fleet = Fleet(folder / "fleet", now=time.time())
    with serving(fleet) as web:
        home = make_home(fleet, folder / "home", web.url)
        fleet.assign(fleet.publish(1, shift=1.0, golden_rows=_ROWS))
        agent = Agent(home)
        _until("the first release", lambda: _active(home) == "linear/1")
        web.slow_s = 0.02
        caller = Caller(home)
        caller.start()
        try:
            yield fleet, home, agent, caller
        finally:
            caller.stop()
            agent.end()


def torture(folder: Path, kills: int, seed: int, say: Callable[[str], None]) -> Result:
    """Kill `kills` times. Raises AssertionError where the device does not survive it."""
    chance, result, began = random.Random(seed), Result(seed), time.monotonic()
    counter = 1
    with _device(folder) as (fleet, home, agent, caller):
        while result.kills < kills:
            counter += 1
            how = {"sealed": counter % 2 == 0, "shift": float(counter), "golden_rows": _ROWS}
            result.sealed_updates += how["sealed"]
            fleet.assign(fleet.publish(counter, **how))
            for _ in range(chance.choice([1, 1, 2])):
                if result.kills < kills:
                    _kill(home, agent, caller, chance, result, counter)
            wanted = f"linear/{counter}"
            _until(f"{wanted}, seed {seed}", lambda wanted=wanted: _active(home) == wanted)
            result.updates += 1
            assert not caller.failed, f"failed calls: {dict(caller.reasons)}"
            if result.kills % 10 < 2:
                say(f"{result.kills} of {kills} kills survived, {result.updates} updates")
        result.calls, result.sent_again = caller.calls, caller.sent_again
        result.failed = caller.failed
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _kill(
    home: Path, agent: Agent, caller: Caller, chance: random.Random, result: Result, new: int
) -> None:
    time.sleep(chance.uniform(0, 1.4))
    state = _file(home / "store/journal.json").get("state", "none")
    if chance.random() < _PARENT_TOO:
        caller.away.set()
        agent.kill_all()
        result.process_kills += 1
    else:
        agent.kill_worker()
        result.worker_kills += 1
    result.kills += 1
    result.by_state[state] += 1
    version = _call(_connect(home))
    caller.away.clear()
    assert version in {str(new - 1), str(new)}, f"it serves version {version} after a kill"
    result.answered_by["new" if version == str(new) else "old"] += 1
    result.survived += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--more", action="store_true", help="add to the runs that FILE tells of")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skerry-kill-") as folder:
        result = torture(Path(folder), args.kills, args.seed, lambda text: print(text, flush=True))
    runs = [vars(result)]
    if args.more:
        runs = json.loads(args.out.read_text())["runs"] + runs
    totals = {name: sum(run[name] for run in runs) for name in ("kills", "survived", "failed")}
    document = {"what": "SIGKILL at random instants of an update", **totals, "runs": runs}
    if args.out:
        import msgspec

        from skerry.bench.machine import read_machine
        from skerry.devices.files import write_atomically

        document["machine"] = msgspec.to_builtins(read_machine())
        write_atomically(args.out, json.dumps(document, indent=2, sort_keys=True).encode() + b"\n")
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
