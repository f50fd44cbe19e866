"""Inference over HTTP beyond plain JSON: binary tensors, compression, deadlines, limits, access."""

import gzip
import http.client
import json
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.bundles import linear, make_bundle
from skerry.runtime.engine.isolated import IsolatedEngine, IsolationLimits
from skerry.runtime.prepare import RuntimeOptions
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.server import Server

X = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
INFER = "/v2/models/linear/infer"
LENGTH = "inference-header-content-length"


class Client:
    def __init__(self, server: Server) -> None:
        self.host = server.address.partition("://")[2]

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", INFER, body, names)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, data


def _json(rows: np.ndarray = X, **more: Any) -> bytes:
    tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel().tolist()}
    return json.dumps({"inputs": [tensor]} | more).encode()


def _binary(rows: np.ndarray = X, size: Any = None, **more: Any) -> tuple[bytes, str]:
    parameters = {"binary_data_size": rows.nbytes if size is None else size}
    tensor = {"name": "x", "shape": rows.shape, "datatype": "FP32", "parameters": parameters}
    head = json.dumps({"inputs": [tensor]} | more).encode()
    return head + rows.tobytes(), str(len(head))


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime.open(make_bundle(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[Client]:
    with Server(runtime, limits=ServeLimits(body_bytes=1 << 20)) as server:
        yield Client(server)


@pytest.mark.parametrize("pad", ["", " ", "  ", "   "])
def test_binary_in_and_out(client: Client, pad: str) -> None:
    body, length = _binary(parameters={"binary_data_output": True}, id=pad)
    status, headers, data = client.post(body, inference_header_content_length=length)
    assert status == 200, data
    assert headers["content-type"] == "application/octet-stream"
    split = int(headers[LENGTH])
    (output,) = json.loads(data[:split])["outputs"]
    assert output["parameters"] == {"binary_data_size": 24}
    assert "data" not in output
    np.testing.assert_allclose(
        np.frombuffer(data[split:], np.float32).reshape(2, 3), linear(X), atol=1e-5
    )


def test_an_output_may_be_chosen_as_binary_or_not(client: Client) -> None:
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    _, headers, _ = client.post(_json(outputs=wanted))
    assert LENGTH in headers
    wanted = [{"name": "y", "parameters": {"binary_data": False}}]
    body = _json(outputs=wanted, parameters={"binary_data_output": True})
    _, headers, data = client.post(body)
    assert LENGTH not in headers
    assert len(json.loads(data)["outputs"][0]["data"]) == 6


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda body, n: (body[:-1], n), "input x"),
        (lambda body, n: (body + b"x", n), "body"),
        (lambda body, n: (body, "-1"), LENGTH),
        (lambda body, n: (body, "1e3"), LENGTH),
        (lambda body, n: (body, "9" * 400), LENGTH),
        (lambda body, n: (body, str(len(body) + 1)), LENGTH),
        (lambda body, n: (body, str(int(n) - 1)), "body"),
        (lambda body, n: _binary(size=31), "input x"),
        (lambda body, n: _binary(size=-32), "input x"),
        (lambda body, n: _binary(size="32"), "input x"),
        (lambda body, n: _binary(size=1 << 70), "input x"),
        (lambda body, n: _binary(np.full((1, 4), np.nan, np.float32)), "input x"),
    ],
)
def test_bad_binary_is_refused_by_name(client: Client, change: Any, names: str) -> None:
    body, length = change(*_binary())
    status, _, data = client.post(body, inference_header_content_length=length)
    assert status == 400, data
    assert names in json.loads(data)["error"]


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
def test_a_compressed_request_is_unpacked(client: Client, encoding: str, pack: Any) -> None:
    assert client.post(pack(_json()), content_encoding=encoding)[0] == 200


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"noise"),
        ("br", b"noise"),
        ("gzip", gzip.compress(_json())[:-3]),
        ("gzip", gzip.compress(b" " * (100 << 20))),
    ],
    ids=["noise", "unknown", "cut off", "bomb"],
)
def test_bad_compression_is_refused(client: Client, encoding: str, body: bytes) -> None:
    assert client.post(body, content_encoding=encoding)[0] == 400


