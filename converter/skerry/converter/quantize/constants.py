"""Reading, writing and computing the constants of a traced graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from skerry.converter.quantize.patterns import Layer

__all__ = ["add_constant", "constant", "fold_constants", "set_bias", "set_constant"]


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


def add_constant(graph_module: GraphModule, before: Node, hint: str, value: Tensor) -> Node:
    """A new `get_attr` node in front of `before`, under a free name made from `hint`."""
    base = name = hint.replace(".", "_")
    taken = 0
    while hasattr(graph_module, name):
        taken += 1
        name = f"{base}_{taken}"
    graph_module.register_buffer(name, value)
    with graph_module.graph.inserting_before(before):
        node = graph_module.graph.get_attr(name)
    node.meta["val"] = value
    return node


def set_bias(graph_module: GraphModule, layer: Layer, value: Tensor) -> None:
    """Give a layer this bias, [output channels], whether or not it had one."""
    if layer.bias is not None:
        set_constant(graph_module, layer.bias, value)
        return
    hint = f"{layer.weight.target}_bias"
    added = add_constant(graph_module, layer.node, hint, value)
    layer.node.args = (*layer.node.args[:2], added, *layer.node.args[3:])


def fold_constants(graph_module: GraphModule) -> None:
    """Compute, in place, every operation that no input reaches, and keep the result instead."""
    graph = graph_module.graph
    for node in list(_computable(graph_module)):
        args = torch.fx.node.map_arg(node.args, lambda read: constant(graph_module, read))
        kwargs = torch.fx.node.map_arg(node.kwargs, lambda read: constant(graph_module, read))
        with torch.no_grad():
            value = node.target(*args, **kwargs)  # type: ignore[operator]  # an ATen function
        node.replace_all_uses_with(add_constant(graph_module, node, node.name, value.contiguous()))
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()


def _computable(graph_module: GraphModule) -> Iterator[Node]:
    """Operations on constants alone, each after those it needs (which are constants by then)."""
    for node in list(graph_module.graph.nodes):
        reads = node.all_input_nodes
        if (
            node.op == "call_function"
            and reads
            and all(read.op == "get_attr" for read in reads)
            and isinstance(node.meta.get("val"), Tensor)
            and all(isinstance(length, int) for length in node.meta["val"].shape)
        ):
            yield node
