import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.bundles import linear, make_bundle
from skerry.devices.errors import InputError, UnavailableError
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.server import Server

X = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, -1.0, 2.0]]
LIMITS = ServeLimits(body_bytes=100_000, drain_s=2)


def _tensor(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X[0] + X[1]}
    return tensor | changes


def _body(**changes: Any) -> dict[str, Any]:
    return {"inputs": [_tensor(**changes)]}


class Client:
    def __init__(self, address: str) -> None:
        self.host = address.removeprefix("http://")

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, _, data = self.raw(method, path, None if body is None else json.dumps(body))
        return status, json.loads(data) if data else None

    def raw(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, data


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime.open(make_bundle(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[Client]:
    with Server(runtime, limits=LIMITS) as server:
        yield Client(server.address)


INFER = "/v2/models/linear/infer"


@pytest.mark.parametrize("data", [X[0] + X[1], X])
def test_an_inference_is_answered(client: Client, data: Any) -> None:
    status, answer = client.call("POST", INFER, _body(data=data) | {"id": "7"})
    assert status == 200
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("linear", "1", "7")
    assert answer["parameters"] == {"artifact": "onnx-fp32"}
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [2, 3])
    expected = linear(np.array(X, np.float32)).ravel()
    np.testing.assert_allclose(output["data"], expected, atol=1e-5)


def test_a_version_may_be_named(client: Client) -> None:
    path = "/v2/models/linear/versions/1/infer"
    assert client.call("POST", path, _body() | {"outputs": [{"name": "y"}]})[0] == 200
    status, answer = client.call("POST", "/v2/models/linear/versions/9/infer", _body())
    assert status == 404
    assert "'9'" in answer["error"]


def test_health_and_metadata(client: Client) -> None:
    assert client.call("GET", "/v2/health/live")[0] == 200
    assert client.call("GET", "/v2/health/ready")[0] == 200
    assert client.call("GET", "/v2/models/linear/ready")[0] == 200
    assert client.call("GET", "/v2/models/linear/versions/1/ready")[0] == 200
    assert client.call("GET", "/v2")[1]["name"] == "skerry"
    for path in ("/v2/models/linear", "/v2/models/linear/versions/1"):
        status, metadata = client.call("GET", path)
        assert status == 200
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        assert metadata["parameters"]["labels"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/v2/models/linear/versions/2", 404),
        ("GET", "/v2/models/linear/nothing", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/linear", 405),
        ("POST", "/v2/a/b/c/d/e/f/infer", 404),
    ],
)
def test_other_paths_and_methods_are_refused(
    client: Client, method: str, path: str, status: int
) -> None:
    found, answer = client.call(method, path)
    assert found == status
    assert answer["error"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 50_000, "body"),
        (b'{"inputs": ' + b"[" * 50_000, "body"),
        ({"inputs": []}, "input x"),
        ({"inputs": [{"name": "x"}]}, "body"),
        ({"inputs": [_tensor(), _tensor()]}, "input x"),
        (_body(name="q"), "input x"),
        (_body(datatype="FP31"), "input x"),
        (_body(datatype="BYTES"), "input x"),
        (_body(datatype="FP64"), "input x"),
        (_body(datatype="INT8", data=[1000] * 8), "input x"),
        (_body(datatype="INT32"), "input x"),
        (_body(datatype="BOOL", data=[1] * 8), "input x"),
        (_body(shape=[2, 5]), "input x"),
        (_body(shape=[2, -4]), "input x"),
        (_body(shape=[1 << 40, 1 << 40]), "input x"),
        (_body(shape=[1 << 70]), "input x"),
        (_body(shape=[1] * 40 + [8]), "input x"),
        (_body(shape=[8]), "input x"),
        (_body(shape=[0, 4], data=[]), "input x"),
        (_body(data=["1"] * 8), "input x"),
        (_body(data=[None] * 8), "input x"),
        (_body(data=[[1, 2, 3, 4], [1, 2, 3]]), "input x"),
        (_body(data={"a": 1}), "input x"),
        (_body(data=3), "input x"),
        (b'{"inputs":[{"name":"x","shape":[2,4],"datatype":"FP32"}]}', "input x"),
        (b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,NaN]}]}', "body"),
        (b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,1e400]}]}', "x"),
        (_body() | {"outputs": [{"name": "q"}]}, "output q"),
    ],
)
def test_a_bad_request_is_refused_and_names_the_field(
    client: Client, body: Any, names: str
) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body)
    status, _, answer = client.raw("POST", INFER, data)
    assert status == 400, answer
    assert names in json.loads(answer)["error"]
    assert client.call("POST", INFER, _body())[0] == 200


