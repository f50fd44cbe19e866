"""The rows of the evaluation set on which an artifact and its source differ most."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.recipe import Input

__all__ = ["Example", "picture", "worst"]

_SHOWN_PIXELS = 72


@dataclass(frozen=True)
class Example:
    """One row.

    Attributes:
        row: its number in the evaluation set.
        label, source, found: the true class and the answers, by name.
        distance: the largest absolute difference of a score.
        image: a data URI of the input, or empty where the input is no picture.
    """

    row: int
    label: str
    source: str
    found: str
    distance: float
    image: str


def worst(
    source: NDArray[Any],
    found: NDArray[Any],
    labels: NDArray[Any],
    inputs: NDArray[Any],
    spec: Input,
    names: Sequence[str],
    count: int = 8,
) -> list[Example]:
    """The rows whose answer changed first, then those whose scores moved most.

    Args:
        source, found: scores [N, classes].
        labels: class numbers [N], or whatever the user's metric reads, [N, …].
        inputs: the first input, [N, …].
    """
    if source.ndim != 2:
        return []
    distance = np.abs(source.astype(np.float64) - found).max(-1)
    changed = source.argmax(-1) != found.argmax(-1)
    order = np.lexsort((np.arange(len(labels)), -distance, ~changed))[:count]

    numbers = labels.dtype.kind in "iu" and labels.ndim == 1

    def name(number: int) -> str:
        return names[number] if 0 <= number < len(names) else str(number)

    return [
        Example(
            row=int(row),
            label=name(int(labels[row])) if numbers else str(labels[row]),
            source=name(int(source[row].argmax())),
            found=name(int(found[row].argmax())),
            distance=float(distance[row]),
            image=picture(inputs[row], spec),
        )
        for row in order
    ]


def picture(row: NDArray[Any], spec: Input) -> str:
    """One row of an image input as a data URI of a PNG; empty where it is no picture.

    Args:
        row: as callers pass it, [height, width, channels] or [channels, height, width].
    """
    if spec.picture is None:
        return ""
    from PIL import Image

    pixels = row if spec.channels_last else np.moveaxis(row, 0, -1)
    values = pixels.astype(np.float64)
    low, high = (
        (0.0, 255.0)
        if values.max() > 16 and spec.dtype == "uint8"
        else (values.min(), values.max())
    )
    shown = np.rint((values - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8)
    image = Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown)
    times = max(1, _SHOWN_PIXELS // max(image.size))
    image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
