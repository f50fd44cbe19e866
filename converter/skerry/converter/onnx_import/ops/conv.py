"""Convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel
from skerry.converter.onnx_import.ops.windows import windows_of

__all__ = ["TABLE", "convolve"]

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution that a node's attributes describe."""
    rank = x.ndim - 2
    if rank not in _CONV:
        raise call.unsupported(f"an input of {x.ndim} axes")
    windows = windows_of(call, x, list(weight.shape[2:]))
    groups = call.integer("group", 1)
    padding: Any = [before for before, _ in windows.pads]
    if not windows.symmetric:
        x, padding = windows.padded(x, 0.0), 0
    found: Tensor = _CONV[rank](
        x, weight, bias, windows.strides, padding, windows.dilations, groups
    )
    return found


def _conv(call: Call) -> Tensor:
    return convolve(call, call.tensor(0), call.tensor(1), call.maybe(2))


def _conv_transpose(call: Call) -> Tensor:
    x, weight, bias = call.tensor(0), call.tensor(1), call.maybe(2)
    rank = x.ndim - 2
    if rank not in _TRANSPOSED:
        raise call.unsupported(f"an input of {x.ndim} axes")
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    extra = call.ints("output_padding", [0] * rank)
    pads, extra = _transposed_pads(
        call, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations, extra
    )
    groups = call.integer("group", 1)
    convolve_back = _TRANSPOSED[rank]
    if all(a == b for a, b in pads) and all(
        e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)
    ):
        padding = [before for before, _ in pads]
        found: Tensor = convolve_back(x, weight, bias, strides, padding, extra, groups, dilations)
        return found
    whole: Tensor = convolve_back(x, weight, None, strides, 0, 0, groups, dilations)
    for axis, ((before, after), more) in enumerate(zip(pads, extra, strict=True)):
        length = whole.shape[2 + axis] + more
        if more:
            whole = F.pad(whole, [0, 0] * (rank - 1 - axis) + [0, more])
        whole = whole.narrow(2 + axis, before, length - before - after)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * rank)


def _transposed_pads(
    call: Call,
    lengths: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    extra: list[int],
) -> tuple[list[tuple[int, int]], list[int]]:
    """What is cut off before and after each axis, and added at its end."""
    rank = len(lengths)
    kind, shape = call.text("auto_pad", "NOTSET"), call.ints("output_shape", [])
    amounts = call.ints("pads", [0] * 2 * rank)
    if not shape and kind not in ("SAME_UPPER", "SAME_LOWER"):
        return list(zip(amounts[:rank], amounts[rank:], strict=True)), extra
    wanted = shape[-rank:] or [n * s for n, s in zip(lengths, strides, strict=True)]
    pads, more = [], []
    for axis in range(rank):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        whole = (lengths[axis] - 1) * strides[axis] + extra[axis] + reach
        total = whole - wanted[axis]
        more.append(extra[axis] + max(0, -total))
        total = max(0, total)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if kind != "SAME_LOWER" else (large, small))
    return pads, more


def _conv_integer(call: Call) -> Tensor:
    x, weight = call.tensor(0).double(), call.tensor(1).double()
    if call.has(2):
        x = x - call.tensor(2).double()
    if call.has(3):
        zero = call.tensor(3).double()
        weight = weight - zero.reshape(-1, *[1] * (weight.ndim - 1))
    return convolve(call, x, weight, None).round().to(torch.int32)


TABLE: dict[str, Kernel] = {
    "Conv": _conv,
    "ConvInteger": _conv_integer,
    "ConvTranspose": _conv_transpose,
}
