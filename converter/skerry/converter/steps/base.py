"""What a step is: configuration and module in, module and record out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from torch import Tensor, nn

__all__ = ["StepRecord", "TrainingSet", "Workbench", "parameters"]


class StepRecord(msgspec.Struct, frozen=True):
    """What a step did.

    Attributes:
        kind: of the step.
        seconds: it took.
        metric: on the evaluation set, after it.
        parameters: of the model, after it.
        loss: mean training loss of each epoch.
    """

    kind: str
    seconds: float
    metric: float
    parameters: int
    loss: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrainingSet:
    """Rows as the model takes them.

    Attributes:
        inputs: float tensors [N, …], one per input.
        labels: int64 class numbers [N], or float targets.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor


@dataclass(frozen=True)
class Workbench:
    """What every step may use.

    Attributes:
        source: the model as the user brought it, in eval mode.
        training: the training set.
        seed: of every random choice.
        factory: makes the module of a `file.py:factory` with optional weights.
        advance: told after each epoch, with a word on how it goes.
    """

    source: nn.Module
    training: TrainingSet
    seed: int
    factory: Callable[[str, str], nn.Module]
    advance: Callable[[str], None]


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())
