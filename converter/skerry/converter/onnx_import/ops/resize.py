"""Resizing: each axis is a product with a matrix of weights, so that every mode is one rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """How samples are placed and weighted."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis to resize: its length, the length wanted, the scale, and the region of interest."""

    axis: int
    length: int
    wanted: int
    scale: float
    start: float
    end: float


def _place(step: int, axis: _Axis, kind: str) -> float:
    """Where output sample `step` lies on the input axis."""
    length, scale = axis.length, axis.scale
    wanted = scale * length  # not rounded
    if kind == "align_corners":
        return 0.0 if wanted == 1 else step * (length - 1) / (wanted - 1)
    if kind == "asymmetric":
        return step / scale
    if kind == "tf_crop_and_resize":
        if wanted == 1:
            return (axis.end - axis.start) * (length - 1) / 2
        return step * (axis.end - axis.start) * (length - 1) / (wanted - 1) + axis.start * (
            length - 1
        )
    if kind == "pytorch_half_pixel":
        return -0.5 if wanted == 1 else (step + 0.5) / scale - 0.5
    if kind == "half_pixel_symmetric":
        centre = length / 2 * (1 - axis.wanted / wanted)
        return centre + (step + 0.5) / scale - 0.5
    return (step + 0.5) / scale - 0.5


def _nearest_index(place: float, kind: str) -> int:
    if kind == "floor":
        return math.floor(place)
    if kind == "ceil":
        return math.ceil(place)
    if kind == "round_prefer_ceil":
        return math.floor(place + 0.5)
    return math.ceil(place - 0.5)


def _cubic(distance: float, a: float) -> float:
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def _taps(place: float, scale: float, rules: _Rules) -> dict[int, float]:
    """The neighbours of a place and their weights, before the edges are seen to."""
    if rules.mode == "nearest":
        return {_nearest_index(place, rules.nearest): 1.0}
    low = math.floor(place)
    ratio = place - low
    shrink = min(scale, 1.0) if rules.antialias else 1.0
    reach = 1 if rules.mode == "linear" else 2
    start = math.floor(-reach / shrink) + 1
    weights = {}
    for offset in range(start, 2 - start):
        distance = (offset - ratio) * shrink
        if rules.mode == "linear":
            weights[low + offset] = max(0.0, 1 - abs(distance))
        else:
            weights[low + offset] = _cubic(distance, rules.cubic)
    total = sum(weights.values())
    return {index: weight / total for index, weight in weights.items()}


