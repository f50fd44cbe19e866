"""Tensors as the Open Inference Protocol v2 writes them: in JSON, or as bytes after it.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and the
binary tensor data extension: little-endian, row-major, in the order of the tensors that announce a
`binary_data_size`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.devices.errors import SignatureMismatch
from skerry.runtime.engine.base import Arrays

__all__ = [
    "DATATYPES",
    "InferRequest",
    "InferResponse",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "decode_request",
    "input_arrays",
    "output_tensors",
]

DATATYPES = {
    "bool": "BOOL",
    **{
        f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32)
    },
    "int64": "INT64",
    "uint64": "UINT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_DTYPES = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
_DATATYPE_OF = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_LARGEST_RANK = 16


class RequestInput(msgspec.Struct, frozen=True, gc=False):
    """An input of a request. `data` is a JSON array, flat in row-major order or nested."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: msgspec.Raw = msgspec.Raw(b"")
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


def input_arrays(request: InferRequest, binary: bytes | memoryview = b"") -> Arrays:
    """The inputs of a request as arrays, by name.

    Args:
        binary: what follows the JSON. The arrays may be views of it.

    Raises:
        SignatureMismatch: an input contradicts itself or the bytes; names it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for tensor in request.inputs:
        if tensor.name in arrays:
            raise SignatureMismatch("is given twice", where=_where(tensor))
        size = None if tensor.parameters is None else tensor.parameters.get("binary_data_size")
        if size is None:
            arrays[tensor.name] = _array(tensor)
        else:
            arrays[tensor.name] = _view(tensor, binary, offset, size)
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
        datatype, data, parameters = _DATATYPE_OF[array.dtype], None, None
        if binary(name):
            parts.append(array.tobytes())
            parameters = {"binary_data_size": array.nbytes}
        else:
            data = array.ravel().tolist()
        tensors.append(ResponseOutput(name, datatype, array.shape, data, parameters))
    return tuple(tensors), parts


def _dtype(tensor: RequestInput) -> np.dtype[Any]:
    """The dtype a tensor claims.

    Raises:
        SignatureMismatch: no such datatype, or a shape that none can have.
    """
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        known = ", ".join(_DTYPES)
        raise SignatureMismatch(
            f"datatype {tensor.datatype[:40]!r} is not known",
            where=_where(tensor),
            remedy=f"use one of {known}",
        )
    if len(tensor.shape) > _LARGEST_RANK or any(length < 0 for length in tensor.shape):
        raise SignatureMismatch("shape is impossible", where=_where(tensor))
    return dtype


def _view(
    tensor: RequestInput, binary: bytes | memoryview, offset: int, size: object
) -> NDArray[Any]:
    dtype = _dtype(tensor)
    wanted = math.prod(tensor.shape) * dtype.itemsize
    if type(size) is not int or size != wanted:
        raise SignatureMismatch(
            f"binary_data_size {str(size)[:40]} where shape and datatype say {wanted}",
            where=_where(tensor),
        )
    if offset + size > len(binary):
        raise SignatureMismatch(
            f"{len(binary) - offset} bytes are left of the {size} announced", where=_where(tensor)
        )
    flat = np.frombuffer(binary, dtype, math.prod(tensor.shape), offset)
    if dtype.kind == "b" and flat.view(np.uint8).max(initial=0) > 1:
        raise SignatureMismatch("a byte of a BOOL is neither 0 nor 1", where=_where(tensor))
    return (flat if flat.flags.aligned else flat.copy()).reshape(tensor.shape)


def _array(tensor: RequestInput) -> NDArray[Any]:
    dtype = _dtype(tensor)
    values = _values(tensor, dtype)
    if len(values) != math.prod(tensor.shape):
        raise SignatureMismatch(
            f"has {len(values)} values where shape {list(tensor.shape)} says "
            f"{math.prod(tensor.shape)}",
            where=_where(tensor),
        )
    try:
        return np.array(values, dtype).reshape(tensor.shape)
    except (OverflowError, TypeError, ValueError) as error:
        raise SignatureMismatch(
            f"a value is no {tensor.datatype}: {error}", where=_where(tensor)
        ) from error


def _values(tensor: RequestInput, dtype: np.dtype[Any]) -> Sequence[Any]:
    """The data as a flat list."""
    decoder = _FLAT[dtype.kind]
    try:
        return decoder.decode(tensor.data)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        try:
            nested = _NESTED.decode(tensor.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            nested = []
        if not nested or not isinstance(nested[0], list):
            raise SignatureMismatch(
                f"data does not hold {tensor.datatype}: {error}", where=_where(tensor)
            ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureMismatch(f"data is no array: {error}", where=_where(tensor)) from error
    try:
        flat = _flatten(nested, tensor.shape)
        return decoder.decode(msgspec.json.encode(flat))  # type: ignore[no-any-return]
    except (msgspec.ValidationError, ValueError) as error:
        raise SignatureMismatch(
            f"data does not nest as shape {list(tensor.shape)} says: {error}", where=_where(tensor)
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


def _where(tensor: RequestInput) -> str:
    return f"input {tensor.name[:80]}"