def test_a_long_reply_is_compressed_for_who_takes_it(client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    _, headers, packed = client.post(_json(rows), accept_encoding="gzip, br")
    assert headers["content-encoding"] == "gzip"
    _, headers, plain = client.post(_json(rows))
    assert "content-encoding" not in headers
    assert gzip.decompress(packed) == plain


def test_beyond_the_rate_is_429_with_when_to_come_back(runtime: Runtime) -> None:
    with Server(runtime, limits=ServeLimits(rate=0.001, burst=2)) as server:
        client = Client(server)
        found = [client.post(_json()) for _ in range(3)]
        assert [status for status, _, _ in found] == [200, 200, 429]
        assert int(found[2][1]["retry-after"]) > 1


class Held:
    """Holds every inference of a runtime until told to go on."""

    def __init__(self, folder: Path) -> None:
        self.runtime = Runtime.open(make_bundle(folder / "b"))
        release = self.runtime.active
        assert release is not None
        release.row_seconds = 1.0
        self.entered, self.leave = threading.Semaphore(0), threading.Event()
        answer = release.session.predict

        def predict(*words: Any) -> Any:
            self.entered.release()
            assert self.leave.wait(20)
            return answer(*words)

        release.session.predict = predict  # type: ignore[method-assign]


def _in_threads(client: Client, count: int) -> tuple[list[int], list[threading.Thread]]:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(client.post(_json())[0])) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    return found, threads


def test_what_is_not_answered_in_time_is_504_and_service_goes_on(tmp_path: Path) -> None:
    held = Held(tmp_path)
    with Server(held.runtime) as server:
        client = Client(server)
        status, _, data = client.post(_json(parameters={"timeout": 20_000}))
        assert status == 504
        assert "0.020 s" in json.loads(data)["error"]
        held.leave.set()
        assert client.post(_json())[0] == 200
        status, _, data = client.post(_json(parameters={"timeout": "soon"}))
        assert status == 400
        assert "timeout" in json.loads(data)["error"]


def test_more_than_may_wait_are_503(tmp_path: Path) -> None:
    held = Held(tmp_path)
    with Server(held.runtime, limits=ServeLimits(threads=1, waiting=1)) as server:
        client = Client(server)
        first, threads = _in_threads(client, 1)
        assert held.entered.acquire(timeout=20)
        rest, more = _in_threads(client, 3)
        for thread in more:
            thread.join(0.5)
        held.leave.set()
        for thread in threads + more:
            thread.join()
        assert first == [200]
        assert sorted(rest) == [200, 503, 503]


def test_at_stop_what_is_under_way_is_answered(tmp_path: Path) -> None:
    held = Held(tmp_path)
    server = Server(held.runtime)
    server.start()
    found, threads = _in_threads(Client(server), 1)
    assert held.entered.acquire(timeout=20)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    held.leave.set()
    stopping.join()
    threads[0].join()
    assert found == [200]


def test_an_isolated_engine_that_hangs_does_not_hold_up_the_server(tmp_path: Path) -> None:
    options = RuntimeOptions(isolation=IsolationLimits())
    runtime = Runtime.open(make_bundle(tmp_path / "b"), options)
    assert runtime.active is not None
    engine = runtime.active._engine
    assert isinstance(engine, IsolatedEngine)
    assert engine.pid is not None
    with Server(runtime) as server:
        client = Client(server)
        assert client.post(_json())[0] == 200
        os.kill(engine.pid, signal.SIGSTOP)
        assert client.post(_json(parameters={"timeout": 50_000}))[0] == 504
        os.kill(engine.pid, signal.SIGCONT)
        assert client.post(_json())[0] == 200
    runtime.close()


