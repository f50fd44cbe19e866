"""Changes of element type."""

from __future__ import annotations

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel
from skerry.converter.onnx_import.dtypes import ElementType, element_type

__all__ = ["TABLE", "cast"]


def cast(x: Tensor, kind: ElementType, saturate: bool = True) -> Tensor:
    """`x` as the element type `kind`. Eight-bit floats saturate unless told otherwise; narrow
    integers keep their low bits."""
    if kind.bits:
        span = 1 << kind.bits
        low = x.to(torch.int64) & (span - 1)
        if kind.torch == torch.int8:
            low = torch.where(low >= span // 2, low - span, low)
        return low.to(kind.torch)
    if not (kind.torch.is_floating_point and kind.torch.itemsize == 1):
        if x.is_floating_point() and not (kind.torch.is_floating_point or kind.torch.is_complex):
            return _to_integer(x, kind)
        return x.to(kind.torch)
    wide = x.float()
    largest = torch.finfo(kind.torch).max
    if saturate:
        wide = wide.clamp(-largest, largest)
    return wide.to(kind.torch)


def _to_integer(x: Tensor, kind: ElementType) -> Tensor:
    if kind.torch == torch.bool:
        return x.float() != 0
    return x.double().to(torch.int64).to(kind.torch)


def _cast(call: Call) -> Tensor:
    kind = element_type(call.integer("to"), call.node.where)
    return cast(call.tensor(0), kind, bool(call.integer("saturate", 1)))


def _cast_like(call: Call) -> Tensor:
    x, like = call.tensor(0), call.tensor(1)
    if "narrow" in call.node.attributes:
        return cast(x, element_type(call.integer("narrow"), call.node.where))
    if like.dtype.is_floating_point and like.dtype.itemsize == 1 and call.integer("saturate", 1):
        largest = torch.finfo(like.dtype).max
        x = x.float().clamp(-largest, largest)
    elif x.is_floating_point() and not like.is_floating_point():
        x = x.double() if like.dtype == torch.bool else x.double().to(torch.int64)
    return x.to(like.dtype)


def _bit_cast(call: Call) -> Tensor:
    return call.tensor(0).view(element_type(call.integer("to"), call.node.where).torch)


TABLE: dict[str, Kernel] = {"BitCast": _bit_cast, "Cast": _cast, "CastLike": _cast_like}
