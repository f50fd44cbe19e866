"""What calibration saw of every activation, and which range was chosen for it."""

from __future__ import annotations

import msgspec
import numpy as np
from torch import fx

from skerry.converter.quantize import QuantizedModel
from skerry.converter.quantize.observers import Decided
from skerry.converter.quantize.ranges import Seen
from skerry.converter.quantize.units import layer_name

__all__ = ["Histogram", "histograms"]

_BINS = 60


class Histogram(msgspec.Struct, frozen=True):
    """One quantized activation; tensors that share their parameters are one.

    Attributes:
        layer: the module it comes from, or its own name.
        operation: such as `conv2d`.
        least, most: the edges of the counts.
        counts: how many values of the calibration rows fell into each of equal bins.
        low, high: the ends of what its integers can say with the chosen scale and zero point.
        clipped: share of the values beyond them, 0 to 1.
    """

    layer: str
    operation: str
    least: float
    most: float
    counts: tuple[int, ...]
    low: float
    high: float
    clipped: float


def histograms(model: QuantizedModel) -> tuple[Histogram, ...]:
    """Every activation that calibration saw, in the graph's order."""
    parts = dict(model.decided.named_modules(remove_duplicate=False))
    found, done = [], set()
    for node in model.decided.graph.nodes:
        part = parts.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(part, Decided) and part.seen is not None and id(part) not in done:
            done.add(id(part))
            found.append(_histogram(node.args[0], part, part.seen))
    return tuple(found)


def _histogram(tensor: fx.Node, part: Decided, seen: Seen) -> Histogram:
    scale, zero = float(part.scale), int(part.zero_point)
    low, high = (part.quant_min - zero) * scale, (part.quant_max - zero) * scale
    centres = seen.centres()
    filled = np.flatnonzero(seen.counts)
    first, last = int(filled[0]), int(filled[-1]) + 1
    width = 2 * seen.limit / len(seen.counts)
    each = -(-(last - first) // _BINS)
    starts = np.arange(first, last, each)
    counts = np.add.reduceat(seen.counts[:last], starts)
    beyond = (centres < low - scale / 2) | (centres > high + scale / 2)
    return Histogram(
        layer=layer_name(tensor),
        operation=str(tensor.target).removeprefix("aten.").partition(".")[0],
        least=_digits(first * width - seen.limit),
        most=_digits((first + len(starts) * each) * width - seen.limit),
        counts=tuple(int(one) for one in counts),
        low=_digits(low),
        high=_digits(high),
        clipped=_digits(float(seen.counts[beyond].sum() / seen.counts.sum())),
    )


def _digits(value: float) -> float:
    """Rounded to what a person can use, so that last bits do not tell machines apart."""
    return float(f"{value:.4g}")
