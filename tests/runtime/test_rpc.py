"""gRPC, driven by hand-made messages: every method, every refusal, and what stays bounded."""

import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from fakes.bundles import WORDS, codes, linear, make_bundle, make_text_bundle
from skerry.devices.errors import InputError, UnavailableError
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.listen import Access, Address
from skerry.runtime.serve.rpc import open_inference_pb2 as pb
from skerry.runtime.serve.rpc.service import SERVICE
from skerry.runtime.serve.server import Server
from skerry.runtime.shelf import Shelf

X = np.array([[1, 2, 3, 4], [0.5, 0, -1, 2]], np.float32)
LIMITS = ServeLimits(body_bytes=1 << 20, request_s=0.5, drain_s=2)
TIMEOUT_S = 20


class Client:
    """Calls methods by name with bytes or messages."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def call(self, method: str, message: Any, reply: Any = None, **more: Any) -> Any:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        found = self.channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=TIMEOUT_S, **more)
        return reply.FromString(found) if reply is not None else found

    def infer(self, message: Any, **more: Any) -> Any:
        return self.call("ModelInfer", message, pb.ModelInferResponse, **more)

    def refused(self, method: str, message: Any, **more: Any) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.call(method, message, **more)
        return caught.value


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime.open(make_bundle(tmp_path_factory.mktemp("bundle") / "b"))


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> Iterator[Client]:
    with (
        Server(runtime, limits=LIMITS, rpc=Address()) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        yield Client(channel)


def _typed(**changes: Any) -> pb.ModelInferRequest:
    tensor: dict[str, Any] = {
        "name": "x",
        "datatype": "FP32",
        "shape": [2, 4],
        "contents": pb.InferTensorContents(fp32_contents=X.ravel()),
    }
    return pb.ModelInferRequest(model_name="linear", inputs=[tensor | changes])


def _raw(data: bytes = X.tobytes(), **changes: Any) -> pb.ModelInferRequest:
    request = _typed(**({"contents": None} | changes))
    request.raw_input_contents.append(data)
    return request


def test_every_method_answers(client: Client) -> None:
    assert client.call("ServerLive", b"", pb.ServerLiveResponse).live
    assert client.call("ServerReady", b"", pb.ServerReadyResponse).ready
    for name, version, ready in (
        ("linear", "", True),
        ("linear", "1", True),
        ("linear", "9", False),
        ("other", "", False),
    ):
        asked = pb.ModelReadyRequest(name=name, version=version)
        assert client.call("ModelReady", asked, pb.ModelReadyResponse).ready == ready
    metadata = client.call("ServerMetadata", b"", pb.ServerMetadataResponse)
    assert (metadata.name, list(metadata.extensions)) == (
        "skerry",
        ["binary_tensor_data", "model_repository"],
    )
    asked = pb.ModelMetadataRequest(name="linear")
    found = client.call("ModelMetadata", asked, pb.ModelMetadataResponse)
    assert [(one.name, one.datatype, list(one.shape)) for one in found.inputs] == [
        ("x", "FP32", [-1, 4])
    ]
    (one,) = client.call("RepositoryIndex", b"", pb.RepositoryIndexResponse).models
    assert (one.name, one.version, one.state) == ("linear", "1", "READY")


def test_an_inference_is_answered_in_the_form_it_came(client: Client) -> None:
    answer = client.infer(_raw())
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2, 3])
    found = np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(2, 3)
    np.testing.assert_allclose(found, linear(X), atol=1e-5)
    request = _typed()
    request.id = "17"
    request.model_version = "1"
    request.outputs.add(name="y")
    answer = client.infer(request)
    assert (answer.id, answer.model_name, answer.model_version) == ("17", "linear", "1")
    assert answer.parameters["artifact"].string_param == "onnx-fp32"
    assert not answer.raw_output_contents
    np.testing.assert_allclose(
        answer.outputs[0].contents.fp32_contents, linear(X).ravel(), atol=1e-5
    )


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages(client: Client, pack: Any, how: grpc.Compression) -> None:
    assert client.infer(_raw(), compression=how).outputs
    error = client.refused("ModelInfer", pack(b"\0" * (2 << 20)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "unpacks to more than 1048576 bytes" in error.details()
    error = client.refused("ModelInfer", pack(_raw().SerializeToString())[:-3])
    assert "cut off" in error.details()


def _two_inputs(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    request.inputs.append(request.inputs[0])
    return request


def _with(change: Callable[[Any], Any]) -> pb.ModelInferRequest:
    request = _typed()
    change(request)
    return request


@pytest.mark.parametrize(
    ("message", "names"),
    [
        (b"\xff", "message"),
        (b"\x07\x00", "message"),
        (b"\x2a\xff\xff\xff\xff\x0f", "message"),
        (b"\x80" * 40, "message"),
        (b"\x0a\x02\xff\xfe", "message"),
        (b"\x2a\x00" * 5000, "more than 4096 fields"),
        (b"\x2a\xa0\x9c\x01" + b"\x22\x00" * 10_000, "more than 4096 fields"),
        (_typed(name="q"), "input x"),
        (_typed(datatype="FP31"), "input x"),
        (_typed(datatype="FP16"), "raw_input_contents"),
        (_typed(datatype="INT32"), "input x"),
        (_typed(datatype="FP64"), "input x"),
        (_typed(shape=[2, 5]), "input x"),
        (_typed(shape=[-2, -4]), "input x"),
        (_typed(shape=[1 << 62, 1 << 62]), "input x"),
        (_typed(shape=[1] * 40 + [8]), "input x"),
        (_typed(shape=[8]), "input x"),
        (_typed(shape=[0, 1 << 62], contents=None), "input x"),
        (_typed(contents=None), "input x"),
        (_typed(contents=pb.InferTensorContents(fp32_contents=[np.nan] * 8)), "input x"),
        (_typed(contents=pb.InferTensorContents(int_contents=[1] * 8)), "int_contents"),
        (
            _typed(datatype="INT8", contents=pb.InferTensorContents(int_contents=[1000] * 8)),
            "input x",
        ),
        (_two_inputs(_typed()), "input x"),
        (_two_inputs(_raw()), "raw_input_contents"),
        (_raw(X.tobytes()[:-1]), "input x"),
        (_raw(b""), "input x"),
        (_raw(datatype="BYTES"), "input x"),
        (_raw(contents=pb.InferTensorContents(fp32_contents=[1])), "input x"),
        (_raw(np.full((2, 4), np.nan, np.float32).tobytes()), "input x"),
        (_with(lambda r: r.outputs.add(name="q")), "output q"),
        (_with(lambda r: r.parameters["timeout"].__setattr__("string_param", "soon")), "timeout"),
        (_with(lambda r: r.parameters["timeout"].__setattr__("int64_param", -1)), "timeout"),
    ],
    ids=range(32),
)
def test_a_bad_message_is_refused_and_names_the_field(
    client: Client, message: Any, names: str
) -> None:
    error = client.refused("ModelInfer", message)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert names in error.details()
    assert client.infer(_raw()).outputs


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("ModelInfer", pb.ModelInferRequest(model_name="other"), "NOT_FOUND"),
        ("ModelMetadata", pb.ModelMetadataRequest(name="other"), "NOT_FOUND"),
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="other"), "NOT_FOUND"),
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="x"), "NOT_FOUND"),
        (
            "RepositoryModelUnload",
            pb.RepositoryModelUnloadRequest(model_name="linear"),
            "FAILED_PRECONDITION",
        ),
        ("ModelStreamInfer", b"", "UNIMPLEMENTED"),
        ("ModelInfer", b"x" * (2 << 20), "RESOURCE_EXHAUSTED"),
    ],
)
def test_what_cannot_be_is_refused(client: Client, method: str, message: Any, code: str) -> None:
    assert client.refused(method, message).code().name == code


def test_a_named_version_must_be_here(client: Client) -> None:
    request = _raw()
    request.model_version = "9"
    assert client.refused("ModelInfer", request).code() == grpc.StatusCode.NOT_FOUND


def test_a_message_that_does_not_come_ends_the_call(client: Client) -> None:
    """The client holds its call open: others are answered, and it is told after `request_s`."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait(TIMEOUT_S)
        yield from ()

    call = client.channel.stream_unary(f"/{SERVICE}/ModelInfer").future(
        nothing(), timeout=TIMEOUT_S
    )
    assert client.infer(_raw()).outputs
    assert call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive in time" in call.details()
    over.set()


