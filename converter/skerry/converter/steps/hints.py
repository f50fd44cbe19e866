"""Feature hints: layers of a student learn what layers of its teacher give.

Source: Romero et al., "FitNets: Hints for Thin Deep Nets", 2015. Where widths differ, a linear
projection from the student's channels to the teacher's is learned beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from skerry.converter.graph import as_tuple
from skerry.converter.steps.config import Hint
from skerry.devices.errors import InputError

__all__ = ["Hints", "layer_named"]


def layer_named(model: nn.Module, name: str, key: str) -> nn.Module:
    """The layer of that name.

    Raises:
        InputError: there is none; the message names some that there are.
    """
    modules = dict(model.named_modules())
    if name not in modules or not name:
        near = ", ".join(name for name, one in modules.items() if name and not list(one.children()))
        raise InputError(f"{key}: the model has no layer {name!r}", remedy=f"it has: {near}")
    layer: nn.Module = modules[name]
    return layer


class Hints(nn.Module):
    """The squared error of the student's features, each relative to the size of the teacher's.

    Args:
        hints: which layers.
        student, teacher: they are watched until `close`.
        example: inputs as both take them, to see the shapes.

    Raises:
        InputError: a layer does not exist, gives no tensor, or the two do not fit each other.
    """

    def __init__(
        self,
        hints: Sequence[Hint],
        student: nn.Module,
        teacher: nn.Module,
        example: tuple[Tensor, ...],
    ) -> None:
        super().__init__()
        self._hints = tuple(hints)
        self._seen: dict[tuple[str, int], Tensor] = {}
        self._watched: list[RemovableHandle] = []
        for number, hint in enumerate(self._hints):
            self._watch("teacher", number, layer_named(teacher, hint.teacher, "hints"))
            self._watch("student", number, layer_named(student, hint.student_layer, "hints"))
        with torch.no_grad():
            student(*example)
            teacher(*example)
        self.projections = nn.ModuleList(self._projection(i) for i in range(len(self._hints)))

    def forward(self) -> Tensor:
        """The weighted sum over all hints, for the batch that both have just seen."""
        total = torch.zeros((), device=self._seen["student", 0].device)
        for number, hint in enumerate(self._hints):
            wanted = self._seen["teacher", number].float()
            own = _resized(self.projections[number](self._seen["student", number]), wanted).float()
            size = wanted.pow(2).mean().clamp_min(1e-12)
            total = total + hint.weight * (own - wanted).pow(2).mean() / size
        return total

    def close(self) -> None:
        """Stop watching."""
        for one in self._watched:
            one.remove()
        self._seen.clear()

    def _watch(self, whose: str, number: int, layer: nn.Module) -> None:
        def keep(_: nn.Module, __: Any, given: Any) -> None:
            self._seen[whose, number] = as_tuple(given)[0]

        self._watched.append(layer.register_forward_hook(keep))

    def _projection(self, number: int) -> nn.Module:
        hint = self._hints[number]
        own, wanted = self._seen["student", number], self._seen["teacher", number]
        if own.ndim != wanted.ndim or own.ndim < 2:
            raise InputError(
                f"hints: {hint.student_layer} gives {list(own.shape[1:])} a row, the teacher's "
                f"{hint.teacher} {list(wanted.shape[1:])}",
                remedy="name two layers whose results have the same axes",
            )
        channels = -1 if own.ndim == 3 else 1
        inward, outward = own.shape[channels], wanted.shape[channels]
        if inward == outward:
            return nn.Identity()
        if own.ndim == 4:
            return nn.Conv2d(inward, outward, 1, bias=False)
        return nn.Linear(inward, outward, bias=False)


def _resized(own: Tensor, wanted: Tensor) -> Tensor:
    """Pictures of features at the teacher's height and width."""
    if own.ndim != 4 or own.shape[2:] == wanted.shape[2:]:
        return own
    return functional.adaptive_avg_pool2d(own, (wanted.shape[2], wanted.shape[3]))
