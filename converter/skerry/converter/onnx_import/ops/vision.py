"""Sampling and detection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skerry.converter.onnx_import.call import Call, Kernel

__all__ = ["TABLE"]

_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def _grid_sample(call: Call) -> Tensor:
    x, grid = call.tensor(0), call.tensor(1)
    mode = call.text("mode", "linear")
    return F.grid_sample(
        x,
        grid,
        mode=_MODES.get(mode, mode),
        padding_mode=call.text("padding_mode", "zeros"),
        align_corners=bool(call.integer("align_corners", 0)),
    )


def _affine_grid(call: Call) -> Tensor:
    shape = call.bounded(call.ints(1))
    return F.affine_grid(call.tensor(0), shape, bool(call.integer("align_corners", 0)))


def _col2im(call: Call) -> Tensor:
    x, image, block = call.tensor(0), call.ints(1), call.ints(2)
    rank = len(image)
    dilations, strides = call.ints("dilations", [1] * rank), call.ints("strides", [1] * rank)
    pads = call.ints("pads", [0] * 2 * rank)
    padded = [n + pads[i] + pads[rank + i] for i, n in enumerate(image)]
    steps = [
        (n - (size - 1) * dilation - 1) // stride + 1
        for n, size, dilation, stride in zip(padded, block, dilations, strides, strict=True)
    ]
    places = torch.zeros([1] * 2 * rank, dtype=torch.int64)
    for axis in range(rank):
        inner = [1] * 2 * rank
        inner[axis] = block[axis]
        outer = [1] * 2 * rank
        outer[rank + axis] = steps[axis]
        at = torch.arange(block[axis]).reshape(inner) * dilations[axis]
        at = at + torch.arange(steps[axis]).reshape(outer) * strides[axis]
        places = places * padded[axis] + at
    size = 1
    for n in call.bounded(padded):
        size *= n
    count = places.numel()
    data = x.reshape(x.shape[0], -1, count)
    flat = data.new_zeros([*data.shape[:2], size])
    whole = flat.index_add(2, places.reshape(-1), data).reshape(*data.shape[:2], *padded)
    for axis in range(rank):
        whole = whole.narrow(2 + axis, pads[axis], image[axis])
    return whole


def _corners(box: Tensor, centred: bool) -> Tensor:
    """Boxes as [y1, x1, y2, x2] with the smaller corner first."""
    if centred:
        x, y, w, h = box.unbind(-1)
        return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    low = torch.minimum(box[..., :2], box[..., 2:])
    return torch.cat([low, torch.maximum(box[..., :2], box[..., 2:])], -1)


def _overlap(one: Tensor, others: Tensor) -> Tensor:
    low = torch.maximum(one[:2], others[:, :2])
    high = torch.minimum(one[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    area = (others[:, 2:] - others[:, :2]).prod(-1) + (one[2:] - one[:2]).prod()
    return shared / (area - shared)


def _suppress(
    boxes: Tensor, scores: Tensor, most: int, threshold: float, least: float | None
) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True).tolist()
    if least is not None:
        order = [index for index in order if scores[index] > least]
    kept: list[int] = []
    while order and len(kept) < most:
        best = order.pop(0)
        kept.append(best)
        if order:
            overlaps = _overlap(boxes[best], boxes[order]).tolist()
            order = [i for i, overlap in zip(order, overlaps, strict=True) if overlap <= threshold]
    return kept


def _non_max_suppression(call: Call) -> Tensor:
    boxes, scores = call.tensor(0), call.tensor(1)
    most = call.integer(2, 0)
    threshold = call.number(3, 0.0)
    least = call.number(4) if call.has(4) else None
    found = []
    placed = _corners(boxes, bool(call.integer("center_point_box", 0)))
    for batch in range(scores.shape[0]):
        for kind in range(scores.shape[1]):
            kept = _suppress(placed[batch], scores[batch, kind], most, threshold, least)
            found += [[batch, kind, index] for index in kept]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


def _bilinear(image: Tensor, y: Tensor, x: Tensor, largest: bool) -> Tensor:
    """`image` [channels, h, w] at points; those more than one beyond the edge give zero. Where
    `largest`, the four weighted neighbours are kept apart, on a last axis."""
    height, width = image.shape[-2:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y0, x0 = y.floor().long(), x.floor().long()
    y1, x1 = (y0 + 1).clamp(max=height - 1), (x0 + 1).clamp(max=width - 1)
    dy, dx = y - y0, x - x0
    parts = torch.stack(
        [
            image[:, y0, x0] * (1 - dy) * (1 - dx),
            image[:, y0, x1] * (1 - dy) * dx,
            image[:, y1, x0] * dy * (1 - dx),
            image[:, y1, x1] * dy * dx,
        ],
        -1,
    )
    parts = parts * inside.unsqueeze(-1)
    return parts.amax(-1) if largest else parts.sum(-1)


def _roi_align(call: Call) -> Tensor:
    x, rois, batch = (call.tensor(index) for index in range(3))
    height, width = call.integer("output_height", 1), call.integer("output_width", 1)
    ratio, scale = call.integer("sampling_ratio", 0), call.number("spatial_scale", 1.0)
    half = call.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    largest = call.text("mode", "avg") == "max"
    call.bounded([len(rois), x.shape[1], height, width])
    found = []
    for roi, index in zip(rois, batch.tolist(), strict=True):
        x1, y1, x2, y2 = (float(v) * scale - 0.5 * half for v in roi.tolist())
        tall, wide = y2 - y1, x2 - x1
        if not half:
            tall, wide = max(tall, 1.0), max(wide, 1.0)
        rows = ratio or max(1, -int(-tall // height))
        columns = ratio or max(1, -int(-wide // width))
        ys = y1 + (torch.arange(height * rows) + 0.5) * (tall / height / rows)
        xs = x1 + (torch.arange(width * columns) + 0.5) * (wide / width / columns)
        grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
        values = _bilinear(x[index], grid_y, grid_x, largest)
        values = values.reshape(-1, height, rows, width, columns)
        found.append(values.amax((2, 4)) if largest else values.mean((2, 4)))
    return torch.stack(found)


TABLE: dict[str, Kernel] = {
    "AffineGrid": _affine_grid,
    "Col2Im": _col2im,
    "GridSample": _grid_sample,
    "NonMaxSuppression": _non_max_suppression,
    "RoiAlign": _roi_align,
}
