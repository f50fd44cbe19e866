"""AdaRound (Nagel et al. 2020, Up or Down?): learn which way each weight rounds.

For each layer in turn, on what the rounded layers before it give: minimise the squared error of
its output over the rounding of its weights, relaxed by a rectified sigmoid that a regulariser
drives to 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from skerry.converter.quantize.constants import constant, set_constant
from skerry.converter.quantize.twin import Moment

__all__ = ["Rounding", "learn_rounding"]

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
        batch: rows of a step.
        rate: of Adam.
        weight: of the regulariser.
        warm_up: share of the steps before the regulariser sets in.
        sharpest, softest: its exponent, annealed from softest to sharpest.
    """

    steps: int = 300
    batch: int = 32
    rate: float = 1e-2
    weight: float = 0.01
    warm_up: float = 0.2
    sharpest: float = 2.0
    softest: float = 20.0


def learn_rounding(
    decided: GraphModule,
    moment: Moment,
    generator: torch.Generator,
    rounding: Rounding | None = None,
) -> None:
    """Move, in place, the weight of the layer that two runs have reached onto learned integers.

    Args:
        decided: the graph of a `QuantizedModel`; its scales stay as decided.
        generator: of the choice of rows.
        rounding: how long and how hard to learn.
    """
    layer = moment.layer
    weight = constant(decided, layer.weight)
    bias = None if layer.bias is None else constant(decided, layer.bias)
    with torch.enable_grad():
        learned = _learn(moment, weight, bias, rounding or Rounding(), generator)
    set_constant(decided, layer.weight, learned)


def _learn(
    moment: Moment,
    weight: Tensor,
    bias: Tensor | None,
    chosen: Rounding,
    generator: torch.Generator,
) -> Tensor:
    decision = moment.decision
    shape = [1] * weight.ndim
    if decision.ch_axis is not None:
        shape[decision.ch_axis] = -1
    scale = decision.scale.reshape(shape)
    floor = torch.floor(weight / scale)
    part = (weight / scale - floor).clamp(1e-4, 1 - 1e-4)
    logits = torch.logit((part - _LOW) / (_HIGH - _LOW)).detach().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=chosen.rate)
    ends = _RECTIFIERS.get(_only_reader(moment), (None, None))
    target = _rectified(moment.exact, ends)
    size = target.pow(2).mean().clamp_min(1e-12)
    for step in range(chosen.steps):
        picks = torch.randint(len(moment.x), (chosen.batch,), generator=generator)
        up = _rectified_sigmoid(logits)
        soft = torch.clamp(floor + up, decision.quant_min, decision.quant_max) * scale
        result = _rectified(moment.call(moment.x[picks], soft, bias), ends)
        loss = (result - target[picks]).pow(2).mean() / size
        progress = (step / chosen.steps - chosen.warm_up) / (1 - chosen.warm_up)
        if progress > 0:
            beta = chosen.softest + (chosen.sharpest - chosen.softest) * progress
            loss = loss + chosen.weight * (1 - (2 * up - 1).abs().pow(beta)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimiser.step()
    up = (_rectified_sigmoid(logits.detach()) >= 0.5).to(weight.dtype)
    learned = torch.clamp(floor + up, decision.quant_min, decision.quant_max) * scale
    return _better(moment, weight, learned, bias, ends, target)


def _better(
    moment: Moment,
    weight: Tensor,
    learned: Tensor,
    bias: Tensor | None,
    ends: tuple[float | None, float | None],
    target: Tensor,
) -> Tensor:
    """The learned weight, unless rounding to nearest gives a smaller error on all rows."""
    with torch.no_grad():
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
