"""Affine quantization: QDQ, and the operators that compute on integers."""

from __future__ import annotations

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel
from skerry.converter.onnx_import.dtypes import ElementType, element_type
from skerry.converter.onnx_import.ops.cast import cast
from skerry.converter.onnx_import.ops.conv import convolve

__all__ = ["TABLE", "quantized"]


def _spread(values: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Scales or zero points laid out to `x`: one for all, one a channel, or one a block."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    if block:
        return values.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)


def _limits(kind: ElementType | None, dtype: torch.dtype) -> tuple[int, int]:
    if kind is not None and kind.bits:
        signed = kind.torch == torch.int8
        return (-(1 << kind.bits - 1) if signed else 0, (1 << kind.bits - signed) - 1)
    info = torch.iinfo(dtype)
    return info.min, info.max


def quantized(
    x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype, kind: ElementType | None
) -> Tensor:
    """`x` in steps of `scale`, rounded half to even."""
    wide = x.float() / scale.float()
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        return wide.clamp(-largest, largest).to(dtype)
    rounded = torch.round(wide)
    if zero is not None:
        rounded = rounded + zero.float()
    low, high = _limits(kind, dtype)
    return rounded.clamp(low, high).to(torch.int32).to(dtype)


def _quantize(call: Call) -> Tensor:
    x = call.tensor(0)
    axis, block = call.integer("axis", 1) if x.ndim else 0, call.integer("block_size", 0)
    scale = _spread(call.tensor(1), x, axis, block)
    kind = None
    wanted = call.integer("output_dtype", 0) or call.integer("narrow", 0)
    if wanted:
        kind = element_type(wanted, call.node.where)
    if not call.has(2):
        return quantized(x, scale, None, kind.torch if kind else torch.uint8, kind)
    zero = call.tensor(2)
    return quantized(x, scale, _spread(zero, x, axis, block), zero.dtype, kind)


def _dequantize(call: Call) -> Tensor:
    x = call.tensor(0)
    axis, block = call.integer("axis", 1) if x.ndim else 0, call.integer("block_size", 0)
    given = call.tensor(1)
    scale = _spread(given, x, axis, block)
    wide = x.float()
    if call.has(2):
        wide = wide - _spread(call.tensor(2), x, axis, block).float()
    wanted = call.integer("output_dtype", 0)
    found = wide * scale.float()
    return cast(found, element_type(wanted, "")) if wanted else found.to(given.dtype)


def _dynamic(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    x = call.tensor(0)
    zero = torch.zeros((), dtype=x.dtype)
    low, high = torch.minimum(x.min(), zero), torch.maximum(x.max(), zero)
    scale = (high - low) / 255
    point = torch.round((-low / scale).clamp(0, 255))
    y = (torch.round(x / scale) + point).clamp(0, 255)
    return y.to(torch.uint8), scale, point.to(torch.uint8)


def _centred(x: Tensor, zero: Tensor) -> Tensor:
    if zero.ndim == 1 and zero.numel() > 1:
        zero = zero.reshape(-1, *[1] * (x.ndim - 1))
    return x.double() - zero.double()


def _qlinear_conv(call: Call) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.tensor(i) for i in range(8))
    bias = call.tensor(8).double() if call.has(8) else None
    total = convolve(call, _centred(x, x_zero), _centred(w, w_zero), bias)
    step = w_scale.reshape(-1, *[1] * (w.ndim - 2)) if w_scale.numel() > 1 else w_scale
    real = total * (x_scale.double() * step.double())
    return quantized(real, y_scale, y_zero, y_zero.dtype, None)


def _qlinear_matmul(call: Call) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.tensor(i) for i in range(8))
    total = (a.double() - a_zero.double()) @ (b.double() - b_zero.double())
    real = total * (a_scale.double() * b_scale.double())
    return quantized(real, y_scale, y_zero, y_zero.dtype, None)


TABLE: dict[str, Kernel] = {
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize,
}
