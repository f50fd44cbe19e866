"""What a recipe says of each step. No torch here: a recipe is refused before it loads."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = [
    "Augment",
    "Criterion",
    "Distill",
    "Finetune",
    "Hint",
    "Prune",
    "Qat",
    "Sparsify",
    "Step",
    "Training",
    "reads_labels",
]

_Count = Annotated[int, Meta(ge=1)]
_Epochs = Annotated[int, Meta(ge=0)]
_Rate = Annotated[float, Meta(gt=0)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Part = Annotated[float, Meta(gt=0, lt=1)]
_Kept = Annotated[float, Meta(gt=0, le=1)]
Criterion = Literal["magnitude", "taylor", "bn_scale"]


class Augment(Struct, frozen=True, forbid_unknown_fields=True):
    """What is done to pictures each time they are shown, as callers pass them.

    Attributes:
        crop: pixels of black added on every side, before a window of the old size is cut at random.
        flip: whether every second picture, at random, is mirrored left to right.
    """

    crop: Annotated[int, Meta(ge=0, le=256)] = 0
    flip: bool = False

    def __bool__(self) -> bool:
        return self.crop > 0 or self.flip


class Training(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every training step needs.

    Attributes:
        epochs: passes over the training set.
        batch: rows per optimizer step.
        optimizer: `adamw`, or `sgd` with Nesterov's momentum of 0.9.
        learning_rate: the peak rate; it rises over the first tenth and falls along a cosine.
        weight_decay: AdamW's decoupled decay, or SGD's L2 penalty; of matrices and kernels alone.
        freeze: names (or prefixes of names) of parameters that stay as they are.
        augment: random crops and flips of pictures.
        patience: stop after so many epochs without a lower loss on held-out rows, and go back to
            the best; 0 trains to the end.
        held_out: the share of the training rows held out for that.
        loss: `file.py:function` instead of the step's own: (scores [n, …], targets, labels [n]) →
            a scalar tensor; targets are the teachers' scores, or None where there is no teacher.
    """

    epochs: _Epochs = 10
    batch: _Count = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: _Rate = 2e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-4
    freeze: tuple[str, ...] = ()
    augment: Augment = Augment()
    patience: Annotated[int, Meta(ge=0)] = 0
    held_out: _Part = 0.1
    loss: str = ""

    @property
    def kind_name(self) -> str:
        """What the recipe calls this kind of step."""
        return str(self.__struct_config__.tag)


class Hint(Struct, frozen=True, forbid_unknown_fields=True):
    """A layer of the student that learns what a layer of the teacher gives (Romero et al. 2015).

    Attributes:
        teacher, student: names of the layers; the student's alone may be left out.
        weight: of this hint's loss beside the others'.
    """

    teacher: str
    student: str = ""
    weight: _Rate = 1.0

    @property
    def student_layer(self) -> str:
        """The student's layer: by default the one that is called as the teacher's."""
        return self.student or self.teacher


class Distill(
    Training, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="distill", tag_field="kind"
):
    """Train a student on the soft targets of a teacher (Hinton, Vinyals and Dean 2015).

    Attributes:
        student: `file.py:factory` of the student; empty for the model as it is, made smaller by
            `width` and `depth`.
        start: weights that the student begins with, such as those of a training elsewhere.
        width: share of the channels of every layer that a student made of the model keeps.
        depth: share of the blocks of each sequence (its children that keep their input's shape).
        teacher: `file.py:factory` of the teacher, or several; empty for the source.
        weights: the teachers' weights, in that order, where `teacher` is given.
        rows: data to learn from instead of `data.train`; they need no labels where `hard_share`
            is 0.
        temperature: what logits are divided by before the softmax; of no effect where the scores
            are no classes.
        hard_share: the share of the loss that true labels have, 0 to 1.
        hints: layers of the student that learn from layers of the (first) teacher.
    """

    student: str = ""
    start: str = ""
    width: _Kept = 1.0
    depth: _Kept = 1.0
    teacher: str | tuple[str, ...] = ""
    weights: str | tuple[str, ...] = ""
    rows: str = ""
    temperature: _Rate = 4.0
    hard_share: _Share = 0.3
    hints: tuple[Hint, ...] = ()

    @property
    def teachers(self) -> tuple[tuple[str, str], ...]:
        """Factory and weights of each teacher that is named."""
        names = (self.teacher,) if isinstance(self.teacher, str) else self.teacher
        files = (self.weights,) if isinstance(self.weights, str) else self.weights
        files += ("",) * (len(names) - len(files))
        return tuple((name, file) for name, file in zip(names, files, strict=False) if name)