def test_strings_both_ways(tmp_path: Path) -> None:
    runtime = Runtime.open(make_text_bundle(tmp_path / "b"))
    with (
        Server(runtime, rpc=Address(uds=tmp_path / "s")) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        client = Client(channel)
        tensor = {"name": "words", "datatype": "BYTES", "shape": WORDS.shape}
        texts = [word.encode() for word in WORDS.ravel()]
        request = pb.ModelInferRequest(model_name="text", inputs=[tensor])
        request.inputs[0].contents.bytes_contents.extend(texts)
        same, code = client.infer(request).outputs
        assert list(same.contents.bytes_contents) == texts
        assert list(code.contents.fp32_contents) == codes(WORDS).ravel().tolist()
        data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        request = pb.ModelInferRequest(model_name="text", inputs=[tensor])
        request.raw_input_contents.append(data)
        assert client.infer(request).raw_output_contents[0] == data
        for bad in (data[:-1], data[4:], data + b"\0\0\0\0", data.replace(b"sea", b"\xff\xff\xff")):
            request.raw_input_contents[0] = bad
            assert "input words" in client.refused("ModelInfer", request).details()
    assert not (tmp_path / "s").exists()


def test_models_are_loaded_and_unloaded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_bundle(tmp_path / name, model=name)
    with (
        Server(Shelf(tmp_path), rpc=Address()) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        client = Client(channel)

        def ready() -> list[str]:
            asked = pb.RepositoryIndexRequest(ready=True)
            found = client.call("RepositoryIndex", asked, pb.RepositoryIndexResponse)
            return [one.name for one in found.models]

        assert ready() == []
        client.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="b"))
        assert ready() == ["b"]
        client.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="b"))
        assert ready() == []


