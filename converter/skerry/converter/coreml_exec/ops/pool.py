"""Pools."""

from __future__ import annotations

from math import prod

import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide
from skerry.converter.coreml_exec.ops.conv import pad_spatial, padding_of
from skerry.devices.errors import BundleError

__all__ = ["TABLE"]

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class _Windows:
    """Where the windows of a pool lie.

    `extra` is what ceil mode adds after each axis beyond the padding: it never counts.
    """

    def __init__(self, call: Call) -> None:
        x = call["x"]
        self.rank = x.ndim - 2
        if self.rank not in _MAX:
            raise BundleError(f"a pool of rank {x.ndim}", where=call.operation.where)
        self.kernel = call.ints("kernel_sizes")
        self.strides = call.ints("strides", [1] * self.rank)
        lengths = list(x.shape[2:])
        self.pads = padding_of(call, lengths, self.kernel, self.strides, [1] * self.rank)
        self.extra = [(0, 0)] * self.rank
        if call.flag("ceil_mode"):
            self.extra = [
                (0, _ceil_extra(length, size, stride, pad))
                for length, size, stride, pad in zip(
                    lengths, self.kernel, self.strides, self.pads, strict=True
                )
            ]

    def padded(self, x: Tensor, value: float) -> Tensor:
        """`x` with everything the windows reach."""
        return pad_spatial(pad_spatial(x, self.pads, value), self.extra, value)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of each window, fp32. `x` has been padded."""
        tall = x.unsqueeze(2) if self.rank == 1 else x
        kernel = [1, *self.kernel] if self.rank == 1 else self.kernel
        strides = [1, *self.strides] if self.rank == 1 else self.strides
        pool = F.avg_pool3d if self.rank == 3 else F.avg_pool2d
        total = pool(tall, kernel, strides) * prod(kernel)
        return total.squeeze(2) if self.rank == 1 else total


def _ceil_extra(length: int, size: int, stride: int, pad: tuple[int, int]) -> int:
    """What must follow an axis for its windows to be rounded up. A window that would begin in the
    padding after the data is dropped, as in PyTorch."""
    whole = length + sum(pad)
    steps = -(-(whole - size) // stride) + 1
    if (steps - 1) * stride >= length + pad[0]:
        steps -= 1
    return max(0, (steps - 1) * stride + size - whole)


def _max_pool(call: Call) -> Tensor:
    x, windows = call["x"], _Windows(call)
    padded = windows.padded(wide(x), float("-inf"))
    return _MAX[windows.rank](padded, windows.kernel, windows.strides).to(x.dtype)


def _avg_pool(call: Call) -> Tensor:
    x, windows = call["x"], _Windows(call)
    total = windows.sum(windows.padded(wide(x), 0.0))
    ones = wide(x).new_ones((1, 1, *x.shape[2:]))
    outside = 0.0 if call.flag("exclude_padding_from_average") else 1.0
    counted = pad_spatial(pad_spatial(ones, windows.pads, outside), windows.extra, 0.0)
    return (total / windows.sum(counted)).to(x.dtype)


def _l2_pool(call: Call) -> Tensor:
    x, windows = call["x"], _Windows(call)
    return windows.sum(windows.padded(wide(x).square(), 0.0)).sqrt().to(x.dtype)


TABLE: dict[str, Kernel] = {"avg_pool": _avg_pool, "l2_pool": _l2_pool, "max_pool": _max_pool}
