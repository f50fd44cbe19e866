"""Element by element: arithmetic, comparisons, logic, functions of one value, casts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide
from skerry.converter.coreml_exec.dtypes import BY_NAME

__all__ = ["TABLE", "cast_to"]


def cast_to(x: Tensor, name: str, call: Call) -> Tensor:
    """`x` as the element type called `name`; a float loses its fraction to an integer."""
    if name not in BY_NAME:
        raise call.unsupported(f"no element type {name!r}")
    return x.to(BY_NAME[name].torch)


def _unary(function: Callable[[Tensor], Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x = call["x"]
        return function(wide(x)).to(x.dtype)

    return kernel


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Kernel:
    return lambda call: function(call["x"], call["y"])


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def _power(x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(wide(x), wide(y)).to(x.dtype)


def _clip(call: Call) -> Tensor:
    return call["x"].clamp(call.number("alpha"), call.number("beta"))


def _with_epsilon(function: Callable[[Tensor], Tensor], epsilon: float) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x = call["x"]
        return function(wide(x) + call.number("epsilon", epsilon)).to(x.dtype)

    return kernel


def _threshold(call: Call) -> Tensor:
    return call["x"].clamp(min=call.number("alpha"))


def _select(call: Call) -> Tensor:
    return torch.where(call["cond"].bool(), call["a"], call["b"])


TABLE: dict[str, Kernel] = {
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "add": _binary(torch.add),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "cast": lambda call: cast_to(call["x"], call.text("dtype"), call),
    "ceil": _unary(torch.ceil),
    "clip": _clip,
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "equal": _binary(torch.eq),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "floor": _unary(torch.floor),
    "floor_div": _binary(lambda x, y: torch.div(x, y, rounding_mode="floor")),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "identity": lambda call: call["x"],
    "inverse": _with_epsilon(torch.reciprocal, 1e-4),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "log": _with_epsilon(torch.log, 1e-45),
    "logical_and": _binary(torch.logical_and),
    "logical_not": lambda call: torch.logical_not(call["x"]),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mod": _binary(torch.remainder),
    "mul": _binary(torch.mul),
    "not_equal": _binary(torch.ne),
    "pow": _binary(_power),
    "real_div": _binary(_real_div),
    "round": _unary(torch.round),
    "rsqrt": _with_epsilon(torch.rsqrt, 1e-12),
    "select": _select,
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": lambda call: call["x"] * call["x"],
    "sub": _binary(torch.sub),
    "tan": _unary(torch.tan),
    "tanh": _unary(torch.tanh),
    "threshold": _threshold,
}
