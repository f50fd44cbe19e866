"""Biases must fit into 32 bits: engines keep them as integers at the scale of input times weight.

A bias far above all that its channel's weights can add would not. The channel's weights then take
coarser steps, which the step of the layer's output hides (as ONNX Runtime's own quantizer does).
"""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from skerry.converter.quantize.constants import constant
from skerry.converter.quantize.ranges import ACTIVATION_MAX
from skerry.converter.quantize.twin import decided_layer, decision_of

__all__ = ["fit_biases"]

_LARGEST_BIAS = 2.0**30  # half of what int32 holds; bias correction and training move biases yet


def fit_biases(decided: GraphModule, *, per_channel: bool) -> None:
    """Raise, in place, every weight's scale to what its layers' biases need.

    Layers with 16-bit activations are left alone, for their biases have 64 bits; and transposed
    convolutions, whose scales do not count the channels of the bias.

    Args:
        decided: a graph with a `Decided` at each quantized tensor.
        per_channel: whether the channels of a weight have scales of their own.
    """
    for node in decided.graph.nodes:
        found = decided_layer(decided, node)
        if found is None:
            continue
        layer, weight = found
        if layer.bias is None:
            continue
        x = decision_of(decided, layer.x)
        bias = constant(decided, layer.bias).abs().double()
        if x is None or x.quant_max > ACTIVATION_MAX or weight.ch_axis != layer.axis:
            continue
        needed = bias / (_LARGEST_BIAS * x.scale.double())
        if not per_channel:
            needed = needed.max().expand_as(needed)
        weight.scale = torch.maximum(weight.scale, needed.float())
