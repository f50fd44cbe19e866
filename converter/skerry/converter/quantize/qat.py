"""Quantization-aware training: from where calibration left it, on the graph that is emitted.

Batch norms were folded into their layers before calibration, so there are no statistics left to
freeze: training sees the very arithmetic that the artifacts run, from the first step on. (Training
with live batch norms and folding later would move every weight scale at the fold.) Rounding passes
gradients straight through, and scales are trained in their logarithm (Esser et al., "Learned Step
Size Quantization", 2020), so that a step is a share of the scale, however small that is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from skerry.converter.quantize.constants import constant, set_constant
from skerry.converter.quantize.headroom import fit_biases
from skerry.converter.quantize.model import QuantizedModel
from skerry.converter.quantize.observers import Decided
from skerry.converter.quantize.patterns import layer_of

__all__ = ["Learning", "Trainable", "settled"]


class Learning(nn.Module):
    """A `Decided` whose scale is trained. Called, it rounds to its integers and back.

    Args:
        decided: where to begin. Its zero point stays.
        scales: whether the scale is trained, or stays too.
    """

    zero_point: Tensor

    def __init__(self, decided: Decided, *, scales: bool) -> None:
        super().__init__()
        self.axis = decided.ch_axis
        self.lowest, self.highest = decided.quant_min, decided.quant_max
        scale = decided.scale
        self._channels = scale.numel()
        # Where all channels have one scale, as per tensor, they go on having one.
        tied = scale.ndim == 1 and bool((scale == scale[0]).all())
        begin = (scale[:1] if tied else scale).log()
        self.log_scale = nn.Parameter(begin.clone(), requires_grad=scales)
        self.register_buffer("zero_point", decided.zero_point.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize `x`, any shape, float32."""
        scale, zero_point = self.log_scale.exp(), self.zero_point.to(x.dtype)
        if self.axis is not None:
            shape = [1] * x.ndim
            shape[self.axis] = -1
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        scaled = x / scale + zero_point
        rounded = scaled + (scaled.round() - scaled).detach()
        return (rounded.clamp(self.lowest, self.highest) - zero_point) * scale

    def decide(self) -> Decided:
        """The decision that training came to."""
        scale = self.log_scale.detach().exp()
        scale = scale.expand(self._channels).clone() if scale.ndim else scale
        return Decided(
            scale,
            self.zero_point,
            axis=self.axis,
            lowest=self.lowest,
            highest=self.highest,
        )


class Trainable(nn.Module):
    """A quantized model whose weights, biases and scales are parameters.

    Args:
        model: it is not changed.
        scales: whether scales are trained.
    """

    def __init__(self, model: QuantizedModel, *, scales: bool) -> None:
        super().__init__()
        self.graph = copy.deepcopy(model.decided)
        for node in self.graph.graph.nodes:
            self._free(node)
        _exchange(self.graph, Decided, lambda one: Learning(one, scales=scales))

    def forward(self, *inputs: Tensor) -> Any:
        """The fake-quantized outputs of inputs as callers pass them."""
        return self.graph(*inputs)

    def train(self, mode: bool = True) -> Trainable:
        """A traced graph has no modes."""
        self.training = mode
        return self

    def _free(self, node: Node) -> None:
        """Make a layer's constants parameters."""
        behind = node.args[1] if len(node.args) > 1 else None
        if isinstance(behind, Node) and behind.op == "call_module":
            behind = behind.args[0]
        layer = layer_of(node, weight=behind if isinstance(behind, Node) else None)
        if layer is None:
            return
        for read in (layer.weight, layer.bias):
            if read is not None and read.op == "get_attr":
                set_constant(self.graph, read, constant(self.graph, read).clone())


def settled(trained: Trainable, model: QuantizedModel) -> QuantizedModel:
    """The quantized model that training came to, for every emitter."""
    graph = copy.deepcopy(trained.graph)
    _exchange(graph, Learning, Learning.decide)
    fit_biases(graph, per_channel=model.scheme.per_channel)
    for parameter in graph.parameters():
        parameter.requires_grad_(False)
    return QuantizedModel(graph, model.scheme, model.example)


def _exchange(graph: GraphModule, kind: type, make: Callable[[Any], nn.Module]) -> None:
    """Put another module in the place of each of that kind; one shared stays shared."""
    made: dict[int, nn.Module] = {}
    for name, part in list(graph.named_modules(remove_duplicate=False)):
        if isinstance(part, kind):
            if id(part) not in made:
                made[id(part)] = make(part)
            graph.set_submodule(name, made[id(part)])
    graph.recompile()
