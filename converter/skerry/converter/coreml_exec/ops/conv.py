"""Convolutions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide
from skerry.devices.errors import BundleError

__all__ = ["TABLE", "pad_spatial", "padding_of"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def padding_of(
    call: Call, lengths: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[tuple[int, int]]:
    """What is put before and after each spatial axis, by `pad_type` and `pad`."""
    kind = call.text("pad_type", "valid").lower()
    if kind == "valid":
        return [(0, 0)] * len(lengths)
    if kind == "custom":
        pad = call.ints("pad", [0] * 2 * len(lengths))
        return list(zip(pad[::2], pad[1::2], strict=True))
    pads = []
    for length, size, stride, dilation in zip(lengths, kernel, strides, dilations, strict=True):
        steps = -(-length // stride)
        total = max(0, (steps - 1) * stride + (size - 1) * dilation + 1 - length)
        small, large = total // 2, total - total // 2
        pads.append((large, small) if kind == "same_lower" else (small, large))
    return pads


def pad_spatial(x: Tensor, pads: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """`x` with its last `len(pads)` axes padded."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(call: Call) -> Tensor:
    x, weight, bias = call["x"], call["weight"], call.get("bias")
    rank = x.ndim - 2
    if rank not in _CONV:
        raise BundleError(f"conv of rank {x.ndim}", where=call.operation.where)
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    pads = padding_of(call, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations)
    groups = call.integer("groups", 1)
    wide_x, wide_weight = wide(x), wide(weight)
    wide_bias = None if bias is None else wide(bias)
    if all(before == after for before, after in pads):
        symmetric = [before for before, _ in pads]
        y = _CONV[rank](wide_x, wide_weight, wide_bias, strides, symmetric, dilations, groups)
    else:
        padded = pad_spatial(wide_x, pads)
        y = _CONV[rank](padded, wide_weight, wide_bias, strides, 0, dilations, groups)
    return y.to(x.dtype)


def _conv_transpose(call: Call) -> Tensor:
    x, weight, bias = call["x"], call["weight"], call.get("bias")
    rank = x.ndim - 2
    strides, dilations = call.ints("strides", [1] * rank), call.ints("dilations", [1] * rank)
    kernel = list(weight.shape[2:])
    whole = _TRANSPOSED[rank](
        wide(x),
        wide(weight),
        None if bias is None else wide(bias),
        strides,
        0,
        0,
        call.integer("groups", 1),
        dilations,
    )
    lengths = list(whole.shape[2:])
    wanted, pads = _cropping(call, list(x.shape[2:]), kernel, strides, dilations)
    for axis, (before, after) in enumerate(pads):
        length = lengths[axis] - before - after if wanted is None else wanted[axis]
        missing = max(0, before + length - lengths[axis])
        if missing:
            fill = [(0, 0)] * (rank - 1 - axis)
            whole = pad_spatial(whole, [(0, missing), *fill])
            if bias is not None:
                raise call.unsupported("an output longer than the kernel reaches, with a bias")
        whole = whole.narrow(2 + axis, before, length)
    return whole.to(x.dtype)


def _cropping(
    call: Call, lengths: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[int] | None, list[tuple[int, int]]]:
    """The spatial output lengths, where the program gives them, and what `pad` cuts off."""
    shape = call.ints("output_shape", [])
    wanted = shape[-len(lengths) :] if shape else None
    kind = call.text("pad_type", "valid").lower()
    if not kind.startswith("same"):
        return wanted, padding_of(call, lengths, kernel, strides, dilations)
    wanted = wanted or [length * stride for length, stride in zip(lengths, strides, strict=True)]
    pads = []
    for size, stride, dilation in zip(kernel, strides, dilations, strict=True):
        total = max(0, (size - 1) * dilation + 1 - stride)
        small, large = total // 2, total - total // 2
        pads.append((large, small) if kind == "same_lower" else (small, large))
    return wanted, pads


TABLE: dict[str, Kernel] = {"conv": _conv, "conv_transpose": _conv_transpose}
