"""Normalisations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]


def _channels(values: Tensor, rank: int) -> Tensor:
    """A vector laid along axis 1."""
    return values.reshape(1, -1, *[1] * (rank - 2))


def _batch_norm(call: Call) -> Tensor | tuple[Tensor, ...]:
    x, scale, bias, mean, variance = (call.tensor(index) for index in range(5))
    epsilon = call.number("epsilon", 1e-5)
    if not call.integer("training_mode", 0):
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    keep = call.number("momentum", 0.9)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    now_variance, now_mean = torch.var_mean(x, axes, correction=0)
    y = (x - _channels(now_mean, x.ndim)) * torch.rsqrt(_channels(now_variance, x.ndim) + epsilon)
    y = y * _channels(scale, x.ndim) + _channels(bias, x.ndim)
    return (
        y,
        mean * keep + now_mean * (1 - keep),
        variance * keep + now_variance * (1 - keep),
    )


def _instance_norm(call: Call) -> Tensor:
    x, scale, bias = (call.tensor(index) for index in range(3))
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, call.number("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor | tuple[Tensor, ...]:
    x, scale, bias = call.tensor(0), call.tensor(1), call.maybe(2)
    axis = call.integer("axis", -1) % x.ndim
    epsilon = call.number("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    if len(call.node.outputs) == 1 and list(scale.shape) == shape:
        return F.layer_norm(x, shape, scale, bias, epsilon)
    wide = x if x.dtype == torch.float64 else x.float()
    axes = list(range(axis, x.ndim))
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + epsilon)
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    return (y if bias is None else y + bias), mean, inverse


def _rms_norm(call: Call) -> Tensor:
    x, scale = call.tensor(0), call.tensor(1)
    axes = list(range(call.integer("axis", -1) % x.ndim, x.ndim))
    wide = x if x.dtype == torch.float64 else x.float()
    mean = wide.square().mean(axes, keepdim=True)
    return (wide * torch.rsqrt(mean + call.number("epsilon", 1e-5))).to(x.dtype) * scale


def _group_norm(call: Call) -> Tensor:
    x, scale, bias = (call.tensor(index) for index in range(3))
    groups = call.integer("num_groups")
    if scale.numel() != x.shape[1]:  # operator set 18: one value a group
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.number("epsilon", 1e-5))


def _mean_variance(call: Call) -> Tensor:
    x = call.tensor(0)
    axes = call.ints("axes", [0, 2, 3])
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (variance.sqrt() + 1e-9)


def _lp_norm(call: Call) -> Tensor:
    x, axis, p = call.tensor(0), call.integer("axis", -1), call.integer("p", 2)
    size = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(size == 0, torch.zeros_like(x), x / size)


def _local_response(call: Call) -> Tensor:
    x, size = call.tensor(0), call.integer("size")
    before = (size - 1) // 2
    flat = x.square().flatten(2).transpose(1, 2).flatten(0, 1).unsqueeze(1)
    total = F.avg_pool1d(F.pad(flat, [before, size - 1 - before]), size, 1) * size
    total = total.squeeze(1).reshape(x.shape[0], -1, x.shape[1]).transpose(1, 2).reshape(x.shape)
    alpha, beta = call.number("alpha", 1e-4), call.number("beta", 0.75)
    return x / torch.pow(call.number("bias", 1.0) + alpha / size * total, beta)


TABLE: dict[str, Kernel] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _rms_norm,
}
