"""Fine-tuning: go on training on the labels."""

from __future__ import annotations

from torch import nn

from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Finetune
from skerry.converter.steps.training import fit, label_loss

__all__ = ["finetune"]


def finetune(
    config: Finetune, model: nn.Module, bench: Workbench
) -> tuple[nn.Module, tuple[float, ...]]:
    """Train `model` in place. Returns it and its loss by epoch."""
    return model, fit(model, config, bench, label_loss(bench.training.labels))
