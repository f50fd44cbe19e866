"""Shapes: reshape and its kin, joining, repeating, padding, and what is made from a shape."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide
from skerry.devices.errors import BundleError

__all__ = ["TABLE"]


def _reshape(call: Call) -> Tensor:
    x, wanted = call["x"], call.ints("shape")
    if len(wanted) == x.ndim:
        wanted = [x.shape[i] if length == 0 else length for i, length in enumerate(wanted)]
    return x.reshape(wanted)


def _reshape_like(call: Call) -> Tensor:
    wanted: list[int] = []
    masks = call.ints("end_masks")
    references = call.all("ref_tensors")
    for tensor, begin, end, mask in zip(
        references, call.ints("begins"), call.ints("ends"), masks, strict=True
    ):
        wanted += tensor.shape[begin:] if mask else tensor.shape[begin:end]
    return call["x"].reshape(wanted)


def _expand_dims(call: Call) -> Tensor:
    x, axes = call["x"], call.ints("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(call: Call) -> Tensor:
    x = call["x"]
    axes = [axis % x.ndim for axis in call.ints("axes", list(range(x.ndim)))]
    keep = [n for axis, n in enumerate(x.shape) if n != 1 or axis not in axes]
    return x.reshape(keep)


def _flatten2d(call: Call) -> Tensor:
    x, axis = call["x"], call.integer("axis", 1)
    rows = 1
    for length in x.shape[: axis if axis >= 0 else x.ndim + axis]:
        rows *= length
    return x.reshape(rows, -1)


def _concat(call: Call) -> Tensor:
    values, axis = call.all("values"), call.integer("axis")
    if values[0].ndim == 0:
        return torch.stack(values)
    if call.flag("interleave"):
        axis %= values[0].ndim
        return torch.stack(values, axis + 1).flatten(axis, axis + 1)
    return torch.cat(values, axis)


def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call["x"], call.integer("axis")
    if "split_sizes" in call:
        return torch.split_with_sizes(x, call.ints("split_sizes"), axis)
    count = call.integer("num_splits")
    if count < 1 or x.shape[axis] % count:
        raise BundleError(f"{x.shape[axis]} does not split by {count}", where=call.operation.where)
    return torch.chunk(x, count, axis)


def _tile(call: Call) -> Tensor:
    x, reps = call["x"], call.ints("reps")
    call.bounded([n * rep for n, rep in zip(x.shape, reps, strict=True)])
    return x.repeat(reps)


def _pad(call: Call) -> Tensor:
    x, amounts = call["x"], call.ints("pad")
    mode = call.text("mode", "constant")
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    lengths = x.shape[x.ndim - len(pairs) :]
    call.bounded([n + sum(pair) for n, pair in zip(lengths, pairs, strict=True)])
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]
        return F.pad(x, flat, value=call.number("constant_val", 0.0))
    for axis, (before, after) in enumerate(pairs, start=x.ndim - len(pairs)):
        x = _pad_axis(x, axis, before, after, mode, call)
    return x


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str, call: Call) -> Tensor:
    length = x.shape[axis]
    index = torch.arange(-before, length + after)
    if mode == "replicate":
        index = index.clamp(0, length - 1)
    elif mode == "reflect" and max(before, after) < length:
        index = index.abs()
        index = torch.where(index >= length, 2 * (length - 1) - index, index)
    else:
        raise call.unsupported(f"padding {before}, {after} by {mode!r}")
    return x.index_select(axis, index)


def _fill(call: Call) -> Tensor:
    value = call["value"]
    return value.reshape([]).expand(call.bounded(call.ints("shape"))).clone()


def _fill_like(call: Call) -> Tensor:
    value = call["value"]
    return value.reshape([]).expand(call["ref_tensor"].shape).clone()


def _range(call: Call) -> Tensor:
    start, end, step = (call[key] for key in ("start", "end", "step"))
    first, last, stride = (value.reshape([]).item() for value in (start, end, step))
    if stride == 0:
        raise BundleError("a range of step 0", where=call.operation.where)
    call.bounded([max(0, int((last - first) / stride) + 1)])
    return torch.arange(first, last, stride, dtype=start.dtype)


def _one_hot(call: Call) -> Tensor:
    indices, size = call["indices"], call.integer("one_hot_vector_size")
    call.bounded([*indices.shape, size])
    axis = call.integer("axis", -1)
    axis = axis if axis >= 0 else indices.ndim + 1 + axis
    shape = [1] * (indices.ndim + 1)
    shape[axis] = size
    hit = indices.unsqueeze(axis) == torch.arange(size).reshape(shape)
    on, off = call.get("on_value"), call.get("off_value")
    one = torch.tensor(1, dtype=torch.int32) if on is None else on
    return torch.where(hit, one, torch.zeros_like(one) if off is None else off)


def _cumsum(call: Call) -> Tensor:
    x, axis = call["x"], call.integer("axis", 0)
    data = wide(x.flip(axis) if call.flag("reverse") else x)
    total = data.cumsum(axis)
    if call.flag("exclusive"):
        total = total - data
    return (total.flip(axis) if call.flag("reverse") else total).to(x.dtype)


def _band_part(call: Call) -> Tensor:
    x = call["x"]
    lower, upper = call.integer("lower", -1), call.integer("upper", -1)
    if upper >= 0:
        x = torch.tril(x, upper)
    return torch.triu(x, -lower) if lower >= 0 else x


def _depth_to_space(call: Call) -> Tensor:
    x, block = call["x"], call.integer("block_size")
    n, c, h, w = x.shape
    split = x.reshape(n, block, block, c // block**2, h, w)
    return split.permute(0, 3, 4, 1, 5, 2).reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call) -> Tensor:
    x, block = call["x"], call.integer("block_size")
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // block, block, w // block, block)
    return split.permute(0, 3, 5, 1, 2, 4).reshape(n, c * block**2, h // block, w // block)


def _space_to_batch(call: Call) -> Tensor:
    x, (rows, columns) = call["x"], call.ints("block_shape")
    top, bottom, left, right = call.ints("paddings")
    x = F.pad(x, [left, right, top, bottom])
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // rows, rows, w // columns, columns)
    return split.permute(3, 5, 0, 1, 2, 4).reshape(-1, c, h // rows, w // columns)


def _batch_to_space(call: Call) -> Tensor:
    x, (rows, columns) = call["x"], call.ints("block_shape")
    top, bottom, left, right = call.ints("crops")
    n, c, h, w = x.shape
    split = x.reshape(rows, columns, n // (rows * columns), c, h, w)
    whole = split.permute(2, 3, 4, 0, 5, 1).reshape(-1, c, h * rows, w * columns)
    return whole[:, :, top : h * rows - bottom, left : w * columns - right]


def _shape(call: Call) -> Tensor:
    return torch.tensor(list(call["x"].shape), dtype=torch.int32)


def _broadcast_to(call: Call) -> Tensor:
    return call["x"].expand(call.bounded(call.ints("shape")))


TABLE: dict[str, Kernel] = {
    "band_part": _band_part,
    "batch_to_space": _batch_to_space,
    "broadcast_to": _broadcast_to,
    "concat": _concat,
    "cumsum": _cumsum,
    "depth_to_space": _depth_to_space,
    "expand_dims": _expand_dims,
    "fill": _fill,
    "fill_like": _fill_like,
    "flatten2d": _flatten2d,
    "one_hot": _one_hot,
    "pad": _pad,
    "pixel_shuffle": lambda call: F.pixel_shuffle(call["x"], call.integer("upscale_factor")),
    "pixel_unshuffle": lambda call: F.pixel_unshuffle(call["x"], call.integer("downscale_factor")),
    "range_1d": _range,
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "shape": _shape,
    "space_to_batch": _space_to_batch,
    "space_to_depth": _space_to_depth,
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda call: torch.stack(call.all("values"), call.integer("axis")),
    "tile": _tile,
    "transpose": lambda call: call["x"].permute(call.ints("perm")),
}