def test_the_rate_and_deadlines_hold_for_both_protocols(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    limits = ServeLimits(rate=0.001, burst=2)
    with (
        Server(runtime, limits=limits, rpc=Address()) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        client = Client(channel)
        for _ in range(2):
            assert client.infer(_raw()).outputs
        error = client.refused("ModelInfer", _raw())
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        after = dict(error.trailing_metadata())  # type: ignore[attr-defined]
        assert int(after["grpc-retry-pushback-ms"]) > 1000


def test_a_call_ends_at_its_deadline(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    release = runtime.active
    assert release is not None
    release.row_seconds = 1.0
    leave, answer = threading.Event(), release.session.predict

    def predict(*words: Any) -> Any:
        assert leave.wait(TIMEOUT_S)
        return answer(*words)

    release.session.predict = predict  # type: ignore[method-assign]
    with (
        Server(runtime, rpc=Address()) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        client = Client(channel)
        request = _raw()
        request.parameters["timeout"].int64_param = 20_000
        error = client.refused("ModelInfer", request)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.020 s" in error.details()
        leave.set()
        assert client.infer(_raw()).outputs


def test_messages_together_are_bounded(tmp_path: Path) -> None:
    """What waits for an answer counts; what was answered does not any more."""
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    release = runtime.active
    assert release is not None
    release.row_seconds = 1.0
    entered, leave, answer = threading.Event(), threading.Event(), release.session.predict

    def predict(*words: Any) -> Any:
        entered.set()
        assert leave.wait(TIMEOUT_S)
        return answer(*words)

    release.session.predict = predict  # type: ignore[method-assign]
    size = len(_raw().SerializeToString())
    limits = ServeLimits(messages_bytes=2 * size - 1)
    with (
        Server(runtime, limits=limits, rpc=Address()) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        client = Client(channel)
        held = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(_raw().SerializeToString())
        assert entered.wait(TIMEOUT_S)
        error = client.refused("ModelInfer", _raw())
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at once" in error.details()
        assert client.call("ServerLive", b"", pb.ServerLiveResponse).live
        leave.set()
        assert pb.ModelInferResponse.FromString(held.result(TIMEOUT_S)).outputs
        assert client.infer(_raw()).outputs


def test_a_token_is_asked_for(runtime: Runtime) -> None:
    access = Access(token="a token of some length")
    with (
        Server(runtime, access=access, rpc=Address()) as server,
        grpc.insecure_channel(server.rpc_address) as channel,
    ):
        client = Client(channel)
        assert client.call("ServerLive", b"", pb.ServerLiveResponse).live
        for metadata in ((), (("authorization", "Bearer another token"),)):
            error = client.refused("ModelInfer", _raw(), metadata=metadata)
            assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        right = (("authorization", "Bearer a token of some length"),)
        assert client.infer(_raw(), metadata=right).outputs


def test_an_address_that_cannot_be_had(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beyond this machine"):
        Server(runtime, rpc=Address("0.0.0.0"))
    with Server(runtime, rpc=Address()) as first:
        port = int(first.rpc_address.rpartition(":")[2])
        second = Server(runtime, rpc=Address(port=port))
        with pytest.raises(UnavailableError, match="cannot listen"):
            second.start()
    path = tmp_path / "s"
    with Server(runtime, rpc=Address(uds=path)):
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(UnavailableError, match="in use"):
            Server(runtime, rpc=Address(uds=path)).start()


def test_a_successor_keeps_its_sockets_when_the_one_before_has_drained(tmp_path: Path) -> None:
    runtime = Runtime.open(make_bundle(tmp_path / "b"))
    release = runtime.active
    assert release is not None
    release.row_seconds = 1.0
    entered, leave, answer = threading.Event(), threading.Event(), release.session.predict

    def held(*words: Any) -> Any:
        entered.set()
        assert leave.wait(20)
        return answer(*words)

    release.session.predict = held  # type: ignore[method-assign]
    paths = (tmp_path / "rest", tmp_path / "rpc")
    first = Server(runtime, uds=paths[0], rpc=Address(uds=paths[1]))
    first.start()
    with grpc.insecure_channel(first.rpc_address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(
            _raw().SerializeToString(), timeout=TIMEOUT_S
        )
        assert entered.wait(20)
        ending = threading.Thread(target=first.stop)
        ending.start()
        while any(_answers(path) for path in paths):
            ending.join(0.01)
        with Server(runtime, uds=paths[0], rpc=Address(uds=paths[1])):
            assert ending.is_alive()
            leave.set()
            ending.join()
            assert pb.ModelInferResponse.FromString(call.result(TIMEOUT_S)).outputs
            assert all(_answers(path) for path in paths)
    assert not any(path.exists() for path in paths)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_messages_are_those_of_an_outside_client() -> None:
    """Field by field as tritonclient has them: number, type, whether repeated."""
    outside = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR

    def check(ours: Any, theirs: Any) -> int:
        count = 0
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type) == (other.number, other.type), field.full_name
            assert field.is_repeated == other.is_repeated, field.full_name
            count += 1
        for nested in ours.nested_types:
            count += check(nested, theirs.nested_types_by_name[nested.name])
        return count

    messages = pb.DESCRIPTOR.message_types_by_name
    counts = [check(one, outside.message_types_by_name[name]) for name, one in messages.items()]
    assert len(counts) == 21
    assert sum(counts) > 60
