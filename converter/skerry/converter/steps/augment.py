"""Random crops and flips of pictures, as callers pass them; on whatever device they lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from skerry.converter.steps.config import Augment

__all__ = ["Picture", "augment"]


@dataclass(frozen=True)
class Picture:
    """Where a picture's channels are.

    Attributes:
        channels_last: [N, height, width, channels], else [N, channels, height, width].
    """

    channels_last: bool


def augment(rows: Tensor, how: Augment, picture: Picture, generator: torch.Generator) -> Tensor:
    """Crop and flip each row by itself.

    Args:
        rows: [N, …], any dtype.
        generator: on the CPU, so that the same seed means the same pictures on every device.

    Returns:
        Of the same shape and dtype.
    """
    pictures = rows if picture.channels_last else rows.movedim(1, -1)
    count, height, width = pictures.shape[:3]
    top, left = torch.randint(0, 2 * how.crop + 1, (2, count, 1), generator=generator)
    y, x = torch.arange(height) + top, torch.arange(width) + left
    if how.flip:
        mirrored = torch.randint(0, 2, (count, 1), generator=generator).bool()
        x = torch.where(mirrored, x.flip(1), x)
    padded = functional.pad(pictures, (0, 0, *[how.crop] * 4)) if how.crop else pictures
    index = (torch.arange(count)[:, None, None], y[:, :, None], x[:, None, :])
    cut = padded[tuple(one.to(rows.device, non_blocking=True) for one in index)]
    return cut if picture.channels_last else cut.movedim(-1, 1)
