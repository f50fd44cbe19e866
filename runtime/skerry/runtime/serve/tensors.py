"""Tensors as the Open Inference Protocol v2 writes them: in JSON, or as bytes after it.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and the
binary tensor data extension: little-endian, row-major, in the order of the tensors that announce a
`binary_data_size`. A string is a JSON string.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import SignatureMismatch
from skerry.runtime.engine.base import Arrays
from skerry.runtime.serve.elements import (
    DATATYPES,
    datatype_of,
    dtype_of,
    from_bytes,
    from_values,
    to_bytes,
    where_of,
)

__all__ = [
    "InferRequest",
    "InferResponse",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "decode_request",
    "input_arrays",
    "output_tensors",
]


# What is said of these fields here is for readers of the OpenAPI document: it is checked where an
# error can name the input.
_DATATYPE = msgspec.Meta(extra_json_schema={"enum": list(DATATYPES.values())})
_LENGTH = msgspec.Meta(extra_json_schema={"minimum": 0})
_DATA = msgspec.Meta(
    description="flat in row-major order, or nested",
    extra_json_schema={"type": "array", "items": {}},
)


class RequestInput(msgspec.Struct, frozen=True, gc=False):
    """An input of a request. Without `data` its bytes follow the JSON: `binary_data_size`."""

    name: str
    shape: tuple[Annotated[int, _LENGTH], ...]
    datatype: Annotated[str, _DATATYPE]
    data: Annotated[msgspec.Raw, _DATA] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class RequestOutput(msgspec.Struct, frozen=True, gc=False):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, frozen=True, gc=False):
    """A request to infer."""

    inputs: tuple[RequestInput, ...]
    id: str | None = None
    outputs: tuple[RequestOutput, ...] | None = None
    parameters: dict[str, Any] | None = None

    def output_names(self) -> tuple[str, ...] | None:
        """The outputs asked for, or None for all."""
        return tuple(output.name for output in self.outputs) if self.outputs else None


class ResponseOutput(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An output of a response."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferResponse(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A response: the model, its version and the artifact that answered, and the outputs."""

    model_name: str
    model_version: str
    outputs: tuple[ResponseOutput, ...]
    parameters: dict[str, Any]
    id: str | None = None


_REQUEST = msgspec.json.Decoder(InferRequest)
_FLAT: dict[str, msgspec.json.Decoder[Any]] = {
    "b": msgspec.json.Decoder(list[bool]),
    "i": msgspec.json.Decoder(list[int]),
    "u": msgspec.json.Decoder(list[int]),
    "f": msgspec.json.Decoder(list[float]),
    "U": msgspec.json.Decoder(list[str]),
}
_NESTED = msgspec.json.Decoder(list[Any])


def decode_request(body: bytes | memoryview) -> InferRequest:
    """Read the JSON of a request.

    Raises:
        SignatureMismatch: it is not a request; names the field.
    """
    try:
        return _REQUEST.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureMismatch(f"not an inference request: {error}", where="body") from error


def input_arrays(
    request: InferRequest, binary: bytes | memoryview = b"", *, text_bytes: int
) -> Arrays:
    """The inputs of a request as arrays, by name.

    Args:
        binary: what follows the JSON. The arrays may be views of it.
        text_bytes: the most memory that a tensor of strings may take.

    Raises:
        SignatureMismatch: an input contradicts itself or the bytes; names it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for tensor in request.inputs:
        if tensor.name in arrays:
            raise SignatureMismatch("is given twice", where=where_of(tensor.name))
        size = None if tensor.parameters is None else tensor.parameters.get("binary_data_size")
        if size is None:
            arrays[tensor.name] = _array(tensor, text_bytes)
        else:
            arrays[tensor.name] = _view(tensor, memoryview(binary), offset, size, text_bytes)
            offset += size
    if offset != len(binary):
        raise SignatureMismatch(
            f"{len(binary)} bytes follow the JSON where the inputs announce {offset}", where="body"
        )
    return arrays


def output_tensors(
    outputs: Arrays, binary: Callable[[str], bool]
) -> tuple[tuple[ResponseOutput, ...], list[bytes]]:
    """Outputs as tensors of a response, and the bytes of those for which `binary` holds."""
    tensors, parts = [], []
    for name, array in outputs.items():
        datatype, data, parameters = datatype_of(array), None, None
        if binary(name):
            parts.append(to_bytes(array))
            parameters = {"binary_data_size": len(parts[-1])}
        else:
            data = array.ravel().tolist()
        tensors.append(ResponseOutput(name, datatype, array.shape, data, parameters))
    return tuple(tensors), parts


def _view(
    tensor: RequestInput, data: memoryview, offset: int, size: object, text_bytes: int
) -> NDArray[Any]:
    dtype = dtype_of(tensor.name, tensor.datatype, tensor.shape)
    if type(size) is not int or size < 0:
        raise SignatureMismatch(
            f"binary_data_size {str(size)[:40]} is no size", where=where_of(tensor.name)
        )
    if offset + size > len(data):
        raise SignatureMismatch(
            f"{len(data) - offset} bytes are left of the {size} announced",
            where=where_of(tensor.name),
        )
    return from_bytes(tensor.name, dtype, tensor.shape, data[offset : offset + size], text_bytes)


def _array(tensor: RequestInput, text_bytes: int) -> NDArray[Any]:
    dtype = dtype_of(tensor.name, tensor.datatype, tensor.shape)
    return from_values(tensor.name, dtype, tensor.shape, _values(tensor, dtype), text_bytes)


def _values(tensor: RequestInput, dtype: np.dtype[Any]) -> Sequence[Any]:
    """The data as a flat list."""
    if tensor.data is msgspec.UNSET:
        raise SignatureMismatch(
            "has neither data nor a binary_data_size", where=where_of(tensor.name)
        )
    decoder = _FLAT[dtype.kind]
    try:
        return decoder.decode(tensor.data)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        return _nested_values(tensor, tensor.data, decoder, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureMismatch(
            f"data is no array: {error}", where=where_of(tensor.name)
        ) from error


def _nested_values(
    tensor: RequestInput,
    data: msgspec.Raw,
    decoder: msgspec.json.Decoder[Any],
    refusal: msgspec.ValidationError,
) -> Sequence[Any]:
    """The data as a flat list, where they were refused as one: they may be nested."""
    where = where_of(tensor.name)
    try:
        nested = _NESTED.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        nested = []
    if not nested or not isinstance(nested[0], list):
        raise SignatureMismatch(
            f"data does not hold {tensor.datatype}: {refusal}", where=where
        ) from refusal
    try:
        flat = _flatten(nested, tensor.shape)
        return decoder.decode(msgspec.json.encode(flat))  # type: ignore[no-any-return]
    except (msgspec.ValidationError, ValueError) as error:
        raise SignatureMismatch(
            f"data does not nest as shape {list(tensor.shape)} says: {error}",
            where=where,
        ) from error


def _flatten(nested: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """Nested lists of exactly `shape` as one flat list.

    Raises:
        ValueError: a list has another length.
    """
    level: list[Any] = [nested]
    for depth, length in enumerate(shape):
        for item in level:
            if not isinstance(item, list) or len(item) != length:
                raise ValueError(f"axis {depth} is not {length} long everywhere")
        level = [value for item in level for value in item]
    return level
