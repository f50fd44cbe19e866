"""Spectra and windows."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel
from skerry.converter.onnx_import.dtypes import element_type

__all__ = ["TABLE"]


def _window(weights: list[float]) -> Kernel:
    """A sum of cosines with the signs alternating."""

    def kernel(call: Call) -> Tensor:
        size = call.integer(0)
        call.bounded([size])
        span = size if call.integer("periodic", 1) else size - 1
        turn = torch.arange(size, dtype=torch.float64) * (2 * math.pi / max(span, 1))
        total = sum((-1) ** n * weight * torch.cos(n * turn) for n, weight in enumerate(weights))
        kind = element_type(call.integer("output_datatype", 1), call.node.where)
        return torch.as_tensor(total).to(kind.torch)

    return kernel


def _complex(x: Tensor) -> Tensor:
    """A last axis of one (real) or two (real, imaginary) as complex numbers."""
    if x.shape[-1] == 1:
        return x.squeeze(-1) + 0j
    return torch.view_as_complex(x.contiguous())


def _dft(call: Call) -> Tensor:
    x = call.tensor(0)
    axis = call.integer("axis", 1) if "axis" in call.node.attributes else call.integer(2, -2)
    axis = axis % x.ndim
    length = call.integer(1) if call.has(1) else None
    data, one_sided = _complex(x), bool(call.integer("onesided", 0))
    if call.integer("inverse", 0):
        if one_sided:
            real: Tensor = torch.fft.irfft(data, length, axis)
            return real.unsqueeze(-1).to(x.dtype)
        return torch.view_as_real(torch.fft.ifft(data, length, axis)).to(x.dtype)
    found = torch.fft.fft(data, length, axis)
    if one_sided:
        found = found.narrow(axis, 0, found.shape[axis] // 2 + 1)
    return torch.view_as_real(found).to(x.dtype)


def _stft(call: Call) -> Tensor:
    x, step = call.tensor(0), call.integer(1)
    window = call.maybe(2)
    length = call.integer(3) if call.has(3) else len(_given(window, call))
    data = _complex(x if x.ndim == 3 else x.unsqueeze(-1))
    frames = data.unfold(1, length, step)
    if window is not None:
        frames = frames * F.pad(window, [0, length - len(window)])
    found = torch.fft.fft(frames, dim=-1)
    if call.integer("onesided", 1):
        found = found[..., : length // 2 + 1]
    return torch.view_as_real(found).to(x.dtype)


def _given(window: Tensor | None, call: Call) -> Tensor:
    if window is None:
        raise call.unsupported("neither a window nor a length")
    return window


def _mel_weights(call: Call) -> Tensor:
    bins, size, rate = (call.integer(index) for index in range(3))
    low, high = call.number(3), call.number(4)

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    span = size // 2 + 1
    call.bounded([span, bins])
    step = (mel(high) - mel(low)) / (bins + 2)
    mels = mel(low) + step * torch.arange(bins + 2, dtype=torch.float64)
    points = torch.floor((size + 1) * (700 * (10 ** (mels / 2595) - 1)) / rate).long().tolist()
    table = torch.zeros(span, bins, dtype=torch.float64)
    for index in range(bins):
        first, middle, last = points[index : index + 3]
        if middle == first:
            table[middle, index] = 1
        for at in range(first, middle + (middle != first)):
            table[at, index] = (at - first) / (middle - first)
        for at in range(middle, last):
            table[at, index] = (last - at) / (last - middle)
    kind: Any = element_type(call.integer("output_datatype", 1), call.node.where)
    return table.to(kind.torch)


TABLE: dict[str, Kernel] = {
    "BlackmanWindow": _window([0.42, 0.5, 0.08]),
    "DFT": _dft,
    "HammingWindow": _window([25 / 46, 21 / 46]),
    "HannWindow": _window([0.5, 0.5]),
    "MelWeightMatrix": _mel_weights,
    "STFT": _stft,
}
