"""Element by element: arithmetic, comparisons, logic, bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]

# Unsigned types for which PyTorch has few kernels: computed as int64, whose low bits are theirs.
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def _signed(x: Any) -> Any:
    return x.to(torch.int64) if isinstance(x, Tensor) and x.dtype in _UNSIGNED else x


def _unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x = call.tensor(0)
        return function(_signed(x)).to(x.dtype)

    return kernel


def _operands(call: Call) -> tuple[Any, Any, torch.dtype]:
    x, y = call.operand(0), call.operand(1)
    dtype = x.dtype if isinstance(x, Tensor) else y.dtype  # type: ignore[union-attr]  # one is
    return _signed(x), _signed(y), dtype


def _binary(function: Callable[[Any, Any], Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x, y, dtype = _operands(call)
        return function(x, y).to(dtype)

    return kernel


def _compare(function: Callable[[Any, Any], Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x, y, _ = _operands(call)
        return function(x, y)

    return kernel


def _divide(x: Any, y: Any) -> Tensor:
    if any(isinstance(v, Tensor) and v.is_floating_point() for v in (x, y)):
        return torch.as_tensor(x / y)
    return torch.div(x, y, rounding_mode="trunc")


def _mod(call: Call) -> Tensor:
    x, y, dtype = _operands(call)
    return (torch.fmod if call.integer("fmod", 0) else torch.remainder)(x, y).to(dtype)


def _pow(call: Call) -> Tensor:
    x, y = call.tensor(0), call.operand(1)
    if isinstance(y, Tensor) and not x.is_floating_point() and y.is_floating_point():
        return torch.pow(x.double(), y.double()).to(x.dtype)
    return torch.pow(x, _signed(y)).to(x.dtype)


def _bit_shift(call: Call) -> Tensor:
    x, y = (call.tensor(index) for index in range(2))
    wide, by = x.to(torch.int64), y.to(torch.int64)
    if call.text("direction", "LEFT") == "LEFT":
        return (wide << by).to(x.dtype)
    return (wide >> by).to(x.dtype)


def _variadic(function: Callable[[Any, Any], Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        values = call.tensors()
        found: Tensor = reduce(function, map(_signed, values))
        return found.to(values[0].dtype)

    return kernel


def _clip(call: Call) -> Tensor:
    x = call.tensor(0)
    low = call.value(1) if call.has(1) else None
    high = call.value(2) if call.has(2) else None
    wide: Tensor = _signed(x)
    if low is not None:
        wide = wide.clamp(min=_bound(low))
    if high is not None:
        wide = wide.clamp(max=_bound(high))
    return wide.to(x.dtype)


def _bound(value: Any) -> Any:
    return _signed(value) if isinstance(value, Tensor) else value.item()


def _where(call: Call) -> Tensor:
    condition, x, y = (call.tensor(index) for index in range(3))
    return torch.where(condition, _signed(x), _signed(y)).to(x.dtype)


def _is_inf(call: Call) -> Tensor:
    x = call.tensor(0).float()
    found = torch.isinf(x)
    if not call.integer("detect_negative", 1):
        found = found & (x > 0)
    if not call.integer("detect_positive", 1):
        found = found & (x < 0)
    return found


def _mean(call: Call) -> Tensor:
    values = call.tensors()
    return reduce(torch.add, values) / len(values)


TABLE: dict[str, Kernel] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _binary(torch.add),
    "And": _compare(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitShift": _bit_shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _unary(torch.bitwise_not),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": _binary(_divide),
    "Equal": _compare(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Greater": _compare(torch.gt),
    "GreaterOrEqual": _compare(torch.ge),
    "IsInf": _is_inf,
    "IsNaN": lambda call: torch.isnan(call.tensor(0).float()),
    "Less": _compare(torch.lt),
    "LessOrEqual": _compare(torch.le),
    "Log": _unary(torch.log),
    "Max": _variadic(torch.maximum),
    "Mean": _mean,
    "Min": _variadic(torch.minimum),
    "Mod": _mod,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": lambda call: torch.logical_not(call.tensor(0)),
    "Or": _compare(torch.logical_or),
    "Pow": _pow,
    "Reciprocal": _unary(torch.reciprocal),
    "Round": _unary(torch.round),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _variadic(torch.add),
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "Where": _where,
    "Xor": _compare(torch.logical_xor),
}
