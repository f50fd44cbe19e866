"""AdaRound (Nagel et al. 2020, Up or Down?): learn which way each weight rounds.

For each layer in turn, on what the rounded layers before it give: minimise the squared error of
its output over the rounding of its weights, relaxed by a rectified sigmoid that a regulariser
drives to 0 or 1.

A layer is linear in its weights, so the error is a quadratic form of them. Its matrix, the second
moments of what the layer reads, is summed up once over all rows; a step then costs what the
weights cost, however many rows there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from skerry.converter.quantize.constants import constant, set_constant
from skerry.converter.quantize.observers import Decided
from skerry.converter.quantize.twin import Moment

__all__ = ["Rounding", "learn_rounding"]

_ROWS = 16  # that are summed up at once
_LOW, _HIGH = -0.1, 1.1  # the rectified sigmoid's stretch, equation 23
_RECTIFIERS: dict[object, tuple[float | None, float | None]] = {
    torch.ops.aten.relu.default: (0.0, None),
    torch.ops.aten.hardtanh.default: (0.0, 6.0),
    torch.ops.aten.relu6.default: (0.0, 6.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How long and how hard to learn.

    Attributes:
        steps: gradient steps for each layer.
        rate: of Adam.
        weight: of the regulariser.
        warm_up: share of the steps before the regulariser sets in.
        sharpest, softest: its exponent, annealed from softest to sharpest.
    """

    steps: int = 300
    rate: float = 1e-2
    weight: float = 0.01
    warm_up: float = 0.2
    sharpest: float = 2.0
    softest: float = 20.0


def learn_rounding(decided: GraphModule, moment: Moment, rounding: Rounding | None = None) -> None:
    """Move, in place, the weight of the layer that two runs have reached onto learned integers.

    Args:
        decided: the graph of a `QuantizedModel`; its scales stay as decided.
        rounding: how long and how hard to learn.
    """
    layer = moment.layer
    weight = constant(decided, layer.weight)
    bias = None if layer.bias is None else constant(decided, layer.bias)
    with torch.no_grad():
        error = _ErrorForm.of(moment, weight, bias)
    with torch.enable_grad():
        learned = _learn(moment.decision, weight, error, rounding or Rounding())
    with torch.no_grad():
        set_constant(decided, layer.weight, _better(moment, weight, learned, bias))


@dataclass(frozen=True, slots=True)
class _ErrorForm:
    """The squared error of a layer's output, as a function of a change of its weights.

    Attributes:
        second: what the layer reads times itself, summed over rows and places, [groups, k, k],
            where k weights make one output channel.
        cross: what the layer still misses times what it reads, [groups, channels / groups, k].
        axis: of the weight, that counts output channels.
        unit: the error is given in parts of this, the sum of squares of the float layer's output.
    """

    second: Tensor
    cross: Tensor
    axis: int
    unit: float

    @classmethod
    def of(cls, moment: Moment, weight: Tensor, bias: Tensor | None) -> _ErrorForm:
        """Sum up, some rows at a time."""
        axis = moment.layer.axis
        channels = -1 if weight.ndim == 2 else 1  # of a linear layer they come last
        read = moment.x if axis == 0 else moment.exact
        groups = read.shape[channels] // weight.shape[1]
        each = _by_group(weight, axis, groups)
        units = _units(weight, axis, groups)
        second = weight.new_zeros(groups, each.shape[2], each.shape[2])
        cross = torch.zeros_like(each)
        for start in range(0, len(moment.x), _ROWS):
            rows = slice(start, start + _ROWS)
            x = moment.x[rows]
            missing = moment.exact[rows] - moment.call(x, weight, bias)
            seen = _places(moment.call(x, units, None), channels, groups)
            second += seen @ seen.transpose(1, 2)
            cross += _places(missing, channels, groups) @ seen.transpose(1, 2)
        return cls(second, cross, axis, float(moment.exact.pow(2).sum().clamp_min(1e-12)))

    def __call__(self, change: Tensor) -> Tensor:
        """How much the error grows, as a scalar."""
        moved = _by_group(change, self.axis, len(self.second))
        return ((moved @ self.second - 2 * self.cross) * moved).sum() / self.unit


def _by_group(weight: Tensor, axis: int, groups: int) -> Tensor:
    """A weight as [groups, channels / groups, weights of a channel]."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.movedim(axis + 1, 1).flatten(2)


def _units(weight: Tensor, axis: int, groups: int) -> Tensor:
    """Weights of a layer that hands through each number that one output channel is made of."""
    parts = list(weight.shape)
    parts[0] //= groups if axis else 1
    del parts[axis]
    count = math.prod(parts)
    one = torch.eye(count, dtype=weight.dtype).reshape(1, count, *parts).movedim(1, axis + 1)
    return one.expand(groups, *one.shape[1:]).flatten(0, 1)


def _places(x: Tensor, channels: int, groups: int) -> Tensor:
    """What a layer gives, as [groups, channels / groups, rows and places]."""
    parted = x.movedim(channels, 0).flatten(1)
    return parted.reshape(groups, len(parted) // groups, -1)


def _learn(decision: Decided, weight: Tensor, error: _ErrorForm, chosen: Rounding) -> Tensor:
    shape = [1] * weight.ndim
    if decision.ch_axis is not None:
        shape[decision.ch_axis] = -1
    scale = decision.scale.reshape(shape)
    floor = torch.floor(weight / scale)
    part = (weight / scale - floor).clamp(1e-4, 1 - 1e-4)
    logits = torch.logit((part - _LOW) / (_HIGH - _LOW)).detach().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=chosen.rate, fused=True)
    for step in range(chosen.steps):
        up = _rectified_sigmoid(logits)
        soft = torch.clamp(floor + up, decision.quant_min, decision.quant_max) * scale
        loss = error(soft - weight)
        progress = (step / chosen.steps - chosen.warm_up) / (1 - chosen.warm_up)
        if progress > 0:
            beta = chosen.softest + (chosen.sharpest - chosen.softest) * progress
            loss = loss + chosen.weight * (1 - (2 * up - 1).abs().pow(beta)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
    up = (_rectified_sigmoid(logits.detach()) >= 0.5).to(weight.dtype)
    return torch.clamp(floor + up, decision.quant_min, decision.quant_max) * scale


def _better(moment: Moment, weight: Tensor, learned: Tensor, bias: Tensor | None) -> Tensor:
    """The learned weight, unless rounding to nearest gives a smaller error on all rows.

    Here the activation behind the layer counts: what it cuts off is no error.
    """
    ends = _RECTIFIERS.get(_only_reader(moment), (None, None))
    target = _rectified(moment.exact, ends)
    errors = [
        float((_rectified(moment.call(moment.x, w, bias), ends) - target).pow(2).sum())
        for w in (learned, moment.decision(weight))
    ]
    return learned if errors[0] < errors[1] else weight


def _only_reader(moment: Moment) -> object:
    users = list(moment.layer.node.users)
    return users[0].target if len(users) == 1 else None


def _rectified(x: Tensor, ends: tuple[float | None, float | None]) -> Tensor:
    return x if ends == (None, None) else torch.clamp(x, *ends)


def _rectified_sigmoid(logits: Tensor) -> Tensor:
    return torch.clamp(torch.sigmoid(logits) * (_HIGH - _LOW) + _LOW, 0, 1)
