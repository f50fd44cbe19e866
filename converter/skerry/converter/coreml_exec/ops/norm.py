"""Normalisations. All of them compute in fp32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide

__all__ = ["TABLE"]


def _optional(x: Tensor | None) -> Tensor | None:
    return None if x is None else wide(x)


def _batch_norm(call: Call) -> Tensor:
    x = call["x"]
    y = F.batch_norm(
        wide(x),
        wide(call["mean"]),
        wide(call["variance"]),
        _optional(call.get("gamma")),
        _optional(call.get("beta")),
        training=False,
        eps=call.number("epsilon", 1e-5),
    )
    return y.to(x.dtype)


def _standardised(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + epsilon)


def _instance_norm(call: Call) -> Tensor:
    x = call["x"]
    y = _standardised(wide(x), list(range(2, x.ndim)), call.number("epsilon", 1e-5))
    shape = [-1, *[1] * (x.ndim - 2)]
    gamma, beta = call.get("gamma"), call.get("beta")
    y = y if gamma is None else y * wide(gamma).reshape(shape)
    return (y if beta is None else y + wide(beta).reshape(shape)).to(x.dtype)


def _layer_norm(call: Call) -> Tensor:
    x = call["x"]
    axes = sorted(axis % x.ndim for axis in call.ints("axes", list(range(x.ndim))))
    y = _standardised(wide(x), axes, call.number("epsilon", 1e-5))
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    gamma, beta = call.get("gamma"), call.get("beta")
    y = y if gamma is None else y * wide(gamma).reshape(shape)
    return (y if beta is None else y + wide(beta).reshape(shape)).to(x.dtype)


def _l2_norm(call: Call) -> Tensor:
    x = call["x"]
    total = wide(x).square().sum((-3, -2, -1), keepdim=True)
    return (wide(x) / torch.sqrt(total + call.number("epsilon", 1e-6))).to(x.dtype)


def _local_response_norm(call: Call) -> Tensor:
    x = call["x"]
    y = F.local_response_norm(
        wide(x),
        call.integer("size"),
        call.number("alpha", 1e-4),
        call.number("beta", 0.75),
        call.number("k", 1.0),
    )
    return y.to(x.dtype)


TABLE: dict[str, Kernel] = {
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "local_response_norm": _local_response_norm,
}
