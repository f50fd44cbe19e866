"""Swapping releases where memory holds one: calls wait, within bounds, and none is lost."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import BIAS, linear, make_bundle
from skerry.devices.errors import CancelledError, GoldenError, QuotaError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.gate import Gate
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.prepared import Prepared
from skerry.runtime.room import Footprint, SwapLimits, way_in
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import Server

X = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
ONE = Footprint(per_byte=0.0, each_bytes=100)


def _options(releases: int, **more: object) -> RuntimeOptions:
    limits = SwapLimits(bytes=releases * 100, footprint=ONE, **more)  # type: ignore[arg-type]
    return RuntimeOptions(memory=limits)


def _bundle(tmp_path: Path, n: int, **more: object) -> Bundle:
    path = make_bundle(tmp_path / str(n), version=str(n), shift=float(n), **more)  # type: ignore[arg-type]
    return Bundle.open(path)


def _swapping(tmp_path: Path, **more: object) -> tuple[Runtime, Prepared]:
    """A runtime whose memory holds one release, in the middle of a swap from 1 to 2."""
    runtime = Runtime(_options(1, **more))
    runtime.activate(runtime.prepare(_bundle(tmp_path, 1)))
    return runtime, runtime.prepare(_bundle(tmp_path, 2))


def _until(true: Callable[[], bool]) -> None:
    latest = time.monotonic() + 20
    while not true():
        assert time.monotonic() < latest


@pytest.mark.parametrize(
    ("budget", "active", "previous", "way"),
    [
        (0, 500, 500, "beside"),
        (300, 100, 100, "beside"),
        (299, 100, 100, "without_previous"),
        (200, 100, 0, "beside"),
        (199, 100, 0, "alone"),
        (100, 0, 0, "beside"),
        (100, 100, 100, "alone"),
    ],
)
def test_the_budget_decides_the_way_in(budget: int, active: int, previous: int, way: str) -> None:
    assert way_in(budget, 100, active, previous) == way


def test_what_never_fits_is_refused_and_the_old_one_serves(tmp_path: Path) -> None:
    with pytest.raises(QuotaError, match="budget is 99"):
        way_in(99, 100, 0, 0)
    runtime = Runtime(RuntimeOptions(memory=SwapLimits(bytes=50, footprint=ONE)))
    with pytest.raises(QuotaError):
        runtime.prepare(_bundle(tmp_path, 1))
    assert runtime.state == "empty"


def test_with_room_for_two_the_previous_one_makes_way(tmp_path: Path) -> None:
    runtime = Runtime(_options(2))
    for n in (1, 2):
        runtime.activate(runtime.prepare(_bundle(tmp_path, n)))
    first = runtime.previous
    third = runtime.prepare(_bundle(tmp_path, 3))
    assert first is not None
    assert (first.closed, runtime.state, runtime.previous) == (True, "ready", None)
    runtime.activate(third)
    assert runtime.previous is not None


def test_calls_wait_for_the_next_release_and_are_answered_by_it(tmp_path: Path) -> None:
    runtime, second = _swapping(tmp_path)
    assert (runtime.state, runtime.info().version) == ("swapping", "1")  # type: ignore[union-attr]
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(runtime.answer, {"x": X}) for _ in range(4)]
        _until(lambda: runtime.waiting == 4)
        runtime.activate(second)
        for call in calls:
            answer = call.result(20)
            assert answer.release is second
            np.testing.assert_allclose(answer.outputs["y"], linear(X, BIAS + 2), atol=1e-5)
    assert runtime.state == "ready"


def test_going_back_loads_the_parked_release_again(tmp_path: Path) -> None:
    runtime, second = _swapping(tmp_path)
    first = runtime.active
    assert first is not None
    runtime.activate(second)
    runtime.activate(first)
    assert second.closed
    answer = runtime.answer({"x": X})
    assert answer.release.card.version == "1"
    np.testing.assert_allclose(answer.outputs["y"], linear(X, BIAS + 1), atol=1e-5)


def test_one_that_fails_leaves_the_old_one_serving_again(tmp_path: Path) -> None:
    runtime = Runtime(_options(1))
    runtime.activate(runtime.prepare(_bundle(tmp_path, 1)))
    with pytest.raises(GoldenError):
        runtime.prepare(_bundle(tmp_path, 2, golden_error=1.0))
    assert runtime.state == "ready"
    assert runtime.answer({"x": X}).release.card.version == "1"


def test_a_call_under_way_that_does_not_end_stops_the_swap(tmp_path: Path) -> None:
    runtime = Runtime(_options(1, drain_s=0.05))
    runtime.activate(runtime.prepare(_bundle(tmp_path, 1)))
    active = runtime.active
    assert active is not None
    assert active.enter()
    with pytest.raises(UnavailableError, match="did not end within"):
        runtime.prepare(_bundle(tmp_path, 2))
    active.leave()
    assert runtime.answer({"x": X}).release is active


def test_waiting_is_bounded_in_number_and_in_time(tmp_path: Path) -> None:
    runtime, second = _swapping(tmp_path, waiting=1, wait_s=20.0)
    with pytest.raises(CancelledError, match="being swapped"):
        runtime.predict({"x": X}, until=time.monotonic() + 0.02)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(runtime.predict, {"x": X})
        _until(lambda: runtime.waiting == 1)
        with pytest.raises(QuotaError, match="1 calls wait already"):
            runtime.predict({"x": X})
        runtime.activate(second)
        call.result(20)


def test_a_gate_lets_nobody_through_late() -> None:
    gate = Gate(10, 0.02)
    gate.wait()
    gate.shut()
    with pytest.raises(CancelledError):
        gate.wait()
    assert gate.waiting == 0
    gate.open()
    gate.wait()


def test_closing_ends_the_waiting(tmp_path: Path) -> None:
    runtime, second = _swapping(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(runtime.predict, {"x": X})
        _until(lambda: runtime.waiting == 1)
        runtime.close()
        with pytest.raises(UnavailableError, match="no model is active"):
            call.result(20)
    second.close()


def test_50_swaps_under_load_lose_no_call(tmp_path: Path) -> None:
    bundles = [_bundle(tmp_path, n) for n in (0, 1)]
    runtime = Runtime(_options(1))
    runtime.activate(runtime.prepare(bundles[0]))
    over, wrong, answered = threading.Event(), [], []

    def call() -> None:
        count = 0
        while not over.is_set():
            try:
                outputs, release, _ = runtime.answer({"x": X})
            except Exception as error:
                wrong.append(repr(error))
                return
            count += 1
            if not np.allclose(
                outputs["y"], linear(X, BIAS + float(release.card.version)), atol=1e-5
            ):
                wrong.append(f"not of version {release.card.version}")
        answered.append(count)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for swap in range(50):
        runtime.activate(runtime.prepare(bundles[(swap + 1) % 2]))
    over.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(answered) > 0
    runtime.close()


def test_readiness_says_so_and_a_request_waits(tmp_path: Path) -> None:
    runtime, second = _swapping(tmp_path)
    with Server(runtime) as server:
        host = server.address.removeprefix("http://")

        def call(method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
            connection = http.client.HTTPConnection(host, timeout=20)
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            data = json.loads(response.read())
            connection.close()
            return response.status, data

        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(call, "POST", "/v2/models/linear/infer", {"inputs": [tensor]})
            _until(lambda: runtime.waiting == 1)
            status, document = call("GET", "/v2/health/ready")
            assert (status, document["state"], document["waiting"]) == (503, "swapping", 1)
            assert call("GET", "/v2/health/live")[0] == 200
            runtime.activate(second)
            status, document = answer.result(20)
            assert (status, document["model_version"]) == (200, "2")
        assert call("GET", "/v2/health/ready")[0] == 200
    runtime.close()
