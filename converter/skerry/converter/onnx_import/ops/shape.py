"""Shapes: reshape and its kin, joining, slicing, padding, and what is made from a shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Host, Kernel, is_host
from skerry.converter.onnx_import.dtypes import element_type, from_numpy

__all__ = ["TABLE"]

_INT64_MAX = (1 << 63) - 1
_NATIVE_PADS = {"edge": "replicate", "reflect": "reflect"}


def _host(items: list[Any]) -> Host:
    known = all(isinstance(item, int) for item in items)
    return np.array(items, np.int64 if known else object)


def _shape(call: Call) -> Host:
    lengths = list(call.tensor(0).shape)
    start = call.integer("start", 0)
    end = call.integer("end") if "end" in call.node.attributes else len(lengths)
    return _host(lengths[start:end])


def _size(call: Call) -> Host:
    count: Any = 1
    for length in call.tensor(0).shape:
        count = count * length
    return _host([count]).reshape(())


def _reshape(call: Call) -> Tensor:
    x, wanted = call.tensor(0), call.ints(1)
    if not call.integer("allowzero", 0):
        wanted = [x.shape[i] if _is(n, 0) else n for i, n in enumerate(wanted)]
    return x.reshape(wanted)


def _is(length: Any, value: int) -> bool:
    return isinstance(length, int) and length == value


def _flatten(call: Call) -> Tensor:
    x, axis = call.tensor(0), call.integer("axis", 1)
    axis = axis if axis >= 0 else x.ndim + axis
    if axis == 0:
        return x.reshape(1, -1)
    if axis == x.ndim:
        return x.reshape(-1, 1)
    return x.flatten(axis).flatten(0, axis - 1) if x.ndim > 1 else x.reshape(x.shape[0], -1)


def _squeeze(call: Call) -> Tensor:
    x = call.tensor(0)
    axes = call.axes(x.ndim)
    return x.squeeze() if axes is None else x.squeeze(axes)


def _unsqueeze(call: Call) -> Tensor:
    x = call.tensor(0)
    axes = call.ints("axes") if "axes" in call.node.attributes else call.ints(1)
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(call: Call) -> Tensor:
    x = call.tensor(0)
    return x.permute(call.ints("perm", list(range(x.ndim))[::-1]))


def _concat(call: Call) -> Tensor:
    values = call.tensors()
    return torch.cat(values, call.integer("axis"))


def _split(call: Call) -> tuple[Tensor, ...]:
    x, axis = call.tensor(0), call.integer("axis", 0)
    if call.has(1):
        return torch.split_with_sizes(x, call.ints(1), axis)
    count = call.integer("num_outputs", len(call.node.outputs))
    length = x.shape[axis]
    size = -(-length // count)
    sizes = [size] * (count - 1)
    return torch.split_with_sizes(x, [*sizes, length - sum(sizes)], axis)


def _slice(call: Call) -> Tensor:
    x, starts, ends = call.tensor(0), call.ints(1), call.ints(2)
    axes = call.ints(3, range(len(starts)))
    steps = call.ints(4, [1] * len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        x = _slice_axis(x, axis % x.ndim, start, end, step)
    return x


def _slice_axis(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step > 0:
        index = [slice(None)] * axis
        last = None if isinstance(end, int) and end >= _INT64_MAX >> 1 else end
        return x[(*index, slice(start, last, step))]
    length = x.shape[axis]
    chosen = range(length)[slice(start, None if end < -length else end, step)]
    return x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))


def _expand(call: Call) -> Tensor:
    x, wanted = call.tensor(0), call.ints(1)
    rank = max(x.ndim, len(wanted))
    shape = [1] * (rank - len(wanted)) + wanted
    own = [1] * (rank - x.ndim) + list(x.shape)
    result = [n if _is(target, 1) else target for n, target in zip(own, shape, strict=True)]
    return x.expand(call.bounded(result))


def _tile(call: Call) -> Tensor:
    x, reps = call.tensor(0), call.ints(1)
    call.bounded([n * rep for n, rep in zip(x.shape, reps, strict=True)])
    return x.repeat(reps)


def _pad(call: Call) -> Tensor:
    x, amounts = call.tensor(0), call.ints(1)
    mode = call.text("mode", "constant")
    axes = [axis % x.ndim for axis in call.ints(3, range(x.ndim))]
    count = len(axes)
    pairs = {axis: (amounts[i], amounts[count + i]) for i, axis in enumerate(axes)}
    call.bounded([n + sum(pairs.get(axis, (0, 0))) for axis, n in enumerate(x.shape)])
    if mode == "constant":
        flat = [n for axis in reversed(range(x.ndim)) for n in pairs.get(axis, (0, 0))]
        value = call.number(2) if call.has(2) else 0
        return F.pad(x, flat, value=value)
    wanted = {axis: pair for axis, pair in pairs.items() if any(pair)}
    spatial = x.ndim - 2
    fits = all(axis >= 2 and max(pair) < x.shape[axis] for axis, pair in wanted.items())
    if mode in _NATIVE_PADS and spatial in (1, 2, 3) and fits and x.is_floating_point():
        flat = [n for axis in range(x.ndim - 1, 1, -1) for n in wanted.get(axis, (0, 0))]
        return F.pad(x, flat, mode=_NATIVE_PADS[mode])
    for axis, (before, after) in wanted.items():
        x = _pad_axis(x, axis, before, after, mode, call)
    return x


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str, call: Call) -> Tensor:
    length = x.shape[axis]
    index = torch.arange(-before, length + after)
    if mode == "edge":
        index = index.clamp(0, length - 1)
    elif mode == "wrap":
        index = index % length
    elif mode == "reflect":
        turn = max(2 * (length - 1), 1)
        index = index.abs() % turn
        index = torch.where(index >= length, turn - index, index)
    else:
        raise call.unsupported(f"the mode {mode!r}")
    return x.index_select(axis, index)


def _constant_of_shape(call: Call) -> Tensor:
    value = call.node.attributes.get("value", np.zeros(1, np.float32))
    item = from_numpy(np.asarray(value)).reshape([])
    return item.expand(call.bounded(call.ints(0))).clone()


def _range(call: Call) -> Tensor:
    values = [call.value(index) for index in range(3)]
    first, last, step = (
        v.reshape(()).item() if is_host(v) or isinstance(v, Tensor) else v for v in values
    )
    start = call.tensor(0)
    if all(isinstance(item, int | float) for item in (first, last, step)):
        call.bounded([max(0, int((last - first) / step) + 1)])
    return torch.arange(first, last, step, dtype=start.dtype)


def _eye_like(call: Call) -> Tensor:
    x = call.tensor(0)
    kind = x.dtype
    if "dtype" in call.node.attributes:
        kind = element_type(call.integer("dtype"), call.node.where).torch
    rows, columns = x.shape
    offset = call.integer("k", 0)
    grid = torch.arange(columns).unsqueeze(0) - torch.arange(rows).unsqueeze(1)
    return torch.eq(grid, offset).to(kind)


def _depth_to_space(call: Call) -> Tensor:
    x, block = call.tensor(0), call.integer("blocksize")
    n, c, h, w = x.shape
    if call.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    split = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth(call: Call) -> Tensor:
    x, block = call.tensor(0), call.integer("blocksize")
    n, c, h, w = x.shape
    order = (0, 1, 3, 5, 2, 4) if call.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    split = x.reshape(n, c, h // block, block, w // block, block).permute(order)
    return split.reshape(n, c * block**2, h // block, w // block)


def _trilu(call: Call) -> Tensor:
    x, k = call.tensor(0), call.integer(1, 0)
    shifted = max(-(1 << 31), min((1 << 31) - 1, k))
    return torch.triu(x, shifted) if call.integer("upper", 1) else torch.tril(x, shifted)


def _reverse_sequence(call: Call) -> Tensor:
    x, lengths = call.tensor(0), call.tensor(1)
    batch, time = call.integer("batch_axis", 1), call.integer("time_axis", 0)
    steps = torch.arange(x.shape[time])
    index = torch.where(
        steps < lengths[:, None], lengths[:, None] - 1 - steps, steps.expand(len(lengths), -1)
    )
    if batch > time:
        index = index.T
    shape = [n if axis in (batch, time) else 1 for axis, n in enumerate(x.shape)]
    return x.gather(time, index.reshape(shape).expand(x.shape))


def _center_crop_pad(call: Call) -> Tensor:
    x, wanted = call.tensor(0), call.ints(1)
    axes = [axis % x.ndim for axis in call.ints("axes", range(x.ndim))]
    for axis, target in zip(axes, wanted, strict=True):
        length = x.shape[axis]
        if target < length:
            x = x.narrow(axis, (length - target) // 2, target)
        elif target > length:
            call.bounded([*x.shape[:axis], target, *x.shape[axis + 1 :]])
            before = (target - length) // 2
            x = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [before, target - length - before])
    return x


def _dropout(call: Call) -> tuple[Tensor, Tensor]:
    x, ratio = call.tensor(0), call.number(1, call.number("ratio", 0.5))
    asked = bool(call.integer(2, 0)) if call.has(2) else False
    y = F.dropout(x, ratio, training=asked or call.training)
    wants_mask = len(call.node.outputs) > 1
    return y, (y != 0) | (x == 0) if wants_mask else torch.ones((), dtype=torch.bool)


def _dropout_mask(call: Call) -> tuple[Tensor, Tensor]:
    y, mask = _dropout(call)
    x = call.tensor(0)
    unchanged = y is x or (not call.training and not (call.has(2) and call.integer(2, 0)))
    return y, torch.ones_like(x, dtype=torch.bool) if unchanged else mask


TABLE: dict[str, Kernel] = {
    "CenterCropPad": _center_crop_pad,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout_mask,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Identity": lambda call: call.value(0),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