def _matrix(axis: _Axis, rules: _Rules) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Weights [wanted, length], and which samples lie outside the input."""
    weights = np.zeros((axis.wanted, axis.length))
    outside = np.zeros(axis.wanted, np.bool_)
    for step in range(axis.wanted):
        place = _place(step, axis, rules.coordinates)
        outside[step] = not 0 <= place <= axis.length - 1
        taps = _taps(place, axis.scale, rules)
        if rules.exclude_outside:
            taps = {index: w for index, w in taps.items() if 0 <= index < axis.length}
            total = sum(taps.values())
            taps = {index: w / total for index, w in taps.items()}
        for index, weight in taps.items():
            weights[step, min(max(index, 0), axis.length - 1)] += weight
    return weights, outside


def _apply(x: Tensor, axis: _Axis, rules: _Rules) -> Tensor:
    weights, outside = _matrix(axis, rules)
    if rules.mode == "nearest":
        index = torch.from_numpy(weights.argmax(1))
        y = x.index_select(axis.axis, index)
    else:
        table = torch.from_numpy(weights).to(x.dtype)
        y = (x.movedim(axis.axis, -1) @ table.T).movedim(-1, axis.axis)
    if rules.coordinates != "tf_crop_and_resize" or not outside.any():
        return y
    shape = [1] * x.ndim
    shape[axis.axis] = -1
    return torch.where(torch.from_numpy(outside).reshape(shape), rules.extrapolation, y)


def _axes(call: Call, x: Tensor, crops: bool) -> list[_Axis]:
    """The axes whose length or region changes."""
    axes = [axis % x.ndim for axis in call.ints("axes", range(x.ndim))]
    roi = call.numbers(1, []) if crops else []
    starts, ends = ([0.0] * len(axes), [1.0] * len(axes))
    if roi:
        starts, ends = roi[: len(axes)], roi[len(axes) :]
    scales, sizes = call.numbers(2, []), call.ints(3, [])
    lengths = [x.shape[axis] for axis in axes]
    if sizes:
        policy = call.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratios = [size / n for size, n in zip(sizes, lengths, strict=True)]
            one = min(ratios) if policy == "not_larger" else max(ratios)
            scales = [one] * len(axes)
            sizes = [int(n * one + 0.5) for n in lengths]
        else:
            scales = [size / n for size, n in zip(sizes, lengths, strict=True)]
    else:
        spans = [end - start for start, end in zip(starts, ends, strict=True)]
        sizes = [
            math.floor(n * span * scale)
            for n, span, scale in zip(lengths, spans, scales, strict=True)
        ]
    call.bounded(sizes)
    found = [
        _Axis(*parts) for parts in zip(axes, lengths, sizes, scales, starts, ends, strict=True)
    ]
    return [a for a in found if a.length != a.wanted or (crops and (a.start, a.end) != (0, 1))]


def _resize(call: Call) -> Tensor:
    x = call.tensor(0)
    rules = _Rules(
        mode=call.text("mode", "nearest"),
        coordinates=call.text("coordinate_transformation_mode", "half_pixel"),
        nearest=call.text("nearest_mode", "round_prefer_floor"),
        cubic=call.number("cubic_coeff_a", -0.75),
        exclude_outside=bool(call.integer("exclude_outside", 0)),
        antialias=bool(call.integer("antialias", 0)),
        extrapolation=call.number("extrapolation_value", 0.0),
    )
    if rules.mode not in ("nearest", "linear", "cubic"):
        raise call.unsupported(f"the mode {rules.mode!r}")
    axes = _axes(call, x, rules.coordinates == "tf_crop_and_resize")
    quick = _native(x, axes, rules)
    if quick is not None:
        return quick
    y = x if x.is_floating_point() else x.double()
    for axis in axes:
        y = _apply(y, axis, rules)
    return y.to(x.dtype)


def _native(x: Tensor, axes: list[_Axis], rules: _Rules) -> Tensor | None:
    """PyTorch's own kernel, where it computes the same: two last axes of four."""
    if x.ndim != 4 or [axis.axis for axis in axes] != [2, 3] or not x.is_floating_point():
        return None
    size = [axis.wanted for axis in axes]
    exact = all(axis.scale * axis.length == axis.wanted for axis in axes)
    if not exact or rules.antialias or rules.exclude_outside:
        return None
    if rules.mode == "nearest":
        whole = all(axis.wanted % axis.length == 0 for axis in axes)
        plain = rules.coordinates == "asymmetric" and rules.nearest == "floor"
        centred = rules.coordinates == "half_pixel" and rules.nearest.startswith("round")
        odd = all((axis.wanted // axis.length) % 2 or plain for axis in axes)
        if whole and (plain or (centred and odd)):
            return F.interpolate(x, size=size, mode="nearest")
        return None
    if rules.mode == "linear" and rules.coordinates in ("half_pixel", "align_corners"):
        aligned = rules.coordinates == "align_corners"
        return F.interpolate(x, size=size, mode="bilinear", align_corners=aligned)
    return None


def _upsample(call: Call) -> Tensor:
    x = call.tensor(0)
    mode = call.text("mode", "nearest")
    rules = _Rules(
        mode=mode,
        coordinates="asymmetric",
        nearest="floor",
        cubic=-0.75,
        exclude_outside=False,
        antialias=False,
        extrapolation=0.0,
    )
    for axis, scale in enumerate(call.numbers(1)):
        wanted = math.floor(x.shape[axis] * scale)
        call.bounded([wanted])
        x = _apply(x, _Axis(axis, x.shape[axis], wanted, scale, 0.0, 1.0), rules)
    return x


TABLE: dict[str, Kernel] = {"Resize": _resize, "Upsample": _upsample}
