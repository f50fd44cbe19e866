"""From a module to a functional ATen graph with a free batch axis, ready to be quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from skerry.converter.quantize.constants import add_constant, constant
from skerry.devices.errors import InputError

__all__ = ["capture", "export", "set_inference"]

_aten = torch.ops.aten
_FUNCTIONAL: dict[object, torch._ops.OpOverload] = {
    _aten.add_.Tensor: _aten.add.Tensor,
    _aten.clamp_.default: _aten.clamp.default,
    _aten.hardtanh_.default: _aten.hardtanh.default,
    _aten.mul_.Tensor: _aten.mul.Tensor,
    _aten.relu6_.default: _aten.relu6.default,
    _aten.relu_.default: _aten.relu.default,
    _aten.sub_.Tensor: _aten.sub.Tensor,
}
_NOTHING_AT_INFERENCE = {
    _aten.alias.default,
    _aten.clone.default,
    _aten.detach.default,
    _aten.dropout.default,
    _aten.dropout_.default,
    _aten.feature_dropout.default,
}


def export(
    module: nn.Module, example: Sequence[Tensor], *, free_batch: bool
) -> torch.export.ExportedProgram:
    """Trace `module` with axis 0 of every input free, or fixed to the example's.

    Raises:
        InputError: the module cannot be traced so.
    """
    rows = tuple(_at_least_two(x) for x in example) if free_batch else tuple(example)
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in rows) if free_batch else None
    try:
        with torch.no_grad():
            return torch.export.export(module, rows, dynamic_shapes=shapes)
    except Exception as error:
        raise InputError(
            f"torch.export cannot trace the model: {str(error).splitlines()[0]}",
            where="source",
            remedy="keep data-dependent control flow and fixed batch sizes out of forward()",
        ) from error


def _at_least_two(x: Tensor) -> Tensor:
    """One row would be taken for a constant of the program."""
    return x if x.shape[0] > 1 else torch.cat([x, x])


def capture(module: nn.Module, example: Sequence[Tensor]) -> GraphModule:
    """The module as a graph without in-place operations, dropout or checks.

    Poolings are written in the form that every format has a lowering for.

    Args:
        module: in eval mode; its parameters are copied, not shared.
        example: one tensor per input, axis 0 the batch.

    Raises:
        InputError: the module cannot be traced.
    """
    graph_module = export(module, example, free_batch=True).module(check_guards=False)
    if not isinstance(graph_module, GraphModule):
        raise InputError("torch.export gave no graph", where="source")
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function":
            _simplify(graph_module.graph, node)
    for node in list(graph_module.graph.nodes):
        if node.target is _aten.matmul.default:
            _as_linear(graph_module, node)
    graph_module.graph.eliminate_dead_code()
    graph_module.graph.lint()
    graph_module.recompile()
    set_inference(graph_module)
    return graph_module


def set_inference(module: nn.Module) -> None:
    """Mark every part as in eval mode. A traced graph has fixed what that means."""
    for part in module.modules():
        part.training = False


def _simplify(graph: Graph, node: Node) -> None:
    x = node.args[0] if node.args else None
    if node.target in _FUNCTIONAL:
        node.target = _FUNCTIONAL[node.target]
    elif isinstance(x, Node) and (node.target in _NOTHING_AT_INFERENCE or _casts_nothing(node, x)):
        node.replace_all_uses_with(x)
        graph.erase_node(node)
    elif node.target is _aten._assert_tensor_metadata.default:
        graph.erase_node(node)
    elif isinstance(x, Node) and _averages_everything(node, x):
        # A mean has a scale of its own, and a pooling keeps that of its input, which loses bits.
        # Adaptive pooling is also lowered to gathers where its input is channels-last in memory.
        node.target, node.args = _aten.mean.dim, (x, [-1, -2], True)
    elif node.target is _aten.max_pool2d.default and len(node.args) == 2:
        node.args = (*node.args, node.args[1])  # Core ML wants the stride said


def _averages_everything(node: Node, x: Node) -> bool:
    """Whether it is an average over all positions of each channel."""
    given: tuple[Any, ...] = node.args
    if node.target is _aten.adaptive_avg_pool2d.default:
        return given[1] in ([1, 1], [1])
    if node.target is not _aten.avg_pool2d.default:
        return False
    padding = given[3] if len(given) > 3 else ()
    divisor = given[6] if len(given) > 6 else None
    whole = list(given[1]) == list(x.meta["val"].shape[-2:])
    return whole and not any(padding) and divisor is None


def _casts_nothing(node: Node, x: Node) -> bool:
    """Whether it is a cast to the dtype that the tensor has. Imported graphs are full of them."""
    if node.target is not _aten.to.dtype:
        return False
    before, after = x.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    return before.dtype == after.dtype


def _as_linear(graph_module: GraphModule, node: Node) -> None:
    """A product with a constant matrix is a linear layer."""
    x, matrix = node.args
    if not isinstance(x, Node) or not isinstance(matrix, Node) or matrix.op != "get_attr":
        return
    value = constant(graph_module, matrix)
    if value.ndim == 2 and x.op != "get_attr":
        hint = f"{matrix.target}_transposed"
        weight = add_constant(graph_module, node, hint, value.T.contiguous())
        node.target, node.args = _aten.linear.default, (x, weight)
