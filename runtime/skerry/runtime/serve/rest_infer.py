"""One inference over HTTP: from a request to a call, and from its answer to a reply."""

from __future__ import annotations

import math
import zlib
from typing import Any, NamedTuple

import msgspec

from skerry.devices.errors import SignatureMismatch, UnsupportedError
from skerry.runtime.runtime import Answer
from skerry.runtime.serve.calls import Call
from skerry.runtime.serve.http1 import JSON, Reply, Request
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.tensors import (
    InferRequest,
    InferResponse,
    ResponseOutput,
    decode_request,
    input_arrays,
    output_tensors,
)

__all__ = ["RestCall", "read_call", "write_answer"]

_HEADER_LENGTH = b"inference-header-content-length"
_OCTETS = b"application/octet-stream"
_COMPRESS_BYTES = 8192
_LEVEL = 1
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_encode = msgspec.json.Encoder().encode


class RestCall(NamedTuple):
    """A call, and in what form it wants its answer.

    Attributes:
        gzip: whether the client takes a compressed reply.
    """

    call: Call
    request: InferRequest
    gzip: bool


def read_call(request: Request, model: str, version: str | None, limits: ServeLimits) -> RestCall:
    """Read an inference request, its JSON and what follows it.

    Raises:
        SignatureMismatch: it contradicts itself; names the field.
    """
    headers = request.headers
    body: bytes | memoryview = request.body
    if (encoding := headers.get(b"content-encoding")) is not None:
        body = _unpacked(request.body, encoding, limits.body_bytes)
    binary: bytes | memoryview = b""
    if (text := headers.get(_HEADER_LENGTH)) is not None:
        if not text.isdigit() or len(text) > 12 or int(text) > len(body):
            raise SignatureMismatch("is no length within the body", where=_HEADER_LENGTH.decode())
        whole = memoryview(body)
        body, binary = whole[: int(text)], whole[int(text) :]
    decoded = decode_request(body)
    call = Call(
        model,
        version,
        input_arrays(decoded, binary, text_bytes=limits.text_bytes),
        decoded.output_names(),
        None if decoded.parameters is None else _timeout(decoded.parameters),
    )
    return RestCall(call, decoded, b"gzip" in headers.get(b"accept-encoding", b""))


def write_answer(call: RestCall, answer: Answer) -> Reply:
    """The reply to `call`, in the form it asked for.

    Raises:
        UnsupportedError: an output that was not asked for as bytes is not finite.
    """
    request, card = call.request, answer.release.card
    if request.parameters is None and request.outputs is None:
        tensors, parts = output_tensors(answer.outputs, _never)
    else:
        tensors, parts = output_tensors(answer.outputs, lambda name: _is_binary(request, name))
    parameters = {"artifact": answer.release.artifact.name}
    if answer.fallback is not None:
        parameters["fallback"] = answer.fallback
    response = InferResponse(card.model, card.version, tensors, parameters, request.id)
    document = _encode(response)
    if document.find(b"null") >= 0:  # what JSON has for a value that is not finite; or a name
        _check_finite(tensors)
    if parts:
        length = (_HEADER_LENGTH, str(len(document)).encode())
        return Reply(200, b"".join([document, *parts]), _OCTETS, (length,))
    if call.gzip and len(document) >= _COMPRESS_BYTES:
        packed = zlib.compress(document, _LEVEL, wbits=31)
        return Reply(200, packed, JSON, ((b"content-encoding", b"gzip"),))
    return Reply(200, document)


def _check_finite(tensors: tuple[ResponseOutput, ...]) -> None:
    for tensor in tensors:
        if tensor.datatype in _FLOATS and not all(map(math.isfinite, tensor.data or ())):
            raise UnsupportedError(
                "holds a value that is not finite, which JSON cannot tell",
                where=f"output {tensor.name}",
                remedy="ask for it with the parameter binary_data",
            )


def _never(name: str) -> bool:  # noqa: ARG001 - the form of a choice by name
    return False


def _is_binary(request: InferRequest, name: str) -> bool:
    """Whether the client wants output `name` as bytes."""
    for output in request.outputs or ():
        if output.name == name and output.parameters and "binary_data" in output.parameters:
            return output.parameters["binary_data"] is True
    parameters = request.parameters or {}
    return parameters.get("binary_data_output") is True


def _timeout(parameters: dict[str, Any]) -> float | None:
    """The parameter `timeout`, microseconds, as seconds."""
    value = parameters.get("timeout")
    if value is None:
        return None
    if type(value) is not int or value <= 0:
        raise SignatureMismatch("is no number of microseconds", where="parameters.timeout")
    return value / 1e6


def _unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its gzip or deflate wrapping, of which no more than `limit` is unpacked."""
    encoding = encoding.strip().lower()
    if encoding == b"identity":
        return body
    if encoding not in {b"gzip", b"deflate"}:
        raise SignatureMismatch(
            f"{encoding[:40]!r} is not known", where="content-encoding", remedy="use gzip"
        )
    unpacker = zlib.decompressobj(wbits=47)
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise SignatureMismatch(f"not {encoding.decode()}: {error}", where="body") from error
    if len(data) > limit:
        raise SignatureMismatch(f"unpacks to more than {limit} bytes", where="body")
    if not unpacker.eof:
        raise SignatureMismatch("the compressed data is cut off", where="body")
    return data
