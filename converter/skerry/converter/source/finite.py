"""Weights that are numbers."""

from __future__ import annotations

import torch
from torch import nn

from skerry.devices.errors import InputError

__all__ = ["check_finite"]


def check_finite(model: nn.Module, where: object) -> None:
    """Raise InputError if a weight is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"the weight {name} holds values that are not finite",
                where=where,
                remedy="train again from a good checkpoint",
            )
