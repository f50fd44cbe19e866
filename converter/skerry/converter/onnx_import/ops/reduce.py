"""Reductions, searches along an axis, cumulative sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(function: _Reduction, empty: float | None = None) -> Kernel:
    """`empty` is what a reduction over no elements gives, where PyTorch refuses."""

    def kernel(call: Call) -> Tensor:
        x = call.tensor(0)
        axes = call.axes(x.ndim)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return function(x, [], True) if x.ndim == 0 else _each(x, function)
        axes = axes or list(range(x.ndim))
        keep = bool(call.integer("keepdims", 1))
        if empty is not None and any(x.shape[axis] == 0 for axis in axes):
            return _full(x, axes, keep, empty)
        return function(x, axes, keep).to(x.dtype)

    return kernel


def _each(x: Tensor, function: _Reduction) -> Tensor:
    """The reduction of each element by itself."""
    return function(x.unsqueeze(-1), [x.ndim], False).to(x.dtype)


def _full(x: Tensor, axes: list[int], keep: bool, value: float) -> Tensor:
    shape = [1 if axis in axes else n for axis, n in enumerate(x.shape) if keep or axis not in axes]
    if x.dtype == torch.bool:
        return torch.full(shape, value > 0)
    if not x.dtype.is_floating_point:
        limits = torch.iinfo(x.dtype)
        value = max(limits.min, min(limits.max, value))
    return torch.full(shape, value, dtype=x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    return wide.mean(axes, keepdim=keep)


def _root(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    return wide.square().sum(axes, keepdim=keep).sqrt()


def _log(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep).log()


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    return wide.logsumexp(axes, keepdim=keep)


def _argument(function: Callable[..., Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x, axis = call.tensor(0), call.integer("axis", 0)
        keep = bool(call.integer("keepdims", 1))
        if not call.integer("select_last_index", 0):
            return function(x, axis, keepdim=keep)
        return x.shape[axis] - 1 - function(x.flip(axis), axis, keepdim=keep)

    return kernel


def _cumulative(function: Callable[[Tensor, int], Tensor], first: int) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x, axis = call.tensor(0), call.integer(1)
        data = x.flip(axis) if call.integer("reverse", 0) else x
        if call.integer("exclusive", 0):
            start = torch.full_like(data.narrow(axis, 0, 1), first)
            data = torch.cat([start, data.narrow(axis, 0, data.shape[axis] - 1)], axis)
        total = function(data, axis).to(x.dtype)
        return total.flip(axis) if call.integer("reverse", 0) else total

    return kernel


def _topk(call: Call) -> tuple[Tensor, Tensor]:
    x, k, axis = call.tensor(0), call.integer(1), call.integer("axis", -1)
    largest = bool(call.integer("largest", 1))
    data = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    values, index = torch.sort(data, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k).to(x.dtype), index.narrow(axis, 0, k)


def _unique(call: Call) -> Any:
    x = call.tensor(0)
    axis = call.integer("axis") if "axis" in call.node.attributes else None
    data = x.reshape(-1) if axis is None else x
    along = 0 if axis is None else axis
    found, inverse, counts = torch.unique(
        data, sorted=True, return_inverse=True, return_counts=True, dim=along
    )
    length = inverse.numel()
    first = torch.full((found.shape[along],), length).scatter_reduce(
        0, inverse.reshape(-1), torch.arange(length), "amin"
    )
    if not call.integer("sorted", 1):
        order = first.argsort()
        place = order.argsort()
        found = found.index_select(along, order)
        first, counts, inverse = first[order], counts[order], place[inverse]
    return found, first, inverse.reshape(-1), counts


TABLE: dict[str, Kernel] = {
    "ArgMax": _argument(torch.argmax),
    "ArgMin": _argument(torch.argmin),
    "CumProd": _cumulative(lambda x, axis: x.cumprod(axis), 1),
    "CumSum": _cumulative(lambda x, axis: x.cumsum(axis), 0),
    "ReduceL1": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "ReduceL2": _reduction(_root),
    "ReduceLogSum": _reduction(_log),
    "ReduceLogSumExp": _reduction(_log_sum_exp, float("-inf")),
    "ReduceMax": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep), float("-inf")),
    "ReduceMean": _reduction(_mean),
    "ReduceMin": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep), float("inf")),
    "ReduceProd": _reduction(_product),
    "ReduceSum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "TopK": _topk,
    "Unique": _unique,
}
