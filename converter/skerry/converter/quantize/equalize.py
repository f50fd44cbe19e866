"""Cross-layer equalization (Nagel et al. 2019, Data-Free Quantization, section 4.1).

Where one layer feeds another through at most a ReLU, channel i of the first may be divided by any
positive number and the second's weights for it multiplied by the same. Chosen so that both weights
span alike, one scale for a whole weight loses less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from skerry.converter.quantize.constants import constant, set_constant
from skerry.converter.quantize.patterns import Layer, layer_of

__all__ = ["Pair", "equalize", "find_pairs"]

_SWEEPS = 20  # each evens out neighbours; chains of layers need several
_WIDEST = 1e4  # largest factor of one channel, so that a dead channel does not explode
_RELU = torch.ops.aten.relu.default


@dataclass(frozen=True, slots=True)
class Pair:
    """Two layers between which channels can be rescaled."""

    first: Layer
    second: Layer


def find_pairs(graph_module: GraphModule) -> tuple[Pair, ...]:
    """Every such pair, in graph order. Changes nothing."""
    found = []
    for node in graph_module.graph.nodes:
        second = layer_of(node)
        if second is None:
            continue
        source = _through_relu(second.x)
        first = layer_of(source) if source is not None else None
        if first is None or len(first.weight.users) > 1 or len(second.weight.users) > 1:
            continue
        if _inputs(graph_module, second) is not None and first.axis == 0 and second.axis == 0:
            found.append(Pair(first, second))
    return tuple(found)


def equalize(graph_module: GraphModule) -> None:
    """Even out, in place, the weights of every pair. The function stays the same."""
    pairs = find_pairs(graph_module)
    for _ in range(_SWEEPS if pairs else 0):
        for pair in pairs:
            _even_out(graph_module, pair)


def _through_relu(x: Node) -> Node | None:
    """The producer of `x`, one ReLU apart at most, if nothing else reads what is between."""
    if len(x.users) != 1:
        return None
    if x.target is not _RELU:
        return x
    before = x.args[0]
    return before if isinstance(before, Node) and len(before.users) == 1 else None


def _inputs(graph_module: GraphModule, layer: Layer) -> Tensor | None:
    """The weight as [input channels, everything else], or None where groups mix otherwise."""
    weight = constant(graph_module, layer.weight)
    groups = layer.node.args[6] if len(layer.node.args) > 6 else 1
    if groups == 1:
        return weight.transpose(0, 1).flatten(1)
    return weight.flatten(1) if weight.shape[0] == groups and weight.shape[1] == 1 else None


def _even_out(graph_module: GraphModule, pair: Pair) -> None:
    first = constant(graph_module, pair.first.weight)
    second = constant(graph_module, pair.second.weight)
    incoming = _inputs(graph_module, pair.second)
    if incoming is None or len(incoming) != len(first):
        return
    mine, theirs = first.flatten(1).abs().amax(1), incoming.abs().amax(1)
    factor = torch.sqrt(mine / theirs).clamp(1 / _WIDEST, _WIDEST)
    factor = torch.where((mine > 0) & (theirs > 0), factor, torch.ones_like(factor))
    set_constant(graph_module, pair.first.weight, first / _along(factor, first, 0))
    if pair.first.bias is not None:
        set_constant(
            graph_module, pair.first.bias, constant(graph_module, pair.first.bias) / factor
        )
    axis = 0 if second.shape[1] == 1 and second.shape[0] == len(factor) else 1
    set_constant(graph_module, pair.second.weight, second * _along(factor, second, axis))


def _along(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    shape = [1] * weight.ndim
    shape[axis] = -1
    return factor.reshape(shape)
