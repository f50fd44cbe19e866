"""Nodes said more plainly, so that a later change of widths carries through them."""

from __future__ import annotations

from math import prod

import onnx
import onnx.shape_inference
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

__all__ = ["say_flatten"]

_LARGEST = 1 << 30  # bytes of a model that shape inference, which serialises it, can take


def say_flatten(model: ModelProto) -> None:
    """Turn a Reshape to [rows, all the rest] into a Flatten, in place.

    A Reshape has the number of features written into it, and would be wrong once layers before it
    are pruned; a Flatten has not.
    """
    if model.ByteSize() > _LARGEST:
        return
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return  # what cannot be inferred stays as it is
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    shapes = {item.name: _shape(item) for item in values}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.domain in ("", "ai.onnx") and _flattens(node, shapes):
            node.CopyFrom(
                helper.make_node("Flatten", node.input[:1], node.output, node.name, axis=1)
            )


def _flattens(node: NodeProto, shapes: dict[str, list[int | None]]) -> bool:
    before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
    if len(before) < 3 or len(after) != 2 or after[1] is None:
        return False
    rest = [length for length in before[1:] if length is not None]
    return len(rest) == len(before) - 1 and prod(rest) == after[1] > 0


def _shape(item: ValueInfoProto) -> list[int | None]:
    return [
        axis.dim_value if axis.WhichOneof("value") == "dim_value" else None
        for axis in item.type.tensor_type.shape.dim
    ]
