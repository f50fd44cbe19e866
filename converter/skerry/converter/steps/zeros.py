"""Zeros that were set on purpose stay zero while training goes on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from skerry.converter.structure import Structure

__all__ = ["keep_zeros"]


def keep_zeros(model: nn.Module) -> Callable[[], None]:
    """A function that sets to zero again what is zero now in the model's sparse parameters."""
    sparse = Structure.of(model).sparse
    held = [one for name, one in model.named_parameters() if name in sparse]
    masks = [(one != 0).to(one.dtype) for one in held]

    @torch.no_grad()
    def again() -> None:
        for one, mask in zip(held, masks, strict=True):
            one.mul_(mask)

    return again
