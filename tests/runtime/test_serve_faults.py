"""Faults put into a server under load: callers get answers or typed errors, and it recovers."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear, make_bundle
from skerry.devices.errors import SkerryError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import Server

ROW = np.array([[1, 2, 3, 4]], np.float32)
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
)


def _ask(host: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("POST", "/v2/models/linear/infer", BODY)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def _under_load(runtime: Runtime, during: Callable[[Callable[[int], None]], None]) -> Counter[str]:
    """Call from three threads while `during` runs. What was answered: by version, or status."""
    seen: Counter[str] = Counter()
    over = threading.Event()
    with Server(runtime) as server:
        host = server.address.removeprefix("http://")

        def call() -> None:
            while not over.is_set():
                status, answer = _ask(host)
                if status != 200:
                    seen[str(status)] += 1
                    continue
                version = str(answer["model_version"])
                found = answer["outputs"][0]["data"]  # type: ignore[index]
                right = np.allclose(found, linear(ROW, BIAS + float(version))[0], atol=1e-5)
                seen[f"v{version}" if right else "wrong"] += 1

        def wait_for(more: int) -> None:
            target, until = seen.total() + more, time.monotonic() + 20
            while seen.total() < target and time.monotonic() < until:
                over.wait(0.005)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            during(wait_for)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert _ask(host)[0] == 200
    runtime.close()
    return seen


def _engine(runtime: Runtime) -> IsolatedEngine:
    assert runtime.active is not None
    engine = runtime.active._engine
    assert isinstance(engine, IsolatedEngine)
    return engine


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
def test_an_engine_that_crashes_or_hangs_costs_at_most_typed_errors(
    tmp_path: Path, number: signal.Signals
) -> None:
    options = RuntimeOptions(isolation=IsolationLimits(call_s=1.0, restart_s=0.0))
    runtime = Runtime.open(make_bundle(tmp_path / "b", version="0"), options)

    def during(wait_for: Callable[[int], None]) -> None:
        wait_for(5)
        for _ in range(2):
            if (pid := _engine(runtime).pid) is not None:
                os.kill(pid, number)
            wait_for(10)

    seen = _under_load(runtime, during)
    assert set(seen) <= {"v0", "503", "504"}
    assert seen["v0"] > 0


def test_with_a_previous_release_a_crash_is_not_even_seen(tmp_path: Path) -> None:
    runtime = Runtime(RuntimeOptions(isolation=IsolationLimits(restart_s=0.0)))
    for version in ("0", "1"):
        path = make_bundle(tmp_path / version, version=version, shift=float(version))
        runtime.activate(runtime.prepare(Bundle.open(path)))

    def during(wait_for: Callable[[int], None]) -> None:
        wait_for(5)
        if (pid := _engine(runtime).pid) is not None:
            os.kill(pid, signal.SIGSEGV)
        wait_for(20)

    seen = _under_load(runtime, during)
    assert set(seen) == {"v0", "v1"}


def test_a_release_whose_blob_rotted_never_serves_and_the_old_one_goes_on(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "0", version="0"))
    bundle = Bundle.open(make_bundle(tmp_path / "1", version="1", shift=1.0))
    path = bundle.path(bundle.card.artifacts[0].blob)
    whole = path.read_bytes()

    def during(wait_for: Callable[[int], None]) -> None:
        rng = np.random.default_rng(0)
        for _ in range(10):
            rotten = bytearray(whole)
            rotten[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
            path.write_bytes(rotten)
            with pytest.raises(SkerryError):
                runtime.activate(runtime.prepare(bundle))
            wait_for(3)
        path.write_bytes(whole)
        runtime.activate(runtime.prepare(bundle))
        wait_for(10)

    seen = _under_load(runtime, during)
    assert set(seen) == {"v0", "v1"}
