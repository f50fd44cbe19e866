"""Recovery: what a damaged model is trained towards."""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Prune, Sparsify
from skerry.converter.steps.objective import FromTeachers, Teachers
from skerry.converter.steps.training import History, fit

__all__ = ["healing"]


def healing(
    config: Prune | Sparsify, model: nn.Module, bench: Workbench
) -> Callable[[nn.Module, int], History]:
    """How a model is trained after each stage of damage, towards the teacher of the step.

    Args:
        model: as it is before the first of them.
    """
    if config.epochs == 0:
        return _untrained
    teacher = bench.source if config.teacher == "source" else copy.deepcopy(model)
    own = bench.function(config.loss) if config.loss else None
    teachers = Teachers([teacher], None if config.augment else bench.training)

    def heal(damaged: nn.Module, stage: int) -> History:
        # What does not divide goes to the last stage, which needs it most.
        share = config.epochs // config.stages
        epochs = share if stage + 1 < config.stages else config.epochs - share * stage
        if epochs == 0:
            return _untrained(damaged, stage)
        objective = FromTeachers(teachers, config.temperature, config.hard_share, own=own)
        return fit(damaged, config, bench, objective, f"-{stage}", epochs)

    return heal


def _untrained(model: nn.Module, _: int) -> History:
    model.eval()
    return History()