@pytest.mark.parametrize(("gain", "runs"), [(4.0, 2), (1.0, 7)])
def test_what_waits_is_answered_as_one_batch_where_the_model_gains(
    tmp_path: Path, gain: float, runs: int
) -> None:
    held = Held(tmp_path)
    release = held.runtime.active
    assert release is not None
    release.batch_gain = gain
    with Server(held.runtime, limits=ServeLimits(threads=1)) as server:
        client = Client(server)
        first, threads = _in_threads(client, 1)
        assert held.entered.acquire(timeout=20)
        rest, more = _in_threads(client, 6)
        while server.waiting < 6:
            more[0].join(0.01)
        held.leave.set()
        for thread in threads + more:
            thread.join()
    assert first + rest == [200] * 7
    found = 1
    while held.entered.acquire(blocking=False):
        found += 1
    assert found == runs


def test_a_long_batch_of_a_quick_model_holds_up_nobody(tmp_path: Path) -> None:
    held = Held(tmp_path)
    release = held.runtime.active
    assert release is not None
    release.row_seconds, release.batch_gain = 20e-6, 1.0
    rows = np.zeros((100, 4), np.float32)
    with Server(held.runtime, limits=ServeLimits(threads=1)) as server:
        client = Client(server)
        status, _, data = client.post(_json(rows, parameters={"timeout": 1}))
        assert (status, b"not answered within" in data) == (504, True)
        held.leave.set()
        assert client.post(_json(rows))[0] == 200


def test_a_deadline_holds_on_the_event_loop_too(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    release = runtime.active
    assert release is not None
    release.row_seconds = 0.0
    answer, seen = release.session.predict, list[float | None]()

    def predict(inputs: Any, outputs: Any, until: float | None) -> Any:
        seen.append(until)
        return answer(inputs, outputs, until)

    release.session.predict = predict  # type: ignore[method-assign]
    with Server(runtime) as server:
        client, began = Client(server), time.monotonic()
        assert client.post(_json())[0] == 200
        assert client.post(_json(parameters={"timeout": 9_000_000}))[0] == 200
    assert seen[0] is None
    assert seen[1] is not None
    assert began + 9 < seen[1] < time.monotonic() + 9


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_what_json_cannot_tell_is_not_left_out(client: Client, value: float) -> None:
    rows = np.full((1, 4), value, np.float32)
    body, length = _binary(rows)
    status, _, data = client.post(body, inference_header_content_length=length)
    assert status == 400
    error = json.loads(data)["error"]
    assert "output y" in error
    assert "binary_data" in error
    body, length = _binary(rows, parameters={"binary_data_output": True})
    status, headers, data = client.post(body, inference_header_content_length=length)
    assert status == 200
    assert not np.isfinite(np.frombuffer(data[int(headers[LENGTH]) :], np.float32)).any()
    assert client.post(_json(id="null"))[0] == 200


@pytest.mark.parametrize("nested", [False, True])
def test_a_number_too_large_for_its_datatype_is_refused(client: Client, nested: bool) -> None:
    row: list[Any] = [1.0, 1e39, 1.0, 1.0]
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [row] if nested else row}
    status, _, data = client.post(json.dumps({"inputs": [tensor]}).encode())
    assert (status, b"input x" in data, b"too large" in data) == (400, True, True)


def test_a_bug_is_500_and_service_goes_on(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    release = runtime.active
    assert release is not None
    answer = release.session.predict

    def broken(*words: Any) -> Any:
        raise ZeroDivisionError

    with Server(runtime) as server:
        client = Client(server)
        for seconds in (0.0, 1.0):
            release.row_seconds = seconds
            release.session.predict = broken  # type: ignore[method-assign]
            status, _, data = client.post(_json())
            assert (status, "bug" in json.loads(data)["error"]) == (500, True)
            release.session.predict = answer  # type: ignore[method-assign]
            assert client.post(_json())[0] == 200
