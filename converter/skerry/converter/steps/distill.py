"""Distillation: a student learns what the teacher says of each row, and how sure it is."""

from __future__ import annotations

from torch import nn

from skerry.converter.steps.base import Workbench
from skerry.converter.steps.config import Distill
from skerry.converter.steps.training import distillation_loss, fit, soft_targets
from skerry.devices.errors import InputError

__all__ = ["distill"]


def distill(
    config: Distill, model: nn.Module, bench: Workbench
) -> tuple[nn.Module, tuple[float, ...]]:
    """Train the student, new or as it is, on the teacher's soft targets.

    Returns:
        The student and its loss by epoch.

    Raises:
        InputError: the two do not give the same number of scores.
    """
    teacher = bench.factory(config.teacher, config.weights) if config.teacher else bench.source
    logits = soft_targets(teacher, bench.training)
    student = bench.factory(config.student, "") if config.student else model
    given = soft_targets(student, bench.training)
    if given.shape != logits.shape:
        raise InputError(
            f"the student gives {list(given.shape[1:])} scores a row, "
            f"the teacher {list(logits.shape[1:])}",
            remedy="let both have the same classes",
        )
    loss = distillation_loss(logits, bench.training.labels, config.temperature, config.hard_share)
    return student, fit(student, config, bench, loss)
