"""Turn int8 activations to uint8: every zero point up by 128, every value with it. Exact.

On x86-64, ONNX Runtime leaves an int8 activation with several readers in floating point; as uint8
all of them run in integers. Weights stay int8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from skerry.converter.emit.lower.constants import array, with_constant

__all__ = ["Retype", "apply", "find"]

_SHIFT = 128


@dataclass(frozen=True, slots=True)
class Retype:
    """Give a Q or DQ node this uint8 zero point."""

    node: ir.Node
    zero_point: int


def find(graph: ir.Graph) -> tuple[Retype, ...]:
    """Every per-tensor int8 Q and DQ of an activation. Changes nothing."""
    found = []
    for node in graph:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
            continue
        zero_point = array(node.inputs[2])
        is_weight = node.inputs[0] is not None and node.inputs[0].const_value is not None
        if zero_point is None or zero_point.dtype != np.int8 or zero_point.size != 1 or is_weight:
            continue
        found.append(Retype(node, int(zero_point.reshape(()).item()) + _SHIFT))
    return tuple(found)


def apply(graph: ir.Graph, instructions: tuple[Retype, ...]) -> None:
    """Carry the instructions out."""
    for instruction in instructions:
        node = instruction.node
        content = np.array(instruction.zero_point, np.uint8)
        name = f"zero_point_u8_{instruction.zero_point}"
        node.replace_input_with(2, with_constant(graph, name, content))
        if node.op_type == "QuantizeLinear":
            node.outputs[0].dtype = ir.DataType.UINT8
