"""Starting servers to be measured, and what a measurement of one is."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import _load
import numpy as np
from _peers import PACKAGES, python_of

CORES = sorted(os.sched_getaffinity(0))
_TICK = os.sysconf("SC_CLK_TCK")
_HERE = Path(__file__).resolve().parent
_START_S = 60.0

# Ended from outside, a plan still ends the servers that it started.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Running:
    """A server process and its children, and where it answers."""

    def __init__(self, command, cores, address=None, quiet=False):
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE if address is None else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if quiet else None,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        self.told = {} if address is not None else self._announcement()
        self.address = self.told.get("address", address)

    def _announcement(self):
        text = b""
        while not text.endswith(b"\n}\n"):
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended: {text.decode()}")
            text += line
        return json.loads(text)

    def pids(self):
        """The process and all below it."""
        found, parents = [], {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
        queue = [self._process.pid]
        while queue:
            found.append(queue.pop())
            queue += parents.get(found[-1], [])
        return found

    def cpu_seconds(self):
        total = 0
        for pid in self.pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICK

    def memory_mib(self, field):
        """The sum of a field of smaps_rollup, such as `Pss:` or `Private_`."""
        kib = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(field):
                    kib += int(line.split()[1])
        return kib / 1024

    def wait_for(self, message):
        """Until it answers `message`."""
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            try:
                if _load.drive(self.address, message, 1, 0.5)[0]:
                    return
            except (OSError, RuntimeError):
                if self._process.poll() is not None:
                    raise
            time.sleep(0.1)
        raise RuntimeError(f"no answer from {self.address} within {_START_S:g} s")

    def stop(self):
        """End it and its children, by their ids."""
        pids = self.pids()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)


def skerry(bundle, *words, cores=CORES):
    """`skerry run`."""
    command = [sys.executable, "-m", "skerry.cli.main", "run", str(bundle), *words, "--json"]
    return Running(command, cores)


def peer(kind, model, cores=CORES):
    """A server of `_rest_servers.py`, in the environment that it needs."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    python = python_of(kind) if kind in PACKAGES else sys.executable
    command = [str(python), str(_HERE / "_rest_servers.py"), kind, str(model), str(port)]
    return Running(command, cores, f"http://127.0.0.1:{port}", quiet=kind in PACKAGES)


def measure(server, connections, seconds, message, awake=False):
    """Rate, latency and CPU of `connections` clients that send `message` over and over."""
    before = server.cpu_seconds()
    took, total = _load.drive(server.address, message, connections, seconds, awake)
    cpu = server.cpu_seconds() - before
    sample = np.array(took) * 1e6
    return {
        "per_second": len(took) / total,
        "p50_us": float(np.percentile(sample, 50)),
        "p99_us": float(np.percentile(sample, 99)),
        "cpu_us": cpu / len(took) * 1e6,
    }


def medians(rounds):
    """Field by field over the rounds."""
    return {key: round(statistics.median(one[key] for one in rounds), 2) for key in rounds[0]}
