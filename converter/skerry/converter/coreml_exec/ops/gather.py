"""Gather and scatter. A negative index counts from the end."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel

__all__ = ["TABLE"]

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(indices: Tensor, length: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + length, indices)


def _gather(call: Call) -> Tensor:
    x, indices = call["x"], call["indices"]
    batch = call.integer("batch_dims", 0)
    axis = call.integer("axis", 0) % x.ndim
    index = _wrapped(indices, x.shape[axis])
    if batch == 0:
        flat = x.index_select(axis, index.reshape(-1))
        return flat.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    rows = x.reshape(-1, *x.shape[batch:])
    taken = [
        row.index_select(axis - batch, each.reshape(-1))
        for row, each in zip(rows, index.reshape(-1, *indices.shape[batch:]), strict=True)
    ]
    shape = [*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :]]
    return torch.stack(taken).reshape(shape)


def _gather_along_axis(call: Call) -> Tensor:
    x, axis = call["x"], call.integer("axis", 0)
    return x.gather(axis, _wrapped(call["indices"], x.shape[axis]))


def _coordinates(indices: Tensor, shape: torch.Size) -> tuple[Tensor, ...]:
    """The last axis of `indices` taken apart, one index tensor per axis of `shape`."""
    depth = indices.shape[-1]
    return tuple(_wrapped(indices[..., i], shape[i]) for i in range(depth))


def _gather_nd(call: Call) -> Tensor:
    x, indices, batch = call["x"], call["indices"], call.integer("batch_dims", 0)
    parts = _coordinates(indices, x.shape[batch:])
    lead = []
    for axis in range(batch):
        shape = [1] * parts[0].ndim
        shape[axis] = -1
        lead.append(torch.arange(x.shape[axis]).reshape(shape))
    return x[(*lead, *parts)]


def _combine(data: Tensor, where: tuple[Tensor, ...], updates: Tensor, call: Call) -> Tensor:
    """`data` with `updates` at the coordinates `where`, by `mode`."""
    mode = call.text("mode", "add")
    shape = np.broadcast_shapes(*(index.shape for index in where))
    grid = tuple(index.expand(shape) for index in where)
    if mode == "update":
        return data.index_put(grid, updates)
    if mode in ("add", "sub"):
        return data.index_put(grid, -updates if mode == "sub" else updates, accumulate=True)
    if mode == "div":
        mode, updates = "mul", 1 / updates
    if mode not in _REDUCTIONS:
        raise call.unsupported(f"no mode {mode!r}")
    flat = torch.zeros_like(grid[0])
    for index, length in zip(grid, data.shape, strict=False):
        flat = flat * length + index
    depth = len(grid)
    rows = data.reshape(-1, *data.shape[depth:])
    shaped = updates.reshape(-1, *data.shape[depth:])
    picks = flat.reshape(-1, *[1] * (data.ndim - depth)).expand(shaped.shape)
    return rows.scatter_reduce(0, picks, shaped, _REDUCTIONS[mode]).reshape(data.shape)


def _scatter(call: Call) -> Tensor:
    data, updates = call["data"], call["updates"]
    axis = call.integer("axis", 0) % data.ndim
    index = _wrapped(call["indices"], data.shape[axis])
    moved = data.movedim(axis, 0)
    span = list(range(axis, axis + index.ndim))
    brought = updates.movedim(span, list(range(index.ndim)))
    return _combine(moved, (index,), brought, call).movedim(0, axis)


def _scatter_along_axis(call: Call) -> Tensor:
    data, indices = call["data"], call["indices"]
    axis = call.integer("axis", 0) % data.ndim
    places = list(torch.meshgrid(*map(torch.arange, indices.shape), indexing="ij"))
    places[axis] = _wrapped(indices, data.shape[axis])
    return _combine(data, tuple(places), call["updates"], call)


def _scatter_nd(call: Call) -> Tensor:
    data = call["data"]
    return _combine(data, _coordinates(call["indices"], data.shape), call["updates"], call)


def _non_zero(call: Call) -> Tensor:
    return torch.nonzero(call["x"]).to(torch.int32)


TABLE: dict[str, Kernel] = {
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "non_zero": _non_zero,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}
