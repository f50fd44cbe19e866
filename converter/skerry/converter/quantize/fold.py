"""Fold what is linear behind a layer into it: batch norms, and constants multiplied or added.

Exact but for rounding. Converters from other frameworks leave a batch norm as a multiplication and
an addition, which between two layers would keep activations in floating point.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from skerry.converter.quantize.constants import constant, fold_constants, set_bias, set_constant
from skerry.converter.quantize.patterns import Layer, layer_of

__all__ = ["fold_linear"]

_aten = torch.ops.aten
_NORM = _aten.batch_norm.default
_EPSILON = 7  # position among the arguments of batch_norm
_Affine = tuple[Tensor, Tensor]  # factor and offset, each [channels]


def fold_linear(graph_module: GraphModule) -> None:
    """Fold, in place, whatever alone reads a layer whose weight that layer alone uses."""
    fold_constants(graph_module)
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        for read in node.all_input_nodes:
            layer = layer_of(read)
            if layer is None or len(read.users) > 1 or len(layer.weight.users) > 1:
                continue
            affine = _affine(graph_module, node, layer)
            if affine is not None:
                _fold(graph_module, layer, *affine)
                node.replace_all_uses_with(read)
                graph.erase_node(node)
                break
    graph.eliminate_dead_code()
    graph_module.recompile()


def _affine(graph_module: GraphModule, node: Node, layer: Layer) -> _Affine | None:
    """What `node` does to each channel of the layer's output, or None if it does more."""
    channels = constant(graph_module, layer.weight).shape[layer.axis]
    shape = layer.node.meta["val"].shape
    position = len(shape) - 1 if layer.node.target is _aten.linear.default else 1
    if shape[position] != channels:
        return None  # a transposed convolution in groups
    if node.target is _NORM:
        return _norm(graph_module, node) if position == 1 and node.args[0] is layer.node else None
    if node.target not in (_aten.mul.Tensor, _aten.add.Tensor, _aten.sub.Tensor, _aten.div.Tensor):
        return None
    if node.kwargs or node.meta["val"].shape != shape:
        return None
    left, right = node.args
    other = right if left is layer.node else left
    value = _by_channel(graph_module, other, channels, position, len(shape))
    if value is None or (left is right):
        return None
    one, none = torch.ones_like(value), torch.zeros_like(value)
    if node.target is _aten.mul.Tensor:
        return value, none
    if node.target is _aten.add.Tensor:
        return one, value
    if node.target is _aten.sub.Tensor:
        return (one, -value) if other is right else (-one, value)
    return (1 / value, none) if other is right else None


def _by_channel(
    graph_module: GraphModule, other: object, channels: int, position: int, rank: int
) -> Tensor | None:
    """A constant as [channels], or None if it is none or varies along another axis."""
    if isinstance(other, int | float):
        return torch.full((channels,), float(other))
    if not isinstance(other, Node) or other.op != "get_attr":
        return None
    value = constant(graph_module, other)
    if not value.is_floating_point() or value.ndim > rank:
        return None
    value = value.reshape([1] * (rank - value.ndim) + list(value.shape))
    if value.numel() == 1:
        return value.reshape(1).expand(channels).clone()
    return value.reshape(-1) if value.shape[position] == value.numel() == channels else None


def _norm(graph_module: GraphModule, norm: Node) -> _Affine | None:
    gain, shift, mean, variance = (
        constant(graph_module, read) if isinstance(read, Node) else None for read in norm.args[1:5]
    )
    epsilon = norm.args[_EPSILON]
    if mean is None or variance is None or not isinstance(epsilon, float):
        return None
    factor = torch.rsqrt(variance + epsilon)
    factor = factor if gain is None else factor * gain
    return factor, -mean * factor if shift is None else shift - mean * factor


def _fold(graph_module: GraphModule, layer: Layer, factor: Tensor, offset: Tensor) -> None:
    weight = constant(graph_module, layer.weight)
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    set_constant(graph_module, layer.weight, weight * factor.reshape(shape))
    bias = constant(graph_module, layer.bias) * factor + offset if layer.bias else offset
    set_bias(graph_module, layer, bias)
