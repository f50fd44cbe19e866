"""Slices, reversal, sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel
from skerry.converter.coreml_exec.ops.elementwise import cast_to

__all__ = ["TABLE"]


def _positions(call: Call) -> tuple[list[range], list[bool]]:
    """What `begin`, `end`, `stride` and their masks choose of each axis of `x`, and which axes are
    squeezed out."""
    x = call["x"]
    begin, end = call.ints("begin"), call.ints("end")
    stride = call.ints("stride", [1] * x.ndim)
    begin_mask, end_mask = call.flags("begin_mask", x.ndim), call.flags("end_mask", x.ndim)
    squeeze = call.flags("squeeze_mask", x.ndim)
    chosen = []
    for axis, length in enumerate(x.shape):
        first = None if begin_mask[axis] else begin[axis]
        if squeeze[axis]:
            at = (first or 0) % length
            chosen.append(range(at, at + 1))
        else:
            last = None if end_mask[axis] else end[axis]
            chosen.append(range(*slice(first, last, stride[axis]).indices(length)))
    return chosen, squeeze


def _take(x: Tensor, axis: int, chosen: range) -> Tensor:
    if chosen.step > 0:
        index = [slice(None)] * axis + [slice(chosen.start, max(chosen.stop, 0), chosen.step)]
        return x[tuple(index)]
    return x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))


def _slice_by_index(call: Call) -> Tensor:
    x = call["x"]
    chosen, squeeze = _positions(call)
    for axis, positions in enumerate(chosen):
        if len(positions) != x.shape[axis] or positions.step < 0:
            x = _take(x, axis, positions)
    return x.reshape([n for n, gone in zip(x.shape, squeeze, strict=True) if not gone])


def _slice_by_size(call: Call) -> Tensor:
    x = call["x"]
    begins, sizes = call.ints("begin"), call.ints("size")
    for axis, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


def _slice_update(call: Call) -> Tensor:
    x, update = call["x"], call["update"]
    chosen, _ = _positions(call)
    indices = [torch.tensor(list(positions), dtype=torch.int64) for positions in chosen]
    grid = torch.meshgrid(*indices, indexing="ij")
    return x.index_put(grid, update.reshape(grid[0].shape))


def _reverse(call: Call) -> Tensor:
    x = call["x"]
    return x.flip(call.ints("axes", list(range(x.ndim))))


def _reverse_sequence(call: Call) -> Tensor:
    x, lengths = call["x"], call["lengths"].long()
    along, batch = call.integer("seq_axis", 0) % x.ndim, call.integer("batch_axis", 0) % x.ndim
    steps = torch.arange(x.shape[along])
    index = torch.where(
        steps < lengths[:, None], lengths[:, None] - 1 - steps, steps.expand(len(lengths), -1)
    )
    if batch > along:
        index = index.T
    shape = [n if axis in (along, batch) else 1 for axis, n in enumerate(x.shape)]
    return x.gather(along, index.reshape(shape).expand(x.shape))


def _crop(call: Call) -> Tensor:
    x = call["x"]
    (top, bottom), (left, right) = call.ints("crop_height"), call.ints("crop_width")
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _sliding_windows(call: Call) -> Tensor:
    x, size = call["x"], call.integer("size")
    axis = call.integer("axis") % x.ndim
    return x.unfold(axis, size, call.integer("stride", 1)).movedim(-1, axis + 1)


def _topk(call: Call) -> Tensor | tuple[Tensor, ...]:
    x, axis, k = call["x"], call.integer("axis", -1), call.integer("k", 1)
    order = torch.argsort(x, dim=axis, descending=not call.flag("ascending"), stable=True)
    index = order.narrow(axis, 0, x.shape[axis] if k == -1 else k)
    values = x.gather(axis, index)
    if not call.flag("return_indices", True):
        return values
    return values, cast_to(index, call.text("output_indices_dtype", "int32"), call)


def _argsort(call: Call) -> Tensor:
    axis, down = call.integer("axis", -1), not call.flag("ascending")
    order: Tensor = torch.argsort(call["x"], dim=axis, descending=down, stable=True)
    return order.to(torch.int32)


TABLE: dict[str, Kernel] = {
    "argsort": _argsort,
    "crop": _crop,
    "reverse": _reverse,
    "reverse_sequence": _reverse_sequence,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "sliding_windows": _sliding_windows,
    "topk": _topk,
}
