"""Keep layers that were left in floating point there, whatever the engine thinks of it.

ONNX Runtime quantizes float weights between a DequantizeLinear with one scale and a QuantizeLinear
by itself (WeightBiasQuantization, with one scale for the tensor), which undoes what mixed precision
decided. It leaves layers alone whose input has a scale for each channel; so such a layer reads the
same integers through a DequantizeLinear of its own, with the one scale repeated. Exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from skerry.converter.emit.lower.constants import array, with_constant

__all__ = ["Shield", "apply", "find"]

_CHANNEL_AXIS = 1
_LAYERS = {"Conv": 1, "ConvTranspose": 0, "Gemm": 0}  # → the axis of the weight that meets channels


@dataclass(frozen=True, slots=True)
class Shield:
    """Give `layer` a DequantizeLinear of its own in place of `dequantize`.

    Attributes:
        channels: how many scales it gets.
    """

    layer: ir.Node
    dequantize: ir.Node
    channels: int


def find(graph: ir.Graph) -> tuple[Shield, ...]:
    """Every layer with constant float weights that reads integers. Changes nothing."""
    found = []
    for node in graph:
        if node.op_type not in _LAYERS or node.inputs[0] is None:
            continue
        dequantize, weight = node.inputs[0].producer(), array(node.inputs[1])
        if dequantize is None or dequantize.op_type != "DequantizeLinear" or weight is None:
            continue
        scale = array(dequantize.inputs[1])
        if scale is not None and scale.size == 1:
            found.append(Shield(node, dequantize, _channels(node, weight.shape)))
    return tuple(found)


def apply(graph: ir.Graph, instructions: tuple[Shield, ...]) -> None:
    """Carry the instructions out."""
    for instruction in instructions:
        node, old = instruction.layer, instruction.dequantize
        scale, zero_point = array(old.inputs[1]), array(old.inputs[2])
        if scale is None or zero_point is None:
            continue
        count = instruction.channels
        name = f"{node.name or node.outputs[0].name}_input"
        inputs = [
            old.inputs[0],
            with_constant(graph, f"{name}_scale", np.repeat(scale.reshape(-1), count)),
            with_constant(graph, f"{name}_zero_point", np.repeat(zero_point.reshape(-1), count)),
        ]
        own = ir.node(
            "DequantizeLinear", inputs, {"axis": _CHANNEL_AXIS}, name=f"{name}_dequantize"
        )
        own.outputs[0].name = name
        graph.insert_before(node, own)
        node.replace_input_with(0, own.outputs[0])
    _drop_unread(graph)


def _channels(node: ir.Node, shape: tuple[int, ...]) -> int:
    if node.op_type == "Gemm":
        return shape[1 if node.attributes.get_int("transB", 0) else 0]
    groups = node.attributes.get_int("group", 1) or 1
    return shape[_LAYERS[node.op_type]] * (groups if node.op_type == "Conv" else 1)


def _drop_unread(graph: ir.Graph) -> None:
    for node in list(graph):
        read = any(output.uses() or output.is_graph_output() for output in node.outputs)
        if node.op_type == "DequantizeLinear" and not read:
            graph.remove(node, safe=True)
