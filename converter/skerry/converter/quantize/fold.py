"""Fold a batch norm into the convolution or linear layer before it. Exact but for rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from skerry.converter.quantize.patterns import Layer, layer_of

__all__ = ["constant", "fold_norms", "set_bias", "set_constant"]

_NORM = torch.ops.aten.batch_norm.default
_EPSILON = 7  # position among the arguments of batch_norm


def constant(graph_module: GraphModule, node: Node) -> Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    path, _, name = str(node.target).rpartition(".")
    value: Tensor = getattr(graph_module.get_submodule(path), name)
    return value.detach()


def set_constant(graph_module: GraphModule, node: Node, value: Tensor) -> None:
    """Put another parameter where a `get_attr` node reads."""
    path, _, name = str(node.target).rpartition(".")
    holder = graph_module.get_submodule(path)
    if name in holder._buffers:
        del holder._buffers[name]
    setattr(holder, name, nn.Parameter(value, requires_grad=False))


def set_bias(graph_module: GraphModule, layer: Layer, value: Tensor) -> None:
    """Give a layer this bias, [output channels], whether or not it had one."""
    if layer.bias is not None:
        set_constant(graph_module, layer.bias, value)
        return
    name = f"{str(layer.weight.target).replace('.', '_')}_bias"
    graph_module.register_parameter(name, nn.Parameter(value, requires_grad=False))
    with graph_module.graph.inserting_before(layer.node):
        added = graph_module.graph.get_attr(name)
    layer.node.args = (*layer.node.args[:2], added, *layer.node.args[3:])


def fold_norms(graph_module: GraphModule) -> None:
    """Fold, in place, every batch norm that alone reads a layer whose weight it alone uses."""
    graph = graph_module.graph
    for norm in list(graph.nodes):
        if norm.op != "call_function" or norm.target is not _NORM:
            continue
        layer = layer_of(norm.args[0])
        if layer is None or len(layer.node.users) > 1 or len(layer.weight.users) > 1:
            continue
        if (
            layer.node.meta["val"].shape[1]
            != constant(graph_module, layer.weight).shape[layer.axis]
        ):
            continue  # the norm's channels are not the weight's
        if layer.node.target is torch.ops.aten.linear.default and layer.node.meta["val"].ndim > 2:
            continue
        _fold(graph_module, layer, norm)
        norm.replace_all_uses_with(layer.node)
        graph.erase_node(norm)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _fold(graph_module: GraphModule, layer: Layer, norm: Node) -> None:
    gain, shift, mean, variance = (
        constant(graph_module, read) if isinstance(read, Node) else None for read in norm.args[1:5]
    )
    epsilon = norm.args[_EPSILON]
    if mean is None or variance is None or not isinstance(epsilon, float):
        return
    factor = torch.rsqrt(variance + epsilon)
    factor = factor if gain is None else factor * gain
    weight = constant(graph_module, layer.weight)
    shape = [1] * weight.ndim
    shape[layer.axis] = -1
    set_constant(graph_module, layer.weight, weight * factor.reshape(shape))
    bias = constant(graph_module, layer.bias) if layer.bias else torch.zeros_like(mean)
    offset = shift if shift is not None else torch.zeros_like(mean)
    set_bias(graph_module, layer, (bias - mean) * factor + offset)
