"""Affine quantization of activations."""

from __future__ import annotations

import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide
from skerry.converter.coreml_exec.dtypes import BY_NAME

__all__ = ["TABLE", "along"]


def along(values: Tensor, rank: int, axis: int) -> Tensor:
    """A vector laid along `axis` of a tensor of `rank` axes; a scalar as it is."""
    if values.ndim == 0:
        return values
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _quantize(call: Call) -> Tensor:
    x, axis = call["input"], call.integer("axis", 0)
    name = call.text("output_dtype")
    if name not in BY_NAME:
        raise call.unsupported(f"no element type {name!r}")
    kind = BY_NAME[name].torch
    scaled = torch.round(wide(x) / wide(along(call["scale"], x.ndim, axis)))
    zero = call.get("zero_point")
    if zero is not None:
        scaled = scaled + along(zero, x.ndim, axis)
    limits = torch.iinfo(kind)
    return scaled.clamp(limits.min, limits.max).to(kind)


def _dequantize(call: Call) -> Tensor:
    x, axis, zero = call["input"], call.integer("axis", 0), call.get("zero_point")
    scale = along(call["scale"], x.ndim, axis)
    centred = x.float() if zero is None else x.float() - along(zero, x.ndim, axis)
    return (centred * wide(scale)).to(scale.dtype)


TABLE: dict[str, Kernel] = {"dequantize": _dequantize, "quantize": _quantize}
