"""ONNX element types as torch and numpy know them. Integers below eight bits are carried in int8 or
uint8, one element each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor

from skerry.devices.errors import UnsupportedError

__all__ = ["BY_NUMBER", "ElementType", "element_type", "from_numpy", "to_numpy"]


@dataclass(frozen=True, slots=True)
class ElementType:
    """One element type.

    Attributes:
        name: as ONNX spells it, in lower case.
        torch: the dtype values are computed in.
        numpy: the dtype `onnx.numpy_helper` reads it as.
        bits: the width of an integer below eight bits; 0 for every other type.
    """

    name: str
    torch: torch.dtype
    numpy: np.dtype[Any]
    bits: int = 0


def _type(name: str, kind: torch.dtype, numpy: Any, bits: int = 0) -> ElementType:
    return ElementType(name, kind, np.dtype(numpy), bits)


BY_NUMBER: dict[int, ElementType] = {
    TensorProto.BFLOAT16: _type("bfloat16", torch.bfloat16, ml_dtypes.bfloat16),
    TensorProto.BOOL: _type("bool", torch.bool, np.bool_),
    TensorProto.COMPLEX64: _type("complex64", torch.complex64, np.complex64),
    TensorProto.COMPLEX128: _type("complex128", torch.complex128, np.complex128),
    TensorProto.DOUBLE: _type("double", torch.float64, np.float64),
    TensorProto.FLOAT: _type("float", torch.float32, np.float32),
    TensorProto.FLOAT16: _type("float16", torch.float16, np.float16),
    TensorProto.FLOAT8E4M3FN: _type("float8e4m3fn", torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
    TensorProto.FLOAT8E4M3FNUZ: _type(
        "float8e4m3fnuz", torch.float8_e4m3fnuz, ml_dtypes.float8_e4m3fnuz
    ),
    TensorProto.FLOAT8E5M2: _type("float8e5m2", torch.float8_e5m2, ml_dtypes.float8_e5m2),
    TensorProto.FLOAT8E5M2FNUZ: _type(
        "float8e5m2fnuz", torch.float8_e5m2fnuz, ml_dtypes.float8_e5m2fnuz
    ),
    TensorProto.INT8: _type("int8", torch.int8, np.int8),
    TensorProto.INT16: _type("int16", torch.int16, np.int16),
    TensorProto.INT32: _type("int32", torch.int32, np.int32),
    TensorProto.INT64: _type("int64", torch.int64, np.int64),
    TensorProto.INT4: _type("int4", torch.int8, ml_dtypes.int4, 4),
    TensorProto.INT2: _type("int2", torch.int8, ml_dtypes.int2, 2),
    TensorProto.UINT8: _type("uint8", torch.uint8, np.uint8),
    TensorProto.UINT16: _type("uint16", torch.uint16, np.uint16),
    TensorProto.UINT32: _type("uint32", torch.uint32, np.uint32),
    TensorProto.UINT64: _type("uint64", torch.uint64, np.uint64),
    TensorProto.UINT4: _type("uint4", torch.uint8, ml_dtypes.uint4, 4),
    TensorProto.UINT2: _type("uint2", torch.uint8, ml_dtypes.uint2, 2),
}
_BY_NUMPY = {kind.numpy: kind for kind in BY_NUMBER.values()}
_SAME_WIDTH = {1: (np.uint8, torch.uint8), 2: (np.int16, torch.int16)}


def element_type(number: int, where: str) -> ElementType:
    """The element type with the enum value `number`.

    Raises:
        UnsupportedError: one that is not computed with here.
    """
    found = BY_NUMBER.get(number)
    if found is None:
        try:
            name = TensorProto.DataType.Name(number)
        except ValueError:
            name = str(number)
        raise UnsupportedError(f"the element type {name} is not supported", where=where)
    return found


def from_numpy(array: NDArray[Any]) -> Tensor:
    """A tensor with its own memory; numpy dtypes that torch does not read go over their bits."""
    kind = _BY_NUMPY.get(array.dtype)
    if kind is None:
        raise UnsupportedError(f"the element type {array.dtype} is not supported")
    if kind.bits:
        return torch.from_numpy(array.astype(np.int8 if kind.name[0] == "i" else np.uint8))
    native = np.array(array, order="C")
    if native.dtype.kind == "V" or native.dtype.type.__module__ == "ml_dtypes":
        as_numpy, as_torch = _SAME_WIDTH[native.dtype.itemsize]
        bits = torch.from_numpy(native.view(as_numpy))
        return bits.view(as_torch).view(kind.torch)
    return torch.from_numpy(native)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """An array; torch dtypes that numpy lacks become those of `ml_dtypes`."""
    detached = tensor.detach().cpu().contiguous()
    if detached.dtype == torch.bfloat16:
        return detached.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if detached.dtype.itemsize == 1 and detached.dtype.is_floating_point:
        (kind,) = (kind for kind in BY_NUMBER.values() if kind.torch == detached.dtype)
        return detached.view(torch.uint8).numpy().view(kind.numpy)
    return detached.numpy()
