"""Strings over REST, as JSON and as bytes."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.bundles import WORDS, codes, make_text_bundle
from skerry.devices.errors import SignatureMismatch
from skerry.runtime.runtime import Runtime
from skerry.runtime.serve.elements import dtype_of, from_bytes, from_strings, to_bytes
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.server import Server

LENGTH = "inference-header-content-length"
TEXT = dtype_of("x", "BYTES", ())
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runtime = Runtime.open(make_text_bundle(tmp_path_factory.mktemp("bundle") / "b"))
    with Server(runtime, limits=ServeLimits(text_bytes=1 << 20)) as server:
        yield server.address.removeprefix("http://")


def _post(
    host: str, body: bytes, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("POST", "/v2/models/text/infer", body, headers or {})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, data


def _body(shape: Any = WORDS.shape, **more: Any) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "words", "shape": shape, "datatype": "BYTES"} | more]}
    ).encode()


@pytest.mark.parametrize("data", [WORDS.ravel().tolist(), WORDS.tolist()])
def test_as_json(host: str, data: Any) -> None:
    status, _, answer = _post(host, _body(data=data))
    assert status == 200, answer
    same, code = json.loads(answer)["outputs"]
    assert (same["datatype"], same["shape"]) == ("BYTES", [3, 2])
    assert same["data"] == WORDS.ravel().tolist()
    assert code["data"] == codes(WORDS).ravel().tolist()


def test_as_bytes(host: str) -> None:
    data = to_bytes(WORDS)
    wanted = {"parameters": {"binary_data_output": True}}
    head = json.loads(_body(parameters={"binary_data_size": len(data)})) | wanted
    text = json.dumps(head).encode()
    status, headers, answer = _post(host, text + data, {LENGTH: str(len(text))})
    assert status == 200, answer
    split = int(headers[LENGTH])
    sizes = [one["parameters"]["binary_data_size"] for one in json.loads(answer[:split])["outputs"]]
    assert sizes == [len(data), 24]
    assert answer[split : split + len(data)] == data


@pytest.mark.parametrize(
    "body",
    [
        _body(data=[1, 2, 3, 4, 5, 6]),
        _body(data=["a"]),
        _body(data=[["a", "b"], ["c"]]),
        _body(data=["a\0"] * 6),
        _body(data=["x"] * 5 + ["x" * 60_000]),
        _body().replace(b"}]", b', "data": ["\\ud800", "", "", "", "", ""]}]'),
    ],
    ids=["numbers", "few", "ragged", "NUL", "long", "surrogate"],
)
def test_bad_text_is_refused_by_name(host: str, body: bytes) -> None:
    status, _, answer = _post(host, body)
    assert status == 400
    error = json.loads(answer)["error"]
    assert "input words" in error or error.startswith("body: ")


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_strings_survive_as_bytes(texts: list[str]) -> None:
    data = to_bytes(from_strings("x", (len(texts),), texts, 1 << 20))
    found = from_bytes("x", TEXT, (len(texts),), memoryview(data), 1 << 20)
    assert found.tolist() == texts


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(data: bytes, count: int) -> None:
    try:
        found = from_bytes("x", TEXT, (count,), memoryview(data), 1 << 20)
    except SignatureMismatch as error:
        assert error.where == "input x"
    else:
        assert to_bytes(found) == data


def test_a_tensor_of_no_elements_may_not_have_an_absurd_axis() -> None:
    dtype = np.dtype(np.float32)
    assert from_bytes("x", dtype, (0, 4), memoryview(b""), 0).shape == (0, 4)
    for shape in ((0, 1 << 62, 1 << 62), (0, 1 << 70)):
        with pytest.raises(SignatureMismatch, match="impossible"):
            from_bytes("x", dtype, shape, memoryview(b""), 0)
