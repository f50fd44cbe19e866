"""What stands at each quantized tensor: first it watches, then it is decided.

A collector keeps statistics while calibration runs. Afterwards each is replaced by a `Decided`,
which holds the scale and zero point for good: the one place where they live.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchao.quantization.pt2e.observer import ObserverBase

from skerry.converter.quantize.ranges import (
    ACTIVATION_MAX,
    ACTIVATION_MIN,
    WIDE,
    Seen,
    choose,
    wide,
)
from skerry.converter.quantize.scheme import Scheme
from skerry.devices.errors import InputError

__all__ = ["ActivationCollector", "Decided", "WeightCollector"]

_BINS = 8192


class Decided(ObserverBase):  # type: ignore[misc]  # torchao has no types
    """A tensor's parameters, fixed. Called, it rounds to them and back.

    Args:
        scale: float32, [] per tensor or [channels].
        zero_point: int32, of the same shape.
        axis: the channel axis, or None for per tensor.
        lowest, highest: the integers used, inside int8 or int16.
        seen: what the choice was made from; of activations.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        scale: Tensor,
        zero_point: Tensor,
        *,
        axis: int | None,
        lowest: int,
        highest: int,
        seen: Seen | None = None,
    ) -> None:
        dtype = torch.int8 if highest <= ACTIVATION_MAX else torch.int16
        super().__init__(dtype=dtype, is_dynamic=False)
        self.register_buffer("scale", scale.to(torch.float32))
        self.register_buffer("zero_point", zero_point.to(torch.int32))
        self.qscheme = torch.per_tensor_affine if axis is None else torch.per_channel_symmetric
        self.ch_axis = axis
        self.quant_min, self.quant_max = lowest, highest
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x`, any shape, float32."""
        if self.ch_axis is None:
            return torch.fake_quantize_per_tensor_affine(
                x, self.scale, self.zero_point, self.quant_min, self.quant_max
            )
        return torch.fake_quantize_per_channel_affine(
            x, self.scale, self.zero_point, self.ch_axis, self.quant_min, self.quant_max
        )

    def calculate_qparams(self, **_: object) -> tuple[Tensor, Tensor]:
        """Scale and zero point, as PT2E asks for them."""
        return self.scale, self.zero_point


class ActivationCollector(ObserverBase):  # type: ignore[misc]  # torchao has no types
    """Counts an activation into a histogram that grows by doubling, so order does not matter.

    Args:
        scheme: how a range follows from the counts.
        quant_max: the largest integer; beyond int8's, the type is int16.
    """

    def __init__(self, scheme: Scheme, *, quant_max: int = ACTIVATION_MAX, **_: object) -> None:
        self._wide = quant_max == WIDE
        super().__init__(dtype=torch.int16 if self._wide else torch.int8, is_dynamic=False)
        self.qscheme = torch.per_tensor_affine
        self.quant_min = -WIDE if self._wide else ACTIVATION_MIN
        self.quant_max = quant_max
        self._scheme = scheme
        self._low, self._high = np.inf, -np.inf
        self._average: tuple[float, float] | None = None
        self._counts = np.zeros(_BINS, np.int64)
        self._limit = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Take note of `x`, any shape, and hand it on unchanged."""
        if x.numel() == 0:
            return x
        values = x.detach().to(torch.float32)
        low, high = (float(end) for end in torch.aminmax(values))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(
                "calibration met a value that is not finite",
                where="quantize",
                remedy="look for NaN or infinity in the weights and in the calibration data",
            )
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._move_average(low, high)
        self._grow(max(abs(low), abs(high)))
        counts = torch.histc(values.flatten(), _BINS, -self._limit, self._limit)
        self._counts += counts.to(torch.int64).cpu().numpy()
        return x

    def _move_average(self, low: float, high: float) -> None:
        if self._average is None:
            self._average = low, high
            return
        newest = self._scheme.averaging
        old_low, old_high = self._average
        self._average = old_low + newest * (low - old_low), old_high + newest * (high - old_high)

    def _grow(self, reach: float) -> None:
        if self._limit == 0.0:
            self._limit = 2.0 ** np.ceil(np.log2(reach)) if reach > 0 else 2.0**-20
        while self._limit < reach:
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.zeros(_BINS, np.int64)
            self._counts[_BINS // 4 : _BINS // 4 + _BINS // 2] = merged
            self._limit *= 2

    def seen(self) -> Seen:
        """The statistics so far.

        Raises:
            InputError: no batch came by.
        """
        if self._average is None:
            raise InputError(
                "no calibration data reached the model",
                where="quantize",
                remedy="give at least one batch that is not empty",
            )
        return Seen(self._low, self._high, *self._average, self._counts.copy(), self._limit)

    def decide(self) -> Decided:
        """The observer that takes this one's place."""
        seen = self.seen()
        chosen = wide(seen) if self._wide else choose(seen, self._scheme)
        return Decided(
            torch.tensor(chosen.scale),
            torch.tensor(chosen.zero_point),
            axis=None,
            lowest=self.quant_min,
            highest=self.quant_max,
            seen=seen,
        )

    def calculate_qparams(self, **_: object) -> tuple[Tensor, Tensor]:
        """Scale and zero point of what was seen so far."""
        qparams: tuple[Tensor, Tensor] = self.decide().calculate_qparams()
        return qparams


class WeightCollector(ObserverBase):  # type: ignore[misc]  # torchao has no types
    """Keeps the largest absolute weight of each output channel."""

    def __init__(self, scheme: Scheme, *, ch_axis: int = 0, **_: object) -> None:
        super().__init__(dtype=torch.int8, is_dynamic=False)
        self._scheme = scheme
        self.ch_axis = ch_axis
        self.qscheme = torch.per_channel_symmetric
        self.quant_min, self.quant_max = -scheme.weight_limit, scheme.weight_limit
        self._largest: Tensor | None = None

    def forward(self, w: Tensor) -> Tensor:
        """Take note of a weight, and hand it on unchanged."""
        other = [axis for axis in range(w.ndim) if axis != self.ch_axis]
        largest = w.detach().abs().amax(dim=other)
        self._largest = largest if self._scheme.per_channel else largest.max().expand_as(largest)
        return w

    def decide(self) -> Decided:
        """The observer that takes this one's place.

        Raises:
            InputError: no batch came by, or a weight is not finite.
        """
        if self._largest is None:
            raise InputError(
                "no calibration data reached the model",
                where="quantize",
                remedy="give at least one batch that is not empty",
            )
        if not bool(torch.isfinite(self._largest).all()):
            raise InputError("a weight is NaN or infinite", where="quantize", remedy="train again")
        scale = self._largest / self.quant_max
        # A channel of zeros has no scale of its own; its neighbours' keeps its bias in range.
        spare = scale.max() if float(scale.max()) > 0 else torch.ones(())
        scale = torch.where(scale > 0, scale, spare)
        return Decided(
            scale,
            torch.zeros_like(scale, dtype=torch.int32),
            axis=self.ch_axis,
            lowest=self.quant_min,
            highest=self.quant_max,
        )

    def calculate_qparams(self, **_: object) -> tuple[Tensor, Tensor]:
        """Scales and zero points of the weight seen last."""
        qparams: tuple[Tensor, Tensor] = self.decide().calculate_qparams()
        return qparams
