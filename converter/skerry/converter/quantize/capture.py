"""From a module to a functional ATen graph with a free batch axis, ready to be quantized."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from skerry.devices.errors import InputError

__all__ = ["capture", "export"]

_aten = torch.ops.aten
_FUNCTIONAL = {
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
        if node.op != "call_function":
            continue
        if node.target in _FUNCTIONAL:
            node.target = _FUNCTIONAL[node.target]
        elif node.target in _NOTHING_AT_INFERENCE:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
        elif node.target is _aten._assert_tensor_metadata.default:
            graph_module.graph.erase_node(node)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module
