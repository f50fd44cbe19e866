"""Bias correction (Nagel et al. 2019, section 4.2, with data): rounding must not shift a channel.

A layer's bias takes up the mean difference between its float and its rounded output; layers behind
it see the repaired one.
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from skerry.converter.quantize.constants import constant, set_constant
from skerry.converter.quantize.twin import Moment

__all__ = ["correct_bias"]


def correct_bias(decided: GraphModule, moment: Moment) -> None:
    """Correct, in place, the bias of the layer that two runs have reached, if it has one."""
    layer = moment.layer
    if layer.bias is None:
        return
    weight = moment.decision(constant(decided, layer.weight))
    bias = constant(decided, layer.bias)
    shift = moment.exact - moment.call(moment.x, weight, bias)
    is_linear = layer.node.target is torch.ops.aten.linear.default
    channel = shift.ndim - 1 if is_linear else 1
    others = [axis for axis in range(shift.ndim) if axis != channel]
    set_constant(decided, layer.bias, bias + shift.mean(dim=others))
