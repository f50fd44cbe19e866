"""How a model is to be quantized: one frozen value that every later step reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from skerry.converter.emit.support import LEVELS, Level
from skerry.devices.errors import UnsupportedError

__all__ = [
    "CALIBRATORS",
    "REFINEMENTS",
    "Calibrator",
    "Refinement",
    "Scheme",
]

Calibrator = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]
Refinement = Literal["equalization", "adaround", "bias_correction"]
CALIBRATORS: tuple[str, ...] = get_args(Calibrator)
REFINEMENTS: tuple[str, ...] = get_args(Refinement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """What all three formats accept: int8 activations per tensor, int8 weights, int32 biases.

    Activations are affine over -128..127, weights symmetric over -127..127 with zero point 0. A
    bias is int32 at the scale input x weight; it stays float in the graph, and the engines turn
    it into that integer.

    Attributes:
        calibrator: how the range of an activation is chosen from what was seen of it.
        per_channel: weights have one scale for each output channel; else one for the tensor.
        reduce_range: weights take 7 bits (-63..63), for processors whose 8-bit dot product
            saturates in 16 bits (x86-64 without VNNI).
        percentile: share of values, in percent, that the percentile calibrator keeps.
        refinements: what is done to lose less, in this order whatever the order given:
            `equalization` before calibration, `adaround` and `bias_correction` after it.
        averaging: weight of the newest batch in the moving average, 0 to 1.
        raised: layers by name (`skerry.converter.quantize.units`) that get more than int8: `int16`
            activations with int8 weights, or activations left in floating point with weights in
            `fp16` or `fp32`.
    """

    calibrator: Calibrator = "mse"
    per_channel: bool = True
    reduce_range: bool = False
    percentile: float = 99.99
    refinements: tuple[Refinement, ...] = ()
    averaging: float = 0.1
    raised: tuple[tuple[str, Level], ...] = ()

    def __post_init__(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise _unknown("calibrator", self.calibrator, CALIBRATORS)
        for refinement in self.refinements:
            if refinement not in REFINEMENTS:
                raise _unknown("refinement", refinement, REFINEMENTS)
        for _, level in self.raised:
            if level not in LEVELS:
                raise _unknown("level", level, LEVELS)

    def level(self, layer: str) -> Level:
        """The precision of a layer, by name."""
        return dict(self.raised).get(layer, "int8")

    @property
    def weight_limit(self) -> int:
        """The largest absolute value of a quantized weight."""
        return 63 if self.reduce_range else 127


def _unknown(what: str, given: str, known: tuple[str, ...]) -> UnsupportedError:
    return UnsupportedError(
        f"no {what} {given!r}", where="quantize", remedy=f"choose one of: {', '.join(known)}"
    )
