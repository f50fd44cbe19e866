"""Gather and scatter. A negative index counts from the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel, is_host

__all__ = ["TABLE"]

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(index: Tensor, length: Any) -> Tensor:
    index = index.long()
    return torch.where(index < 0, index + length, index)


def _gather(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.integer("axis", 0)
    axis = axis % x.ndim
    index = call.value(1)
    if is_host(index) and index.ndim == 0 and index.dtype != object:
        return x.select(axis, int(index))
    index = call.tensor(1)
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return torch.nn.functional.embedding(_wrapped(index, x.shape[0]), x)
    flat = x.index_select(axis, _wrapped(index, x.shape[axis]).reshape(-1))
    return flat.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.integer("axis", 0)
    return x.gather(axis, _wrapped(call.tensor(1), x.shape[axis]))


def _gather_nd(call: Call) -> Tensor:
    x, index, batch = call.tensor(0), call.tensor(1), call.integer("batch_dims", 0)
    parts = [_wrapped(index[..., i], x.shape[batch + i]) for i in range(index.shape[-1])]
    lead = []
    for axis in range(batch):
        shape = [1] * (index.ndim - 1)
        shape[axis] = -1
        lead.append(torch.arange(x.shape[axis]).reshape(shape))
    return x[(*lead, *parts)]


def _scatter_elements(call: Call) -> Tensor:
    x, axis, updates = call.tensor(0), call.integer("axis", 0), call.tensor(2)
    index = _wrapped(call.tensor(1), x.shape[axis])
    kind = call.text("reduction", "none")
    if kind == "none":
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[kind])


def _scatter_nd(call: Call) -> Tensor:
    x, index, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    depth = index.shape[-1]
    parts = [_wrapped(index[..., i], x.shape[i]) for i in range(depth)]
    kind = call.text("reduction", "none")
    if kind in ("none", "add"):
        return x.index_put(tuple(parts), updates, accumulate=kind == "add")
    flat = torch.zeros_like(parts[0])
    for part, length in zip(parts, x.shape, strict=False):
        flat = flat * length + part
    rest = list(x.shape[depth:])
    rows, shaped = x.reshape(-1, *rest), updates.reshape(-1, *rest)
    places = flat.reshape(-1, *[1] * len(rest)).expand(shaped.shape)
    return rows.scatter_reduce(0, places, shaped, _REDUCTIONS[kind]).reshape(x.shape)


def _compress(call: Call) -> Tensor:
    x, keep = call.tensor(0), call.tensor(1)
    places = keep.nonzero().reshape(-1)
    if "axis" not in call.node.attributes:
        return x.reshape(-1).index_select(0, places)
    return x.index_select(call.integer("axis"), places)


def _one_hot(call: Call) -> Tensor:
    index, depth, values = call.tensor(0), call.integer(1), call.tensor(2)
    axis = call.integer("axis", -1)
    axis = axis if axis >= 0 else index.ndim + 1 + axis
    call.bounded([*index.shape, depth])
    shape = [1] * (index.ndim + 1)
    shape[axis] = depth
    whole = index.long()
    wrapped = torch.where(whole < 0, whole + depth, whole)
    hit = wrapped.unsqueeze(axis) == torch.arange(depth).reshape(shape)
    return torch.where(hit, values[1], values[0])


def _tensor_scatter(call: Call) -> Tensor:
    past, update = call.tensor(0), call.tensor(1)
    axis = call.integer("axis", -2) % past.ndim
    length = past.shape[axis]
    starts = call.tensor(2) if call.has(2) else torch.zeros(past.shape[0], dtype=torch.int64)
    steps = torch.arange(update.shape[axis])
    index = starts[:, None] + steps
    if call.text("mode", "linear") == "circular":
        index = index % length
    shape = [1] * past.ndim
    shape[0], shape[axis] = past.shape[0], update.shape[axis]
    return past.scatter(axis, index.reshape(shape).expand(update.shape), update)


TABLE: dict[str, Kernel] = {
    "Compress": _compress,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "NonZero": lambda call: call.tensor(0).nonzero().T,
    "OneHot": _one_hot,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
}