class Finetune(
    Training,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="finetune",
    tag_field="kind",
):
    """Train on the labels of the training set."""


class _Recovery(Training, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A step that damages the model and heals it by distillation.

    Attributes:
        teacher: what it learns from: the model as it was `before` the step, or the `source`.
        temperature, hard_share: as in `Distill`.
        stages: damage in so many parts, each followed by its share of the epochs.
    """

    teacher: Literal["before", "source"] = "before"
    temperature: _Rate = 4.0
    hard_share: _Share = 0.3
    stages: _Count = 1


class Prune(
    _Recovery, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="prune", tag_field="kind"
):
    """Remove whole channels and whole heads of attentions, then recover by distillation.

    Attributes:
        ratio: the share of channels, and of heads, to remove, 0 to 1.
        scope: whether each `layer` loses that share, or those channels go that matter least in the
            whole model (`global`), or each layer loses as much as it bears (`sensitivity`: each is
            tried alone, and those whose loss hurts least lose most).
        ratios: shares of single layers instead, by names or prefixes of names.
        criterion: how much a channel matters: the L2 norm of its weights, what its loss would add
            to the training loss to first order (`taylor`), or its batch norm's scale.
        most: the largest share that one layer loses.
        round_to: channel counts stay multiples of this; 0 for what the target's profile wants.
        keep: names of layers that are not pruned; the name of an attention, or what it begins
            with, keeps its heads. The layers that give the outputs are never pruned.
        depth: share of the blocks of each sequence (its children that keep their input's shape)
            that stays; those go first that change their input least.
    """

    ratio: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    scope: Literal["layer", "global", "sensitivity"] = "layer"
    ratios: dict[str, Annotated[float, Meta(ge=0, lt=1)]] = {}
    criterion: Criterion = "magnitude"
    most: _Kept = 0.9
    round_to: Annotated[int, Meta(ge=0)] = 0
    keep: tuple[str, ...] = ()
    depth: _Kept = 1.0


class Sparsify(
    _Recovery,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    tag="sparsify",
    tag_field="kind",
):
    """Set single weights to zero, then recover with those zeros kept.

    Files become smaller once they are compressed; no kernel of the three engines skips a zero, so
    nothing becomes faster, and the report says so.

    Attributes:
        pattern: `unstructured` zeroes the smallest weights of the whole model, `2:4` two of every
            four neighbours along a layer's inputs.
        ratio: the share of weights to zero; 2:4 zeroes half.
        keep: names of layers that stay dense.
    """

    pattern: Literal["unstructured", "2:4"] = "unstructured"
    ratio: _Part = 0.5
    keep: tuple[str, ...] = ()


class Qat(
    Training, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="qat", tag_field="kind"
):
    """Train the quantized model: weights, biases and scales, from where calibration left them.

    It is the last step, and the float artifacts are those of the model before it.

    Attributes:
        teacher: the float model as it is `before` quantization, or the `source`.
        temperature, hard_share: as in `Distill`; by default no labels are used.
        scales: whether scales are trained as well (Esser et al. 2020, LSQ).
        start: a trained quantized model to begin with, as `skerry train` writes it.
    """

    learning_rate: _Rate = 1e-4
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    epochs: _Epochs = 3
    teacher: Literal["before", "source"] = "before"
    temperature: _Rate = 1.0
    hard_share: _Share = 0.0
    scales: bool = True
    start: str = ""


Step = Distill | Finetune | Prune | Sparsify | Qat


def reads_labels(step: Step) -> bool:
    """Whether a step looks at true labels by itself; what a loss of the user's does is its own."""
    if isinstance(step, Prune) and step.criterion == "taylor":
        return True
    share = 1.0 if isinstance(step, Finetune) else step.hard_share
    return step.epochs > 0 and not step.loss and share > 0
