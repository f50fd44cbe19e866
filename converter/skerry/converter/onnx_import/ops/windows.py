"""Where the windows of a convolution or pool lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call

__all__ = ["Windows", "flat_pads", "windows_of"]


@dataclass(frozen=True, slots=True)
class Windows:
    """The geometry of a sliding window.

    Attributes:
        kernel, strides, dilations: by spatial axis.
        pads: before and after each spatial axis.
        extra: what rounding up adds after each axis, beyond the padding.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[tuple[int, int]]
    extra: list[int]

    @property
    def symmetric(self) -> bool:
        """Whether the padding is the same before and after each axis, and nothing is added."""
        return all(before == after for before, after in self.pads) and not any(self.extra)

    def padded(self, x: Tensor, value: float) -> Tensor:
        """`x` with all that the windows reach."""
        pads = [
            (before, after + more)
            for (before, after), more in zip(self.pads, self.extra, strict=True)
        ]
        flat = flat_pads(pads)
        return F.pad(x, flat, value=value) if any(flat) else x


def flat_pads(pads: list[tuple[int, int]]) -> list[int]:
    """Pads by axis in the order `F.pad` takes them: the last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]


def windows_of(call: Call, x: Tensor, kernel: list[int]) -> Windows:
    """The geometry that a node's attributes give for `x` ([batch, channels, *spatial])."""
    rank = x.ndim - 2
    strides = call.ints("strides", [1] * rank)
    dilations = call.ints("dilations", [1] * rank)
    lengths = list(x.shape[2:])
    kind = call.text("auto_pad", "NOTSET")
    amounts = call.ints("pads", [0] * 2 * rank)
    pads = list(zip(amounts[:rank], amounts[rank:], strict=True))
    extra = [0] * rank
    if kind == "VALID":
        pads = [(0, 0)] * rank
    elif kind in ("SAME_UPPER", "SAME_LOWER"):
        pads = [
            _same(length, size, stride, dilation, kind == "SAME_LOWER")
            for length, size, stride, dilation in zip(
                lengths, kernel, strides, dilations, strict=True
            )
        ]
    if call.integer("ceil_mode", 0):
        extra = [
            _ceil_extra(length, (size - 1) * dilation + 1, stride, pad)
            for length, size, dilation, stride, pad in zip(
                lengths, kernel, dilations, strides, pads, strict=True
            )
        ]
    return Windows(kernel, strides, dilations, pads, extra)


def _same(length: int, size: int, stride: int, dilation: int, lower: bool) -> tuple[int, int]:
    steps = -(-length // stride)
    total = max(0, (steps - 1) * stride + (size - 1) * dilation + 1 - length)
    small, large = total // 2, total - total // 2
    return (large, small) if lower else (small, large)


def _ceil_extra(length: int, reach: int, stride: int, pad: tuple[int, int]) -> int:
    """What rounding up adds after an axis. A window that would begin after the data is dropped."""
    whole = length + sum(pad)
    steps = -(-(whole - reach) // stride) + 1
    if (steps - 1) * stride >= length + pad[0]:
        steps -= 1
    return max(0, (steps - 1) * stride + reach - whole)
