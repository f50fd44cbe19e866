"""An outside client of the protocol, unmodified: over HTTP and gRPC, blocking and asyncio."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.bundles import WORDS, codes, linear, make_bundle, make_text_bundle
from skerry.runtime.serve.listen import Address
from skerry.runtime.serve.server import Server
from skerry.runtime.shelf import Shelf

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")
http_aio = pytest.importorskip("tritonclient.http.aio")
grpc_aio = pytest.importorskip("tritonclient.grpc.aio")
from tritonclient.utils import InferenceServerException  # noqa: E402 - skipped without

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
BYTES = np.char.encode(WORDS, "utf-8").astype(np.object_)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "linear")
    make_text_bundle(folder / "text")
    with Server(Shelf(folder), rpc=Address()) as server:
        yield server


def _address(server: Server, library: Any) -> str:
    if library in (http, http_aio):
        return server.address.removeprefix("http://")
    return server.rpc_address


@pytest.fixture(params=[http, grpc], ids=["http", "grpc"])
def library(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(server: Server, library: Any) -> Iterator[Any]:
    client = library.InferenceServerClient(_address(server, library))
    yield client
    client.close()


def _input(library: Any, name: str, array: np.ndarray, kind: str, **more: Any) -> Any:
    tensor = library.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, **more)
    return tensor


def test_health_and_metadata(client: Any, library: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("linear", "9")
    more = {} if library is http else {"as_json": True}
    assert client.get_server_metadata(**more)["name"] == "skerry"
    metadata = client.get_model_metadata("linear", **more)
    assert metadata["inputs"][0]["datatype"] == "FP32"
    assert metadata["outputs"][0]["name"] == "y"


def test_model_control(client: Any, library: Any) -> None:
    def states() -> dict[str, str]:
        index = client.get_model_repository_index()
        entries = index if library is http else [vars_of(one) for one in index.models]
        return {one["name"]: one["state"] for one in entries}

    def vars_of(one: Any) -> dict[str, str]:
        return {"name": one.name, "state": one.state}

    client.load_model("linear")
    assert states()["linear"] == "READY"
    client.unload_model("linear")
    assert states()["linear"] == "UNAVAILABLE"
    client.load_model("linear")
    assert states()["linear"] == "READY"
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        client.load_model("other")


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_inference_over_http(
    server: Server, binary_in: bool, binary_out: bool, packed: Any
) -> None:
    client = http.InferenceServerClient(_address(server, http))
    answer = client.infer(
        "linear",
        [_input(http, "x", X, "FP32", binary_data=binary_in)],
        model_version="1",
        outputs=[http.InferRequestedOutput("y", binary_data=binary_out)],
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
        request_id="17",
        timeout=5_000_000,
    )
    np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)
    assert answer.get_response()["id"] == "17"
    client.close()


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_inference_over_grpc(server: Server, packed: Any) -> None:
    client = grpc.InferenceServerClient(_address(server, grpc))
    answer = client.infer(
        "linear",
        [_input(grpc, "x", X, "FP32")],
        model_version="1",
        outputs=[grpc.InferRequestedOutput("y")],
        compression_algorithm=packed,
        request_id="17",
        client_timeout=20,
        timeout=5_000_000,
    )
    np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)
    assert answer.get_response().id == "17"
    client.close()


def test_without_outputs_all_are_answered(client: Any, library: Any) -> None:
    answer = client.infer("linear", [_input(library, "x", X, "FP32")])
    np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client: Any, library: Any, binary: bool) -> None:
    more = {"binary_data": binary} if library is http else {}
    outputs = [library.InferRequestedOutput(name, **more) for name in ("same", "code")]
    tensor = _input(library, "words", BYTES, "BYTES", **more)
    answer = client.infer("text", [tensor], outputs=outputs)
    same = answer.as_numpy("same")
    texts = [one.decode() if isinstance(one, bytes) else one for one in same.ravel().tolist()]
    assert texts == WORDS.ravel().tolist()
    np.testing.assert_array_equal(answer.as_numpy("code"), codes(WORDS))


def test_an_error_is_the_clients_own_exception(client: Any, library: Any) -> None:
    tensor = _input(library, "x", X[:, :3].copy(), "FP32")
    with pytest.raises(InferenceServerException, match="input x: has shape"):
        client.infer("linear", [tensor])


def test_requests_that_do_not_wait(server: Server) -> None:
    over_http = http.InferenceServerClient(_address(server, http), concurrency=4)
    calls = [over_http.async_infer("linear", [_input(http, "x", X, "FP32")]) for _ in range(8)]
    for call in calls:
        np.testing.assert_allclose(call.get_result().as_numpy("y"), linear(X), atol=1e-5)
    over_http.close()


@pytest.mark.parametrize("library", [http_aio, grpc_aio], ids=["http", "grpc"])
def test_asyncio(server: Server, library: Any) -> None:
    plain = http if library is http_aio else grpc

    async def main() -> list[Any]:
        async with library.InferenceServerClient(_address(server, library)) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("linear")
            await client.load_model("text")
            tensor = _input(plain, "x", X, "FP32")
            return await asyncio.gather(*(client.infer("linear", [tensor]) for _ in range(8)))

    for answer in asyncio.run(main()):
        np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)


def test_a_unix_socket(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundles" / "linear")
    path = tmp_path / "s"
    with Server(Shelf(tmp_path / "bundles"), rpc=Address(uds=path)):
        client = grpc.InferenceServerClient(f"unix:{path}")
        answer = client.infer("linear", [_input(grpc, "x", X, "FP32")])
        np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)
        client.close()
