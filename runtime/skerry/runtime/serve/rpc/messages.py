"""One inference over gRPC: from a message to a call, and from its answer to a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from skerry.devices.errors import SignatureMismatch
from skerry.runtime.engine.base import Arrays
from skerry.runtime.runtime import Answer
from skerry.runtime.serve.calls import Call
from skerry.runtime.serve.elements import (
    datatype_of,
    dtype_of,
    from_bytes,
    from_values,
    to_bytes,
    where_of,
)
from skerry.runtime.serve.limits import ServeLimits
from skerry.runtime.serve.rpc.open_inference_pb2 import (
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)

__all__ = ["CONTENTS", "RpcCall", "read_call", "write_answer"]

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


class RpcCall(NamedTuple):
    """A call, and in what form it wants its answer.

    Attributes:
        raw: whether tensors come and go as bytes, or as lists of numbers.
    """

    call: Call
    id: str
    raw: bool


def read_call(data: bytes, limits: ServeLimits) -> RpcCall:
    """Read an inference request.

    Raises:
        SignatureMismatch: it is none, or contradicts itself; names the field.
    """
    try:
        request = ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise SignatureMismatch("is no ModelInferRequest", where="message") from error
    call = Call(
        request.model_name,
        request.model_version or None,
        _input_arrays(request, limits.text_bytes),
        tuple(output.name for output in request.outputs) or None,
        _timeout(request.parameters),
    )
    raw = bool(request.raw_input_contents) or not request.inputs
    return RpcCall(call, request.id, raw)


def write_answer(asked: RpcCall, answer: Answer) -> bytes:
    """The response to a call, in the form it asked for."""
    card = answer.release.card
    response = ModelInferResponse(model_name=card.model, model_version=card.version, id=asked.id)
    response.parameters["artifact"].string_param = answer.release.artifact.name
    if answer.fallback is not None:
        response.parameters["fallback"].string_param = answer.fallback
    outputs = answer.outputs
    raw = asked.raw or any(datatype_of(array) not in CONTENTS for array in outputs.values())
    for name, array in outputs.items():
        tensor = response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        if raw:
            response.raw_output_contents.append(to_bytes(array))
        else:
            _fill(tensor.contents, array)
    encoded: bytes = response.SerializeToString()
    return encoded


def _input_arrays(request: ModelInferRequest, text_bytes: int) -> Arrays:
    """The inputs as arrays, by name: views of the raw contents where there are such."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise SignatureMismatch(
            f"{len(raw)} of them where there are {len(request.inputs)} inputs",
            where="raw_input_contents",
        )
    arrays: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        name, shape = tensor.name, tuple(tensor.shape)
        if name in arrays:
            raise SignatureMismatch("is given twice", where=where_of(name))
        dtype = dtype_of(name, tensor.datatype, shape)
        if not raw:
            values = _values(name, tensor.datatype, tensor.contents)
            arrays[name] = from_values(name, dtype, shape, values, text_bytes)
        elif tensor.HasField("contents"):
            raise SignatureMismatch("has contents beside the raw ones", where=where_of(name))
        else:
            arrays[name] = from_bytes(name, dtype, shape, memoryview(raw[index]), text_bytes)
    return arrays


def _values(name: str, datatype: str, contents: InferTensorContents) -> list[Any]:
    """The contents as a flat list of what the datatype's tensors hold."""
    field = CONTENTS.get(datatype)
    if field is None:
        raise SignatureMismatch(
            f"{datatype} has no contents", where=where_of(name), remedy="use raw_input_contents"
        )
    for found, _ in contents.ListFields():
        if found.name != field:
            raise SignatureMismatch(
                f"has {found.name} where {datatype} has {field}", where=where_of(name)
            )
    values = list(getattr(contents, field))
    if datatype != "BYTES":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise SignatureMismatch("a string is not UTF-8", where=where_of(name)) from error


def _fill(contents: InferTensorContents, array: NDArray[Any]) -> None:
    values = array.ravel().tolist()
    if array.dtype.kind == "U":
        values = [text.encode() for text in values]
    getattr(contents, CONTENTS[datatype_of(array)]).extend(values)


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """The parameter `timeout`, microseconds, as seconds."""
    if "timeout" not in parameters:
        return None
    parameter = parameters["timeout"]
    value = getattr(parameter, parameter.WhichOneof("parameter_choice") or "", None)
    if type(value) is not int or value <= 0:
        raise SignatureMismatch("is no number of microseconds", where="parameters.timeout")
    return value / 1e6
