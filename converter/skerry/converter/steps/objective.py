"""What training minimises: labels, what a teacher says and sees, or the user's own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from skerry.converter.graph import as_tuple
from skerry.converter.steps.base import Batch, TrainingSet
from skerry.converter.steps.hints import Hints
from skerry.devices.errors import InputError

__all__ = ["FromLabels", "FromTeachers", "Objective", "Teachers", "UserLoss", "label_loss"]

UserLoss = Callable[[Tensor, Tensor | None, Tensor], Any]
_TARGET_ROWS = 512


class Objective(nn.Module):
    """A loss that may have parameters of its own, which are trained and then thrown away."""

    def forward(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """The loss of what the model gave for a batch, a scalar."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the model."""


def label_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy against class numbers, or squared error against float targets.

    Args:
        scores: [n, …].
        labels: float targets of that shape; or class numbers of that shape without the last axis
            (the classes, as for the metrics) or, where that does not fit, without the second.
    """
    if labels.is_floating_point():
        return functional.mse_loss(scores, labels)
    return functional.cross_entropy(scores.movedim(_class_axis(scores, labels), 1), labels)


def _class_axis(scores: Tensor, labels: Tensor) -> int:
    """The axis of the scores that labels count: the last, unless they fit the second alone."""
    last, second = scores.shape[:-1], (*scores.shape[:1], *scores.shape[2:])
    return 1 if labels.shape != last and labels.shape == second else -1


class FromLabels(Objective):
    """The first output against the labels.

    Args:
        own: the user's loss instead, or None.
    """

    def __init__(self, own: UserLoss | None = None) -> None:
        super().__init__()
        self._own = own

    def forward(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        scores = outputs[0].float()
        if self._own is None:
            return label_loss(scores, batch.labels)
        return _scalar(self._own(scores, None, batch.labels))


class Teachers:
    """What one or several teachers say of a batch: the mean of their scores.

    Args:
        models: in eval mode.
        remembered: the rows that are always shown alike, so that each is asked about once; None
            where they are augmented.
    """

    def __init__(self, models: Sequence[nn.Module], remembered: TrainingSet | None = None) -> None:
        self.models = tuple(models)
        for model in self.models:
            model.eval()
        self._remembered = remembered
        self._scores: Tensor | None = None

    def to(self, device: torch.device) -> None:
        """Move them, and ask them there about the rows that are remembered."""
        for model in self.models:
            model.to(device)
        if self._scores is not None:
            self._scores = self._scores.to(device)
        elif self._remembered is not None:
            self._scores = self._all(self._remembered.to(device))

    def __call__(self, batch: Batch) -> Tensor:
        """Scores [n, classes], float32."""
        if self._scores is not None:
            return self._scores[batch.rows.to(self._scores.device)]
        return self.ask(batch.inputs)

    @torch.no_grad()
    def ask(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The mean of their scores for inputs as they take them."""
        scores = [as_tuple(model(*inputs))[0].float() for model in self.models]
        if len({one.shape for one in scores}) > 1:
            raise InputError(
                f"the teachers give {' and '.join(str(one.shape[1:]) for one in scores)} scores",
                remedy="let all have the same classes",
            )
        return torch.stack(scores).mean(0)

    def _all(self, rows: TrainingSet) -> Tensor:
        parts = zip(*[torch.split(one, _TARGET_ROWS) for one in rows.inputs], strict=True)
        return torch.cat([self.ask(rows.prepare(*part)) for part in parts])


class FromTeachers(Objective):
    """T²·KL(teacher ‖ student) at temperature T, mixed with the loss against true labels.

    The classes are where `label_loss` finds them. Where there are none, as float labels or a single
    score say, it is the squared error against the teacher instead.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Args:
        hard_share: of the true labels; at 0 they are not looked at.
        hints: features to learn as well.
        own: the user's loss in place of both, or None.
    """

    def __init__(
        self,
        teachers: Teachers,
        temperature: float,
        hard_share: float,
        hints: Hints | None = None,
        own: UserLoss | None = None,
    ) -> None:
        super().__init__()
        self.hints = hints
        self._teachers = (teachers,)  # in a tuple, so that they are no part of this module
        self._temperature, self._hard_share, self._own = temperature, hard_share, own

    def to(self, *args: Any, **kwargs: Any) -> FromTeachers:
        self._teachers[0].to(*args)
        super().to(*args, **kwargs)
        return self

    def forward(self, outputs: tuple[Tensor, ...], batch: Batch) -> Tensor:
        scores = outputs[0].float()
        targets = self._teachers[0](batch)
        loss = self._of_scores(scores, targets, batch.labels)
        return loss if self.hints is None else loss + self.hints()

    def _of_scores(self, scores: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        if self._own is not None:
            return _scalar(self._own(scores, targets, labels))
        soft = self._soft(scores, targets, labels)
        if self._hard_share == 0:
            return soft
        return (1 - self._hard_share) * soft + self._hard_share * label_loss(scores, labels)

    def _soft(self, scores: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        t, axis = self._temperature, _class_axis(scores, labels)
        if labels.is_floating_point() or scores.ndim < 2 or scores.shape[axis] == 1:
            return functional.mse_loss(scores, targets)
        divergence = functional.kl_div(
            functional.log_softmax(scores / t, axis),
            functional.log_softmax(targets / t, axis),
            reduction="batchmean",
            log_target=True,
        )
        return t**2 * divergence

    def close(self) -> None:
        if self.hints is not None:
            self.hints.close()


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise InputError(
            "the loss gave no scalar tensor that depends on the scores",
            where="loss",
            remedy="return one torch tensor of shape [] computed from its first argument",
        )
    return value.reshape(())
