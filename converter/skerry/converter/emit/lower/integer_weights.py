"""Store weights as int8, with a Cast and a Mul back to float32 behind them.

An engine folds the two when it loads the file: a quarter of the bytes, the speed of float32. A
DequantizeLinear would be kept, and computed again on every call.
"""

from __future__ import annotations

import onnx_ir as ir

from skerry.converter.emit.lower.constants import with_constant
from skerry.converter.emit.lower.weights import Weight, integers, weights

__all__ = ["apply", "find"]


def find(graph: ir.Graph) -> tuple[Weight, ...]:
    """Every weight to store so. Changes nothing."""
    return weights(graph)


def apply(graph: ir.Graph, instructions: tuple[Weight, ...], limit: int = 127) -> None:
    """Carry the instructions out; the largest integer is `limit`."""
    for weight in instructions:
        tensor = weight.value.const_value
        if tensor is None:
            continue
        stored, scale = integers(tensor.numpy(), weight.kept, limit)
        name = weight.value.name or ""
        codes = with_constant(graph, f"{name}_int8", stored)
        scales = with_constant(graph, f"{name}_scale", scale)
        cast = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT.value}, name=f"{name}_cast")
        product = ir.node("Mul", [cast.outputs[0], scales], name=f"{name}_scaled")
        cast.outputs[0].name, product.outputs[0].name = f"{name}_codes", f"{name}_float"
        graph.insert_before(weight.node, [cast, product])
        weight.node.replace_input_with(weight.position, product.outputs[0])
