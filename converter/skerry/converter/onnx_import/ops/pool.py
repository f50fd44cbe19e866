"""Pools."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel
from skerry.converter.onnx_import.ops.windows import Windows, windows_of

__all__ = ["TABLE"]

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _geometry(call: Call, x: Tensor) -> Windows:
    if x.ndim - 2 not in _MAX:
        raise call.unsupported(f"an input of {x.ndim} axes")
    return windows_of(call, x, call.ints("kernel_shape"))


def _max_pool(call: Call) -> Tensor | tuple[Tensor, Tensor]:
    x = call.tensor(0)
    windows = _geometry(call, x)
    data = x if x.is_floating_point() else x.double()
    rank = x.ndim - 2
    small = all(
        2 * before <= size for (before, _), size in zip(windows.pads, windows.kernel, strict=True)
    )
    if windows.symmetric and small:
        padding: Any = [before for before, _ in windows.pads]
    else:
        data, padding = windows.padded(data, float("-inf")), 0
    wants_index = len(call.node.outputs) > 1
    found = _MAX[rank](
        data, windows.kernel, windows.strides, padding, windows.dilations, False, wants_index
    )
    if not wants_index:
        return found.to(x.dtype)  # type: ignore[no-any-return]  # one tensor without indices
    y, inside = found
    if padding == 0:
        inside = _unpadded(inside, list(data.shape[2:]), list(x.shape[2:]), windows)
    if call.integer("storage_order", 0):
        inside = _column_major(inside, list(x.shape[2:]))
    rows = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * rank)
    return y.to(x.dtype), inside + rows * x[0, 0].numel()


def _unpadded(index: Tensor, padded: list[int], lengths: list[int], windows: Windows) -> Tensor:
    """Flat positions in the padded data as flat positions in the data."""
    found = torch.zeros_like(index)
    stride = 1
    for axis in reversed(range(len(lengths))):
        found = found + (index % padded[axis] - windows.pads[axis][0]) * stride
        index = index // padded[axis]
        stride *= lengths[axis]
    return found


def _column_major(index: Tensor, lengths: list[int]) -> Tensor:
    parts = []
    for length in reversed(lengths):
        parts.append(index % length)
        index = index // length
    found = torch.zeros_like(index)
    stride = 1
    for part, length in zip(reversed(parts), lengths, strict=True):
        found = found + part * stride
        stride *= length
    return found


def _sum(x: Tensor, windows: Windows) -> Tensor:
    """The sum over each window of data that is padded."""
    kernel = x.new_ones([1, 1, *windows.kernel])
    rank = len(windows.kernel)
    flat = x.reshape(-1, 1, *x.shape[2:])
    found: Tensor = _CONV[rank](flat, kernel, None, windows.strides, 0, windows.dilations)
    return found.reshape(*x.shape[:2], *found.shape[2:])


def _average_pool(call: Call) -> Tensor:
    x = call.tensor(0)
    windows = _geometry(call, x)
    counts = bool(call.integer("count_include_pad", 0))
    plain = all(dilation == 1 for dilation in windows.dilations) and windows.symmetric
    if plain and all(
        2 * a <= size for (a, _), size in zip(windows.pads, windows.kernel, strict=True)
    ):
        padding = [before for before, _ in windows.pads]
        found: Tensor = _AVERAGE[x.ndim - 2](
            x, windows.kernel, windows.strides, padding, False, counts
        )
        return found
    total = _sum(windows.padded(x, 0.0), windows)
    ones = x.new_ones([1, 1, *x.shape[2:]])
    if counts:
        inner = Windows(
            windows.kernel,
            windows.strides,
            windows.dilations,
            windows.pads,
            [0] * len(windows.pads),
        )
        ones = torch.ones_like(inner.padded(ones, 0.0))
        ones = F.pad(ones, [n for more in reversed(windows.extra) for n in (0, more)])
    else:
        ones = windows.padded(ones, 0.0)
    return total / _sum(ones, windows)


def _lp_pool(call: Call) -> Tensor:
    x, p = call.tensor(0), call.integer("p", 2)
    windows = _geometry(call, x)
    return torch.pow(_sum(windows.padded(torch.pow(x.abs(), p), 0.0), windows), 1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _global_lp(call: Call) -> Tensor:
    x, p = call.tensor(0), call.integer("p", 2)
    return torch.pow(torch.pow(x.abs(), p).sum(_spatial(x), keepdim=True), 1 / p)


def _max_unpool(call: Call) -> Tensor:
    x, index = call.tensor(0), call.tensor(1)
    rank = x.ndim - 2
    kernel = call.ints("kernel_shape")
    strides, pads = call.ints("strides", [1] * rank), call.ints("pads", [0] * 2 * rank)
    own = [
        (x.shape[2 + axis] - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[rank + axis]
        for axis in range(rank)
    ]
    shape = call.bounded([*x.shape[:2], *own])
    flat = x.new_zeros(shape).reshape(-1)
    data = flat.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(shape)
    if not call.has(2):
        return data
    wanted = call.bounded(call.ints(2))
    return F.pad(
        data, [n for axis in reversed(range(2, x.ndim)) for n in (0, wanted[axis] - shape[axis])]
    )


TABLE: dict[str, Kernel] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda call: call.tensor(0).mean(_spatial(call.tensor(0)), keepdim=True),
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": lambda call: call.tensor(0).amax(_spatial(call.tensor(0)), keepdim=True),
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
