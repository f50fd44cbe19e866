"""What a step is: configuration and module in, module and record out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from skerry.converter.steps.augment import Picture

__all__ = ["AsTheyAre", "Batch", "StepRecord", "TrainingSet", "Workbench", "parameters"]


class StepRecord(msgspec.Struct, frozen=True):
    """What a step did.

    Attributes:
        kind: of the step.
        seconds: it took.
        metric: on the evaluation set, after it.
        parameters: of the model, after it.
        loss: mean training loss of each epoch.
        held_out: loss on the held-out rows after each epoch, where there are some.
        kept: the share of channels that each pruned layer kept.
        whole: attentions that could not lose heads, and why, by the layers before them.
        skipped: blocks that were taken out.
        zeros: the share of each layer's weights that are zero, where they were set so.
    """

    kind: str
    seconds: float
    metric: float
    parameters: int
    loss: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()
    kept: dict[str, float] = {}
    whole: dict[str, str] = {}
    skipped: tuple[str, ...] = ()
    zeros: dict[str, float] = {}


class AsTheyAre(nn.Module):
    """For a model that takes rows as callers pass them."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs."""
        return inputs


@dataclass(frozen=True)
class Batch:
    """Rows that are trained on together.

    Attributes:
        inputs: as the model takes them.
        labels: [n].
        rows: their numbers in the training set, int64 [n], on the CPU.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor


@dataclass(frozen=True)
class TrainingSet:
    """Rows as callers pass them.

    Attributes:
        inputs: [N, …], one per input.
        labels: int64 class numbers [N], or float targets; of no meaning where data have none.
        prepare: called with them, gives what the model takes.
        picture: where height and width of the first input are, if it is a picture.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    prepare: nn.Module = field(default_factory=AsTheyAre)
    picture: Picture | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> TrainingSet:
        """The same rows on another device."""
        return replace(
            self,
            inputs=tuple(one.to(device) for one in self.inputs),
            labels=self.labels.to(device),
            prepare=copy.deepcopy(self.prepare).to(device),
        )

    def raw(self) -> TrainingSet:
        """The rows for a model that takes them as callers pass them."""
        return replace(self, prepare=AsTheyAre())

    @torch.no_grad()
    def example(self, rows: int = 2) -> tuple[Tensor, ...]:
        """The first rows, as the model takes them."""
        prepared: tuple[Tensor, ...] = self.prepare(*[one[:rows] for one in self.inputs])
        return prepared


@dataclass(frozen=True)
class Workbench:
    """What every step may use.

    Attributes:
        source: the model as the user brought it, in eval mode.
        training: the training set.
        seed: of every random choice.
        factory: makes the module of a `file.py:factory` with optional weights.
        function: the user's `file.py:function` by that text.
        unlabelled: the rows of data that a step names.
        advance: told after each epoch, with a word on how it goes.
        device: where training runs; models come and go on the CPU.
        mixed: whether training before quantization runs in bfloat16 where that keeps the result.
        checkpoints: a folder for the state of a training in progress, or None for none.
        round_to: what the target's profile wants channel counts to be multiples of.
    """

    source: nn.Module
    training: TrainingSet
    seed: int
    factory: Callable[[str, str], nn.Module]
    advance: Callable[[str], None]
    function: Callable[[str], Callable[..., Any]] = field(default=lambda text: _missing(text))
    unlabelled: Callable[[str], TrainingSet] = field(default=lambda text: _missing(text))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mixed: bool = False
    checkpoints: Path | None = None
    round_to: int = 1


def _missing(text: str) -> Any:
    raise LookupError(text)


def parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters())
