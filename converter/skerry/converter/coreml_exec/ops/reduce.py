"""Reductions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide
from skerry.converter.coreml_exec.ops.elementwise import cast_to

__all__ = ["TABLE"]

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduction(function: _Reduction) -> Kernel:
    def kernel(call: Call) -> Tensor:
        x = call["x"]
        axes = call.ints("axes", list(range(x.ndim)))
        return function(wide(x), axes, call.flag("keep_dims")).to(x.dtype)

    return kernel


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep)
    return x.double().mean(axes, keepdim=keep).trunc()


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _argument(function: Callable[..., Tensor]) -> Kernel:
    def kernel(call: Call) -> Tensor:
        index = function(call["x"], call.integer("axis", -1), keepdim=call.flag("keep_dims"))
        return cast_to(index, call.text("output_dtype", "int32"), call)

    return kernel


TABLE: dict[str, Kernel] = {
    "reduce_argmax": _argument(torch.argmax),
    "reduce_argmin": _argument(torch.argmin),
    "reduce_l1_norm": _reduction(lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "reduce_log_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    "reduce_log_sum_exp": _reduction(lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_mean": _reduction(_mean),
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_prod": _reduction(_product),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
}
