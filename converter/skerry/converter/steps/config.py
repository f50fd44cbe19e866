"""What a recipe says of each step. No torch here: a recipe is refused before it loads."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Distill", "Finetune", "Prune", "Step"]

_Count = Annotated[int, Meta(ge=1)]
_Epochs = Annotated[int, Meta(ge=0)]
_Rate = Annotated[float, Meta(gt=0)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class _Training(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every training step needs.

    Attributes:
        epochs: passes over the training set.
        batch: rows per optimizer step.
        learning_rate: AdamW's peak rate; it rises over the first tenth and falls along a cosine.
        weight_decay: AdamW's decoupled decay.
        freeze: names (or prefixes of names) of parameters that stay as they are.
    """

    epochs: _Epochs = 10
    batch: _Count = 128
    learning_rate: _Rate = 2e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-4
    freeze: tuple[str, ...] = ()

    @property
    def kind_name(self) -> str:
        """What the recipe calls this kind of step."""
        return str(self.__struct_config__.tag)


class Distill(
    _Training,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="distill",
    tag_field="kind",
):
    """Train a student on the soft targets of a teacher (Hinton, Vinyals and Dean 2015).

    Attributes:
        student: `file.py:factory` of the student; empty for the model as it is.
        teacher: `file.py:factory` of the teacher; empty for the source.
        weights: the teacher's weights, where `teacher` is given.
        temperature: what logits are divided by before the softmax.
        hard_share: the share of the loss that true labels have, 0 to 1.
    """

    student: str = ""
    teacher: str = ""
    weights: str = ""
    temperature: _Rate = 4.0
    hard_share: _Share = 0.3


class Finetune(
    _Training,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="finetune",
    tag_field="kind",
):
    """Train on the labels of the training set."""


class Prune(
    _Training, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="prune", tag_field="kind"
):
    """Remove whole channels, then recover by distillation from the model as it was.

    Attributes:
        ratio: the share of channels of each layer to remove, 0 to 1.
        round_to: channel counts stay multiples of this.
        keep: names of layers that are not pruned. The layers that give the outputs never are.
        temperature, hard_share: of the recovery, as in `Distill`.
    """

    ratio: Annotated[float, Meta(gt=0, lt=1)]
    round_to: _Count = 4
    keep: tuple[str, ...] = ()
    temperature: _Rate = 4.0
    hard_share: _Share = 0.3


Step = Distill | Finetune | Prune
