"""Sampling of images at computed places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.coreml_exec.call import Call, Kernel, wide

__all__ = ["TABLE"]

_PADDINGS = {"constant": "zeros", "border": "border", "reflection": "reflection"}


def _padding(call: Call, aligned: bool) -> str:
    kind = call.text("padding_mode", "constant")
    if kind == "constant" and call.number("padding_value", 0.0) != 0.0:
        raise call.unsupported("a padding value other than zero")
    if kind in ("reflection", "symmetric") and aligned != (kind == "reflection"):
        raise call.unsupported(f"the padding {kind!r} with these corners")
    if kind == "symmetric":
        return "reflection"
    if kind not in _PADDINGS:
        raise call.unsupported(f"the padding {kind!r}")
    return _PADDINGS[kind]


def _resample(call: Call) -> Tensor:
    x, places = call["x"], wide(call["coordinates"]).float()
    mode, aligned = call.text("coordinates_mode"), call.flag("align_corners")
    if mode == "unnormalized":
        spans = torch.tensor([x.shape[-1] - 1, x.shape[-2] - 1]).clamp(min=1)
        places, aligned = places * 2 / spans - 1, True
    elif mode == "normalized_zero_to_one":
        places = places * 2 - 1
    elif mode != "normalized_minus_one_to_one":
        raise call.unsupported(f"the coordinates {mode!r}")
    y = F.grid_sample(wide(x), places, call.text("sampling_mode"), _padding(call, aligned), aligned)
    return y.to(x.dtype)


def _affine(call: Call) -> Tensor:
    x, matrix = call["x"], wide(call["transform_matrix"])
    height, width = call.integer("output_height"), call.integer("output_width")
    call.bounded([*x.shape[:2], height, width])
    if call.text("coordinates_mode") != "normalized_minus_one_to_one":
        raise call.unsupported("coordinates that are not normalised")
    aligned = call.flag("align_corners", True)
    theta = matrix.reshape(-1, 2, 3).expand(x.shape[0], 2, 3)
    grid = F.affine_grid(theta, [*x.shape[:2], height, width], aligned)
    return F.grid_sample(
        wide(x), grid, call.text("sampling_mode"), _padding(call, aligned), aligned
    ).to(x.dtype)


TABLE: dict[str, Kernel] = {"affine": _affine, "resample": _resample}
