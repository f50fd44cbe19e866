"""Fine-tuning: go on training on the labels."""

from __future__ import annotations

from torch import nn

from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Finetune
from skerry.converter.steps.objective import FromLabels
from skerry.converter.steps.training import History, fit

__all__ = ["finetune"]


def finetune(config: Finetune, model: nn.Module, bench: Workbench) -> tuple[nn.Module, History]:
    """Train `model` in place. Returns it and its losses by epoch."""
    own = bench.function(config.loss) if config.loss else None
    return model, fit(model, config, bench, FromLabels(own))
