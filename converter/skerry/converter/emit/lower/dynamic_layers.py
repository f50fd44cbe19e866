"""Run linear layers in integers with activations quantized as they come, row blocks at a time.

x [.., k] is quantized to uint8 by its own range, multiplied with the int8 weight in int32, and
scaled back: what ONNX Runtime fuses into one kernel. Convolutions are not touched: its
ConvInteger is slower than the float convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from skerry.converter.emit.lower.constants import with_constant
from skerry.converter.emit.lower.weights import integers, weights

__all__ = ["Dynamic", "apply", "find"]


@dataclass(frozen=True, slots=True)
class Dynamic:
    """Run this MatMul or Gemm so.

    Attributes:
        node: the layer.
        value: its weight.
        transposed: the weight is [output, input].
    """

    node: ir.Node
    value: ir.Value
    transposed: bool


def find(graph: ir.Graph) -> tuple[Dynamic, ...]:
    """Every linear layer with a constant matrix. Changes nothing."""
    found = []
    for weight in weights(graph):
        node = weight.node
        if node.op_type not in ("Gemm", "MatMul") or len(weight.value.shape or ()) != 2:
            continue
        plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
        if plain and not node.attributes.get_int("transA", 0):
            transposed = bool(node.attributes.get_int("transB", 0))
            found.append(Dynamic(node, weight.value, transposed))
    return tuple(found)


def apply(graph: ir.Graph, instructions: tuple[Dynamic, ...], limit: int = 127) -> None:
    """Carry the instructions out; the largest weight is `limit`.

    Layers that read the same activation quantize it once.
    """
    quantized: dict[ir.Value, ir.Node] = {}
    for instruction in instructions:
        node, value = instruction.node, instruction.value
        x = node.inputs[0]
        if value.const_value is None or x is None:
            continue
        if x not in quantized:
            name = f"{x.name}_dynamic"
            quantized[x] = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=name)
            for output, end in zip(quantized[x].outputs, ("", "_scale", "_zero"), strict=True):
                output.name = name + end
            graph.insert_before(node, quantized[x])
        _replace(graph, instruction, quantized[x], limit)


def _replace(graph: ir.Graph, instruction: Dynamic, quantize: ir.Node, limit: int) -> None:
    node, value = instruction.node, instruction.value
    tensor = value.const_value
    if tensor is None:
        return
    matrix = tensor.numpy().T if instruction.transposed else tensor.numpy()
    stored, scale = integers(matrix, (1,), limit)
    name = value.name or ""
    codes = with_constant(graph, f"{name}_int8", np.ascontiguousarray(stored))
    scales = with_constant(graph, f"{name}_scale", scale.reshape(-1))
    zero = with_constant(graph, "weight_zero_point", np.array(0, np.int8))
    x, x_scale, x_zero = quantize.outputs
    steps = [ir.node("MatMulInteger", [x, codes, x_zero, zero], name=f"{name}_product")]
    to_float = {"to": ir.DataType.FLOAT.value}
    steps.append(ir.node("Cast", [steps[-1].outputs[0]], to_float, name=f"{name}_cast"))
    steps.append(ir.node("Mul", [x_scale, scales], name=f"{name}_scales"))
    pair = [steps[1].outputs[0], steps[2].outputs[0]]
    steps.append(ir.node("Mul", pair, name=f"{name}_scaled"))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        steps.append(ir.node("Add", [steps[-1].outputs[0], bias], name=f"{name}_sum"))
    for step in steps:
        step.outputs[0].name = f"{step.name}_out"
    graph.insert_before(node, steps)
    old, new = node.outputs[0], steps[-1].outputs[0]
    old_name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, new.type, new.shape = old_name, old.type, old.shape
    graph.remove(node, safe=True)
