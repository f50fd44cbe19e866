"""Training the quantized model towards the float one it was made of."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from skerry.converter.graph import as_tuple
from skerry.converter.quantize.qat import Trainable
from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Qat
from skerry.converter.steps.objective import FromTeachers, Teachers
from skerry.converter.steps.training import History, fit
from skerry.converter.structure import Structure

__all__ = ["train_quantized"]

_LEAST = 1e-12


def train_quantized(
    config: Qat, model: Trainable, teacher: nn.Module, bench: Workbench, *, softmax: bool
) -> History:
    """Train `model` in place.

    Args:
        teacher: takes inputs as callers pass them, like `model`.
        bench: its training set's rows are shown as callers pass them.
        softmax: whether both end in a softmax.

    Returns:
        The losses by epoch.
    """
    student: nn.Module = model
    if softmax:
        student, teacher = _Scores(model), _Scores(teacher)
    Structure.of(model).remember(student)
    rows = bench.training.raw()
    teachers = Teachers([teacher], None if config.augment else rows)
    own = bench.function(config.loss) if config.loss else None
    objective = FromTeachers(teachers, config.temperature, config.hard_share, own=own)
    return fit(student, config, replace(bench, training=rows), objective)


class _Scores(nn.Module):
    """What a model said before its softmax, but for a constant in each row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logarithms of the first output."""
        return torch.log(as_tuple(self.model(*inputs))[0].clamp_min(_LEAST))
