"""An outside client of the protocol, unmodified."""

from collections.abc import Iterator

import numpy as np
import pytest

from fakes.bundles import linear, make_bundle
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.server import Server

client_library = pytest.importorskip("tritonclient.http")
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    runtime = Runtime.open(make_bundle(tmp_path_factory.mktemp("bundle") / "b"))
    with Server(runtime) as server:
        client = client_library.InferenceServerClient(server.address.removeprefix("http://"))
        yield client
        client.close()


def test_health_and_metadata(client: object) -> None:
    assert client.is_server_live()  # type: ignore[attr-defined]
    assert client.is_server_ready()  # type: ignore[attr-defined]
    assert client.is_model_ready("linear")  # type: ignore[attr-defined]
    assert client.is_model_ready("linear", "1")  # type: ignore[attr-defined]
    assert not client.is_model_ready("other")  # type: ignore[attr-defined]
    assert client.get_server_metadata()["name"] == "skerry"  # type: ignore[attr-defined]
    metadata = client.get_model_metadata("linear")  # type: ignore[attr-defined]
    assert metadata["inputs"][0]["datatype"] == "FP32"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
def test_inference(client: object, binary_in: bool, binary_out: bool, packed: str | None) -> None:
    tensor = client_library.InferInput("x", X.shape, "FP32")
    tensor.set_data_from_numpy(X, binary_data=binary_in)
    answer = client.infer(  # type: ignore[attr-defined]
        "linear",
        [tensor],
        model_version="1",
        outputs=[client_library.InferRequestedOutput("y", binary_data=binary_out)],
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
        request_id="17",
        timeout=5_000_000,
    )
    np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)
    assert answer.get_response()["id"] == "17"


def test_without_outputs_the_client_asks_for_all_as_binary(client: object) -> None:
    tensor = client_library.InferInput("x", X.shape, "FP32")
    tensor.set_data_from_numpy(X)
    answer = client.infer("linear", [tensor])  # type: ignore[attr-defined]
    np.testing.assert_allclose(answer.as_numpy("y"), linear(X), atol=1e-5)


def test_an_error_is_the_clients_own_exception(client: object) -> None:
    from tritonclient.utils import InferenceServerException

    tensor = client_library.InferInput("x", [5, 3], "FP32")
    tensor.set_data_from_numpy(X[:, :3].copy())
    with pytest.raises(InferenceServerException, match="input x: has shape"):
        client.infer("linear", [tensor])  # type: ignore[attr-defined]