def test_a_body_beyond_the_limit_is_refused(client: Client) -> None:
    assert client.raw("POST", INFER, b" " * 100_001)[0] == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b" " * 10_000

    connection = http.client.HTTPConnection(client.host, timeout=20)
    headers = {"transfer-encoding": "chunked"}
    connection.request("POST", INFER, chunks(), headers, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 413
    assert "100000 bytes" in json.loads(response.read())["error"]
    connection.close()


def test_a_claimed_length_of_10_gb_is_refused_at_once(client: Client) -> None:
    host, port = client.host.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as sock:
        head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000000\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


def test_metrics_are_prometheus_text(client: Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client.call("POST", INFER, _body())
    _, headers, data = client.raw("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(data.decode())}
    (info,) = families["skerry_model_info"].samples
    assert info.labels["version"] == "1"
    count = [s for s in families["skerry_inference_seconds"].samples if s.name.endswith("_count")]
    assert count[0].value >= 1


def test_it_answers_before_a_model_is_active(tmp_path: Path) -> None:
    runtime = Runtime()
    with Server(runtime) as server:
        client = Client(server.address)
        assert client.call("GET", "/v2/health/live")[0] == 200
        assert client.call("GET", "/v2/health/ready")[0] == 503
        status, headers, _ = client.raw("POST", INFER, json.dumps(_body()))
        assert (status, headers["retry-after"]) == (503, "1")
        assert client.raw("GET", "/metrics")[0] == 200
        runtime.activate(runtime.prepare(Bundle.open(make_bundle(tmp_path / "b"))))
        assert client.call("GET", "/v2/health/ready")[0] == 200
        assert client.call("POST", INFER, _body())[0] == 200


def test_a_slow_model_does_not_hold_up_health(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    release = runtime.active
    assert release is not None
    release.row_seconds = 1.0
    entered, leave = threading.Event(), threading.Event()
    answer = release.session.predict

    def slow(*words: Any) -> Any:
        entered.set()
        assert leave.wait(20)
        return answer(*words)

    release.session.predict = slow  # type: ignore[method-assign]
    with Server(runtime) as server:
        client = Client(server.address)
        found: list[int] = []
        caller = threading.Thread(
            target=lambda: found.append(client.call("POST", INFER, _body())[0])
        )
        caller.start()
        assert entered.wait(20)
        assert client.call("GET", "/v2/health/live")[0] == 200
        leave.set()
        caller.join()
        assert found == [200]


def test_a_unix_socket_is_served_and_removed(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "s"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with Server(runtime, uds=path) as server:
        assert server.address == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert not path.exists()


@pytest.mark.parametrize("form", ["file", "socket"])
def test_what_another_put_in_its_place_is_left(runtime: Runtime, tmp_path: Path, form: str) -> None:
    path = tmp_path / "s"
    other = socket.socket(socket.AF_UNIX)
    with Server(runtime, uds=path):
        path.unlink()
        if form == "file":
            path.write_text("mine")
        else:
            other.bind(str(path))
    assert path.exists()
    other.close()


def test_a_listener_that_was_handed_in_outlives_the_server(runtime: Runtime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(2):
            with Server(runtime, listener=listener) as server:
                assert Client(server.address).call("GET", "/v2/health/live")[0] == 200


def test_a_server_that_was_never_started_gives_its_address_back(
    runtime: Runtime, tmp_path: Path
) -> None:
    for _ in range(2):
        server = Server(runtime, uds=tmp_path / "s")
        server.stop()
    assert not (tmp_path / "s").exists()


def test_it_does_not_listen_beyond_this_machine(runtime: Runtime) -> None:
    with pytest.raises(InputError, match="TLS"):
        Server(runtime, host="0.0.0.0")


def test_a_port_in_use_is_unavailable(runtime: Runtime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UnavailableError):
        Server(runtime, port=taken.getsockname()[1])


@pytest.mark.service("promtool")
def test_promtool_accepts_the_metrics(client: Client) -> None:
    client.call("POST", INFER, _body())
    client.call("POST", INFER, {})
    _, _, text = client.raw("GET", "/metrics")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
