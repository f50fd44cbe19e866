"""Which function does a step."""

from __future__ import annotations

from torch import nn

from skerry.converter.steps.base import StepRecord, Workbench
from skerry.converter.steps.config import Distill, Finetune, Prune, Qat, Sparsify, Step
from skerry.converter.steps.distill import distill
from skerry.converter.steps.finetune import finetune
from skerry.converter.steps.prune import prune
from skerry.converter.steps.sparsify import sparsify
from skerry.converter.structure import Structure

__all__ = ["apply_step"]


def apply_step(step: Step, model: nn.Module, bench: Workbench) -> tuple[nn.Module, StepRecord]:
    """Do one step before quantization.

    Returns:
        The model, and what was done; time, metric and size are filled in by the caller.

    Raises:
        InputError: it cannot be done with this model.
    """
    kept: dict[str, float] = {}
    whole: dict[str, str] = {}
    zeros: dict[str, float] = {}
    skipped = set(Structure.of(model).skipped)
    match step:
        case Distill():
            model, history = distill(step, model, bench)
        case Prune():
            pruned = prune(step, model, bench)
            history, kept, whole = pruned.history, pruned.kept, pruned.whole
        case Sparsify():
            model, history, zeros = sparsify(step, model, bench)
        case Finetune():
            model, history = finetune(step, model, bench)
        case Qat():
            raise TypeError("the quantized model is trained after it is decided")
    gone = tuple(name for name in Structure.of(model).skipped if name not in skipped)
    return model, StepRecord(
        step.kind_name,
        seconds=0.0,
        metric=0.0,
        parameters=0,
        loss=history.loss,
        held_out=history.held_out,
        kept=kept,
        whole=whole,
        skipped=gone,
        zeros=zeros,
    )
