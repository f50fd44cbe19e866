"""Drop a ReLU or Clip whose readers all quantize, where saturation does the same.

Quantizing clamps to the integers' range. Where zero is the lowest integer (and, for a Clip, its
upper end the highest), clamping before it changes nothing; and ONNX Runtime fuses a convolution
only with the quantization right behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from skerry.converter.emit.lower.constants import Quantization, quantization, scalar

__all__ = ["Absorb", "apply", "find"]


@dataclass(frozen=True, slots=True)
class Absorb:
    """Give the readers of `node` its input instead."""

    node: ir.Node


def find(graph: ir.Graph) -> tuple[Absorb, ...]:
    """Every activation that can go. Changes nothing."""
    return tuple(Absorb(node) for node in graph if _is_redundant(node))


def apply(graph: ir.Graph, instructions: tuple[Absorb, ...]) -> None:
    """Carry the instructions out."""
    for instruction in instructions:
        node = instruction.node
        source = node.inputs[0]
        if source is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            graph.remove(node, safe=True)


def _is_redundant(node: ir.Node) -> bool:
    ends = _ends(node)
    output = node.outputs[0]
    readers = [use.node for use in output.uses()]
    if ends is None or not readers or output.is_graph_output():
        return False
    return all(
        reader.op_type == "QuantizeLinear" and _saturates(quantization(reader), *ends)
        for reader in readers
    )


def _ends(node: ir.Node) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    low = scalar(node.inputs[1]) if len(node.inputs) > 1 else -np.inf
    high = scalar(node.inputs[2]) if len(node.inputs) > 2 else np.inf
    return None if low is None or high is None else (low, high)


def _saturates(to: Quantization | None, low: float, high: float) -> bool:
    """Whether every value beyond low or high becomes the integer that the end itself becomes."""
    if to is None:
        return False
    at_low = -np.inf if low == -np.inf else to.zero_point + np.round(low / to.scale)
    at_high = np.inf if high == np.inf else to.zero_point + np.round(high / to.scale)
    return bool(at_low <= to.lowest and at_high >= to.highest)
