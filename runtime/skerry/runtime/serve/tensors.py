"""Tensors as the Open Inference Protocol v2 writes them in JSON.

https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    except msgspec.DecodeError as error:
        raise SignatureMismatch(f"not an inference request: {error}", where="body") from error
    except RecursionError as error:
        raise SignatureMismatch("nested too deeply", where="body") from error


def input_arrays(request: InferRequest) -> dict[str, NDArray[Any]]:
    """The inputs of a request as arrays, by name.

    Raises:
        SignatureMismatch: an input contradicts itself; names it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in request.inputs:
        if tensor.name in arrays:
            raise SignatureMismatch("is given twice", where=_where(tensor))
        arrays[tensor.name] = _array(tensor)
    return arrays


def output_tensors(outputs: Arrays) -> tuple[ResponseOutput, ...]:
    """Outputs as JSON tensors: flat data in row-major order."""
    return tuple(
        ResponseOutput(name, DATATYPES[array.dtype.name], array.shape, array.ravel().tolist())
        for name, array in outputs.items()
    )


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
        except (msgspec.DecodeError, RecursionError):
            nested = []
        if not nested or not isinstance(nested[0], list):
            raise SignatureMismatch(
                f"data does not hold {tensor.datatype}: {error}", where=_where(tensor)
            ) from error
    except (msgspec.DecodeError, RecursionError) as error:
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
