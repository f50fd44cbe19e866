"""Resizing of the last axes, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide

__all__ = ["TABLE"]


def _grid(length: int, wanted: int, mode: str, call: Call) -> Tensor:
    """Where each of `wanted` samples lies on an axis of `length`, by the sampling mode."""
    steps = torch.arange(wanted, dtype=torch.float64)
    if mode == "ALIGN_CORNERS" and wanted == 1:
        points = steps + (length - 1) / 2
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        points = steps * ((length - 1) / max(wanted - 1, 1))
    elif mode == "DEFAULT":
        points = steps * (length / wanted)
    elif mode == "OFFSET_CORNERS":
        delta = max(1, length - 1) / wanted
        points = steps * delta + delta / 2
    elif mode == "UNALIGN_CORNERS":
        points = (steps + 0.5) * (length / wanted) - 0.5
    else:
        raise call.unsupported(f"no sampling mode {mode!r}")
    return points.clamp(0, length - 1)


def _linear(x: Tensor, axis: int, points: Tensor) -> Tensor:
    low = points.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    share = (points - low).to(x.dtype).reshape(shape)
    return x.index_select(axis, low) * (1 - share) + x.index_select(axis, high) * share


def _resized(call: Call, lengths: list[int], mode: str) -> Tensor:
    x = call["x"]
    call.bounded([*x.shape[: x.ndim - len(lengths)], *lengths])
    y = wide(x)
    for axis, wanted in enumerate(lengths, start=x.ndim - len(lengths)):
        y = _linear(y, axis, _grid(y.shape[axis], wanted, mode, call))
    return y.to(x.dtype)


def _nearest(call: Call, lengths: list[int]) -> Tensor:
    x = call["x"]
    call.bounded([*x.shape[: x.ndim - len(lengths)], *lengths])
    for axis, wanted in enumerate(lengths, start=x.ndim - len(lengths)):
        index = (torch.arange(wanted) * x.shape[axis]) // max(wanted, 1)
        x = x.index_select(axis, index)
    return x


def _targets(call: Call) -> list[int]:
    return [call.integer("target_size_height", 1), call.integer("target_size_width", 1)]


def _scaled(call: Call) -> list[int]:
    x = call["x"]
    return [
        int(x.shape[axis] * call.number(key, 1.0) + 1e-6)
        for axis, key in ((-2, "scale_factor_height"), (-1, "scale_factor_width"))
    ]


def _upsample_bilinear(call: Call) -> Tensor:
    mode = "STRICT_ALIGN_CORNERS" if call.flag("align_corners", True) else "UNALIGN_CORNERS"
    return _resized(call, _scaled(call), mode)


def _resize(call: Call) -> Tensor:
    x, count = call["x"], call.integer("resized_dims")
    shape = call.ints("shape")[-count:]
    lengths = [n or x.shape[x.ndim - count + i] for i, n in enumerate(shape)]
    if call.text("interpolation_mode", "LINEAR") == "NEAREST_NEIGHBOR":
        return _nearest(call, lengths)
    return _resized(call, lengths, call.text("sampling_mode", "DEFAULT"))


TABLE: dict[str, Kernel] = {
    "resize": _resize,
    "resize_bilinear": lambda call: _resized(
        call, _targets(call), call.text("sampling_mode", "DEFAULT")
    ),
    "resize_nearest_neighbor": lambda call: _nearest(call, _targets(call)),
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": lambda call: _nearest(call, _scaled(call)),
}
