"""Quantize before a ReLU or Clip as well as behind it, where saturation cannot do its work.

Behind an activation whose zero point is not at the floor (a shared scale, as of a concatenation),
a layer would stay in floating point. The same parameters before it change nothing: quantizing is
monotone, and zero is exact. Then the layer fuses, and the activation alone is computed in float.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from skerry.converter.emit.lower.constants import array

__all__ = ["Split", "apply", "find"]

_LAYERS = {"Conv", "Gemm", "MatMul"}
_ACTIVATIONS = {"Relu", "Clip"}


@dataclass(frozen=True, slots=True)
class Split:
    """Put a quantization like `like` in front of `activation`."""

    activation: ir.Node
    like: ir.Node


def find(graph: ir.Graph) -> tuple[Split, ...]:
    """Every activation between a layer and equal quantizations. Changes nothing."""
    found = []
    for node in graph:
        if node.op_type not in _ACTIVATIONS or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        producer = source.producer()
        readers = [use.node for use in node.outputs[0].uses()]
        if producer is None or producer.op_type not in _LAYERS or len(source.uses()) != 1:
            continue
        if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
            continue
        weight = producer.inputs[1]
        if weight is None or weight.const_value is not None or not _is_narrow(readers[0]):
            continue  # left in floating point on purpose
        if len({_parameters(reader) for reader in readers}) == 1:
            found.append(Split(node, readers[0]))
    return tuple(found)


def apply(graph: ir.Graph, instructions: tuple[Split, ...]) -> None:
    """Carry the instructions out."""
    for instruction in instructions:
        node = instruction.activation
        name = f"{node.outputs[0].name}_before"
        parameters = list(instruction.like.inputs[1:])
        quantize = ir.node("QuantizeLinear", [node.inputs[0], *parameters], name=f"{name}_q")
        restore = ir.node("DequantizeLinear", [quantize.outputs[0], *parameters], name=f"{name}_dq")
        quantize.outputs[0].name, restore.outputs[0].name = f"{name}_codes", name
        graph.insert_before(node, [quantize, restore])
        node.replace_input_with(0, restore.outputs[0])


def _is_narrow(node: ir.Node) -> bool:
    """Whether it gives integers of 8 bits."""
    zero_point = array(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero_point is None or zero_point.dtype.itemsize == 1


def _parameters(node: ir.Node) -> tuple[bytes, ...]:
    found = (array(value) for value in node.inputs[1:])
    return tuple(b"" if value is None else value.tobytes() for value in found)
